//! Finding and opening translated flows.
//!
//! Both entries of a flow are written together but not at once, so a reader may see one without the other: a reply
//! without its opening is harmless, and the opening is inserted last.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_get_prandom_u32;
use weir_ebpf_common::{Address, Counter, DropReason, Flow, ServiceId, State, Tuple, limits};
use weir_packet::{Parsed, Transport, source_port, tracking};

use crate::frame::Skb;
use crate::maps::{self, CONNTRACK, Work};
use crate::verdict::{Policy, Route};

/// Readings of an entry before it counts as missing. The first fails only in the instant in which its memory is used again.
const READINGS: u32 = 2;

/// Whether the packet belongs to a flow, and if so, the tuple with which it leaves. Keeps the flow's state and time.
///
/// Both are written where they lie: exchanging the element would free the old one, which the map gives to the next
/// flow at once, and whoever is just reading it would read of that. (An element is freed that way only when its flow
/// is over, or the map full.)
#[inline(always)]
pub(crate) fn find(work: &mut Work, now: u64) -> bool {
    if work.packet.transport == Transport::Opaque {
        return false;
    }
    let Some(entry) = read(&work.packet.tuple, &mut work.flow) else { return false };
    if tracking::starts_over(&work.flow, work.packet.transport) || is_over(work, now) {
        forget(work);
        return false;
    }
    let (flow, transport) = (&work.flow, work.packet.transport);
    let state = tracking::advance(flow.state(), flow.is_reply(), transport);
    if state != flow.state() {
        touch(entry, state, now);
        if let Some(peer) = read_peer(work) {
            // SAFETY: as in `touch`.
            unsafe { (*peer).set_state(state) };
        }
    } else if now.saturating_sub(flow.last_seen()) > tracking::REFRESH {
        touch(entry, state, now);
    }
    work.leaves = *work.flow.leaves();
    true
}

/// Copies the flow that is kept under a key, and returns where it lies.
#[inline(always)]
fn read(key: &Tuple, flow: &mut Flow) -> Option<*mut Flow> {
    for _ in 0..READINGS {
        let entry = CONNTRACK.get_ptr_mut(key)?;
        // SAFETY: the kernel keeps the element's memory while the program runs. It may become another flow's meanwhile,
        // so the value is copied at once, and looked at afterwards.
        *flow = unsafe { *entry };
        if flow.is_of(key) {
            return Some(entry);
        }
    }
    None
}

#[inline(always)]
fn touch(entry: *mut Flow, state: State, now: u64) {
    // SAFETY: as in `read`. If the element has become another flow's in the instant since, that one looks a little
    // younger, or in a state that its next packets correct.
    unsafe {
        (*entry).set_state(state);
        (*entry).set_last_seen(now);
    }
}

/// What a flow is to be opened with.
pub(crate) struct Opening {
    pub(crate) service: ServiceId,
    /// The client's address as the backend is to see it.
    pub(crate) source: Address,
    /// Whether the client's own port will do, if it is free.
    pub(crate) keep_port: bool,
    pub(crate) backend: Address,
    pub(crate) backend_port: u16,
}

/// Opens a flow for a packet that has none, and sets the tuple with which it leaves.
#[inline(always)]
pub(crate) fn open(work: &mut Work, opening: &Opening, now: u64) -> Result<(), DropReason> {
    let backend = (opening.backend, opening.backend_port);
    let mut port = work.packet.tuple.source_port();
    let mut is_free = opening.keep_port;
    for _ in 0..limits::SOURCE_PORT_TRIES {
        if is_free {
            let arrives = &work.packet.tuple;
            work.leaves = Tuple::new(arrives.protocol(), (opening.source, port), backend);
            work.peer_key = work.leaves.reversed();
            work.peer = Flow::reply(&work.peer_key, arrives, opening.service, now);
            if claim(work, now)? {
                return publish(work, opening.service, now);
            }
        }
        // SAFETY: a plain call.
        port = source_port::from_random(unsafe { bpf_get_prandom_u32() });
        is_free = true;
    }
    Err(DropReason::SourcePortsExhausted)
}

/// Inserts the opening direction of a flow whose answers are claimed.
#[inline(always)]
fn publish(work: &mut Work, service: ServiceId, now: u64) -> Result<(), DropReason> {
    work.flow = Flow::forward(&work.packet.tuple, work.leaves, service, now);
    if CONNTRACK.insert(&work.packet.tuple, &work.flow, u64::from(BPF_ANY)).is_err() {
        let _ = CONNTRACK.remove(&work.peer_key);
        return Err(DropReason::ConntrackFull);
    }
    maps::count(Counter::FlowsOpened);
    Ok(())
}

/// Takes the answers' tuple for a new flow. False when another flow has it.
#[inline(always)]
fn claim(work: &mut Work, now: u64) -> Result<bool, DropReason> {
    if CONNTRACK.insert(&work.peer_key, &work.peer, u64::from(BPF_NOEXIST)).is_ok() {
        return Ok(true);
    }
    if read(&work.peer_key, &mut work.flow).is_none() {
        return Err(DropReason::ConntrackFull);
    }
    // Left over from this very flow, or from one that is done.
    if work.flow.leaves() == work.peer.leaves() || tracking::is_silent(&work.flow, now) {
        let replaced = CONNTRACK.insert(&work.peer_key, &work.peer, u64::from(BPF_ANY));
        return replaced.map(|()| true).map_err(|_| DropReason::ConntrackFull);
    }
    Ok(false)
}

/// Silent in both directions. The other one is only asked when this one is.
#[inline(always)]
fn is_over(work: &mut Work, now: u64) -> bool {
    tracking::is_silent(&work.flow, now)
        && (read_peer(work).is_none() || tracking::is_silent(&work.peer, now))
}

/// An entry that is gone already is as good as removed.
#[inline(always)]
fn forget(work: &mut Work) {
    // The answers' tuple may be another flow's by now: see `claim`.
    if read_peer(work).is_some() && work.peer.peer() == work.packet.tuple {
        let _ = CONNTRACK.remove(&work.peer_key);
    }
    let _ = CONNTRACK.remove(&work.packet.tuple);
}

/// Copies the entry of the flow's other direction, and returns where it lies.
#[inline(always)]
fn read_peer(work: &mut Work) -> Option<*mut Flow> {
    work.peer_key = work.flow.peer();
    read(&work.peer_key, &mut work.peer)
}

/// The policy of the egress hooks: answers of the node itself, whose client came by a service. What was forwarded has
/// been translated where it came in.
pub(crate) struct FromNode;

impl Policy for FromNode {
    #[inline(always)]
    fn decide(&self, skb: &Skb, work: &mut Work, now: u64) -> Result<Route, DropReason> {
        if skb.arrived_by() == 0 {
            find(work, now);
        }
        Ok(Route::Stack)
    }

    #[inline(always)]
    fn admit(&self, _parsed: &Parsed) -> Result<(), DropReason> {
        Ok(())
    }
}
