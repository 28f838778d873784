//! Where a packet goes, by the node's own routes.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_FIB_LKUP_RET_UNREACHABLE, BPF_FIB_LOOKUP_SKIP_NEIGH, bpf_fib_lookup,
};
use aya_ebpf::helpers::generated;
use weir_ebpf_common::{Address, DropReason};

use crate::frame::Skb;
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
    // SAFETY: copied at once; see `conntrack::find`.
    work.endpoint = unsafe { *endpoint };
    Some(Route::Pod)
}

/// The way of a packet that leaves with `work.leaves`.
#[inline(always)]
pub(crate) fn towards(skb: &Skb, work: &mut Work) -> Result<Route, DropReason> {
    if let Some(route) = to_pod(work) {
        return Ok(route);
    }
    let (leaves, query) = (&work.leaves, &mut work.query);
    query.family = AF_INET;
    query.l4_protocol = leaves.protocol();
    query.sport = leaves.source_port().to_be();
    query.dport = leaves.destination_port().to_be();
    // The packet's own length counts, and no particular service.
    query.__bindgen_anon_1.tot_len = 0;
    query.__bindgen_anon_2.rt_metric = 0;
    query.ifindex = skb.ifindex();
    query.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(leaves.source().low());
    query.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(leaves.destination().low());
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the parameters outlive the call, and the size is theirs.
    let found =
        unsafe { generated::bpf_fib_lookup(skb.as_ptr(), &raw mut *query, size, BPF_FIB_LOOKUP_SKIP_NEIGH) };
    match found {
        SUCCESS => {
            work.neighbour.ifindex = query.ifindex;
            work.neighbour.next_hop.nh_family = u32::from(query.family);
            // SAFETY: the helper leaves the next hop here; of IPv4 it is the first word.
            work.neighbour.next_hop.__bindgen_anon_1.ipv6_nh = unsafe { query.__bindgen_anon_4.ipv6_dst };
            Ok(Route::Neighbour)
        }
        BLACKHOLE | UNREACHABLE | PROHIBIT => Err(DropReason::Unroutable),
        // The node's own address, or something the stack has an answer to: no route, too long for the link.
        _ => Ok(Route::Stack),
    }
}
