//! Where a packet goes, by the node's own routes.

use core::ffi::c_void;

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_FIB_LKUP_RET_UNREACHABLE, BPF_FIB_LOOKUP_SKIP_NEIGH, bpf_fib_lookup,
};
use aya_ebpf::helpers::generated::bpf_fib_lookup as bpf_fib_lookup_helper;
use weir_ebpf_common::{Address, DropReason};

use crate::frame::{Skb, Xdp};
use crate::maps::{ENDPOINTS, Work};
use crate::verdict::Route;

const AF_INET: u8 = 2;

const BLACKHOLE: i64 = BPF_FIB_LKUP_RET_BLACKHOLE as i64;
const UNREACHABLE: i64 = BPF_FIB_LKUP_RET_UNREACHABLE as i64;
const PROHIBIT: i64 = BPF_FIB_LKUP_RET_PROHIBIT as i64;
const SUCCESS: i64 = BPF_FIB_LKUP_RET_SUCCESS as i64;

/// Whether a pod on this node has an address.
#[inline(always)]
pub(crate) fn is_pod(address: &Address) -> bool {
    ENDPOINTS.get_ptr(address).is_some()
}

/// To the pod on this node that the packet is for, if it is.
#[inline(always)]
pub(crate) fn to_pod(work: &mut Work) -> Option<Route> {
    let endpoint = ENDPOINTS.get_ptr(work.leaves.destination())?;
    // SAFETY: copied at once; see `conntrack::read`.
    work.endpoint = unsafe { *endpoint };
    Some(Route::Pod)
}

/// The way of a packet that leaves with `work.leaves`.
#[inline(always)]
pub(crate) fn towards(skb: &Skb, work: &mut Work) -> Result<Route, DropReason> {
    if let Some(route) = to_pod(work) {
        return Ok(route);
    }
    // The packet may be one that the network card is to cut: the kernel knows its length better.
    match ask(skb.as_ptr(), skb.ifindex(), 0, BPF_FIB_LOOKUP_SKIP_NEIGH, work) {
        SUCCESS => {
            work.neighbour.ifindex = work.query.ifindex;
            work.neighbour.next_hop.nh_family = u32::from(work.query.family);
            // SAFETY: the helper leaves the next hop here; of IPv4 it is the first word.
            work.neighbour.next_hop.__bindgen_anon_1.ipv6_nh =
                unsafe { work.query.__bindgen_anon_4.ipv6_dst };
            Ok(Route::Neighbour)
        }
        BLACKHOLE | UNREACHABLE | PROHIBIT => Err(DropReason::Unroutable),
        // The node's own address, or something the stack has an answer to: no route, too long for the link.
        _ => Ok(Route::Stack),
    }
}

/// Whether a packet goes back out by the interface that it came by, to a neighbour whose hardware address is known; that
/// and the interface's own are in `work.query` then.
#[inline(always)]
pub(crate) fn is_back_out(xdp: &Xdp, work: &mut Work) -> bool {
    let (ifindex, length) = (xdp.ifindex(), work.packet.total_length);
    ask(xdp.as_ptr(), ifindex, length, 0, work) == SUCCESS && work.query.ifindex == ifindex
}

/// Asks the node's routes about `work.leaves`, into `work.query`.
#[inline(always)]
fn ask(ctx: *mut c_void, ifindex: u32, length: u16, flags: u32, work: &mut Work) -> i64 {
    let (leaves, query) = (&work.leaves, &mut work.query);
    query.family = AF_INET;
    query.l4_protocol = leaves.protocol();
    query.sport = leaves.source_port().to_be();
    query.dport = leaves.destination_port().to_be();
    query.__bindgen_anon_1.tot_len = length;
    // No particular class of service.
    query.__bindgen_anon_2.rt_metric = 0;
    query.ifindex = ifindex;
    query.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(leaves.source().low());
    query.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(leaves.destination().low());
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the parameters outlive the call, and the size is theirs.
    unsafe { bpf_fib_lookup_helper(ctx, &raw mut *query, size, flags) }
}
