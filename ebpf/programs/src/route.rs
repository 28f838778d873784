//! Where a packet goes, by the node's own routes.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_FIB_LKUP_RET_UNREACHABLE, BPF_FIB_LOOKUP_SKIP_NEIGH, bpf_fib_lookup,
};
use aya_ebpf::helpers::generated;
use weir_ebpf_common::{Address, DropReason, Endpoint, Tuple};

use crate::frame::Skb;
use crate::maps::ENDPOINTS;
use crate::verdict::{Neighbour, Route};

const AF_INET: u8 = 2;

const BLACKHOLE: i64 = BPF_FIB_LKUP_RET_BLACKHOLE as i64;
const UNREACHABLE: i64 = BPF_FIB_LKUP_RET_UNREACHABLE as i64;
const PROHIBIT: i64 = BPF_FIB_LKUP_RET_PROHIBIT as i64;
const SUCCESS: i64 = BPF_FIB_LKUP_RET_SUCCESS as i64;

/// The pod with an address, if it is on this node.
#[inline(always)]
pub(crate) fn pod(address: &Address) -> Option<Endpoint> {
    // SAFETY: copied at once; see `conntrack::find`.
    ENDPOINTS.get_ptr(address).map(|endpoint| unsafe { *endpoint })
}

/// The way of a packet that leaves with `leaves`.
#[inline(always)]
pub(crate) fn towards(skb: &Skb, leaves: &Tuple) -> Result<Route, DropReason> {
    if let Some(endpoint) = pod(&leaves.destination()) {
        return Ok(Route::Pod(endpoint));
    }
    // SAFETY: all zeros is a value of this struct of integers.
    let mut query: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    query.family = AF_INET;
    query.l4_protocol = leaves.protocol();
    query.sport = leaves.source_port().to_be();
    query.dport = leaves.destination_port().to_be();
    query.ifindex = skb.ifindex();
    query.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(leaves.source().low());
    query.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(leaves.destination().low());
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the parameters live until the helper returns, and the size is theirs.
    let found =
        unsafe { generated::bpf_fib_lookup(skb.as_ptr(), &raw mut query, size, BPF_FIB_LOOKUP_SKIP_NEIGH) };
    match found {
        SUCCESS => Ok(Route::Neighbour(Neighbour {
            ifindex: query.ifindex,
            family: u32::from(query.family),
            // SAFETY: the helper leaves the next hop here, as the family says.
            address: unsafe { query.__bindgen_anon_4.ipv6_dst },
        })),
        BLACKHOLE | UNREACHABLE | PROHIBIT => Err(DropReason::Unroutable),
        // The node's own address, or something the stack has an answer to: no route, too long for the link.
        _ => Ok(Route::Stack),
    }
}
