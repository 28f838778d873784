//! The maps. Sizes here are placeholders: the agent sets them from its configuration when it makes the maps.

use aya_ebpf::bindings::{bpf_fib_lookup, bpf_redir_neigh};
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use weir_ebpf_common::{
    Address, Counter, DropEvent, DropReason, Endpoint, Flow, Frontend, IfIndex, Link, Node, Peer, Service,
    ServiceId, ServiceName, Slot, SocketKey, Tuple,
};
use weir_packet::Packet;

/// Memory is taken as entries come, so that generous limits cost nothing.
const ON_DEMAND: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;

/// Where clients go → which table serves them.
#[btf_map]
pub(crate) static SERVICES: HashMap<Frontend, Service, 1024, ON_DEMAND> = HashMap::new();

/// All tables of backends side by side.
#[btf_map]
pub(crate) static SLOTS: Array<Slot, 1024> = Array::new();

/// Names of services, for people and for an agent that starts again. No program reads it.
#[btf_map]
pub(crate) static NAMES: HashMap<ServiceId, ServiceName, 1024, ON_DEMAND> = HashMap::new();

/// Translated flows, an entry for each direction.
#[btf_map]
pub(crate) static CONNTRACK: LruHashMap<Tuple, Flow, 1024> = LruHashMap::new();

/// (socket, frontend) → backend, of sockets that send without connecting.
#[btf_map]
pub(crate) static SOCKET_FORWARD: LruHashMap<SocketKey, Peer, 1024> = LruHashMap::new();

/// (socket, backend) → frontend, which is what the process is to see.
#[btf_map]
pub(crate) static SOCKET_REVERSE: LruHashMap<SocketKey, Peer, 1024> = LruHashMap::new();

/// Interface → the pod behind it.
#[btf_map]
pub(crate) static LINKS: HashMap<IfIndex, Link, 64, ON_DEMAND> = HashMap::new();

/// Pod address → the way to it.
#[btf_map]
pub(crate) static ENDPOINTS: HashMap<Address, Endpoint, 64, ON_DEMAND> = HashMap::new();

/// The node.
#[btf_map]
pub(crate) static NODE: Array<Node, 1> = Array::new();

/// What was done, by `Counter`.
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { Counter::CAPACITY }> = PerCpuArray::new();

/// What was dropped, by `DropReason`.
#[btf_map]
pub(crate) static DROPS: PerCpuArray<u64, { DropReason::CAPACITY }> = PerCpuArray::new();

/// Each drop, for whoever listens.
#[btf_map]
pub(crate) static EVENTS: RingBuf<DropEvent, 4096> = RingBuf::new();

/// Where packet programs keep what would overflow their stack of 512 bytes.
#[btf_map]
static WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

/// A packet in the making.
#[repr(C)]
pub(crate) struct Work {
    pub(crate) packet: Packet,
    /// The tuple with which the packet goes on.
    pub(crate) leaves: Tuple,
    /// The entry of the packet's own direction, and the key and entry of the other.
    pub(crate) flow: Flow,
    pub(crate) peer_key: Tuple,
    pub(crate) peer: Flow,
    pub(crate) endpoint: Endpoint,
    pub(crate) neighbour: Neighbour,
    pub(crate) query: bpf_fib_lookup,
}

/// The next machine on a packet's way.
#[repr(C)]
pub(crate) struct Neighbour {
    pub(crate) next_hop: bpf_redir_neigh,
    pub(crate) ifindex: u32,
}

/// This CPU's workspace. Packet programs neither nest nor change CPU, and each takes it once.
#[inline(always)]
pub(crate) fn work() -> Option<&'static mut Work> {
    let work = WORK.get_ptr_mut(0)?;
    // SAFETY: an element of an array map stays in place while the program runs, nobody else uses this one meanwhile,
    // and all zeros, as it is at first, is a value of the type.
    Some(unsafe { &mut *work })
}

/// Adds one.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    increment(COUNTERS.get_ptr_mut(counter as u32));
}

/// Adds one.
#[inline(always)]
pub(crate) fn count_drop(reason: DropReason) {
    increment(DROPS.get_ptr_mut(reason as u32));
}

#[inline(always)]
fn increment(cell: Option<*mut u64>) {
    if let Some(cell) = cell {
        // SAFETY: this CPU's own cell of a per-CPU array, which stays in place while the program runs.
        unsafe { *cell += 1 };
    }
}

/// The node's configuration.
#[inline(always)]
pub(crate) fn node() -> Option<&'static Node> {
    let node = NODE.get_ptr(0)?;
    // SAFETY: an element of an array map stays in place while the program runs.
    Some(unsafe { &*node })
}
