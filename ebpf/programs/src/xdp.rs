//! The uplink's accelerator: what goes back out by the uplink need not climb to tcx.
//!
//! It does nothing that `from_uplink` would not do as well, with the same flows. What it does not handle it passes on
//! unchanged, errors included, so that drops are counted in one place.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_redirect};
use weir_ebpf_common::{Counter, DropReason};
use weir_packet::{Fragment, FrameMut, Parsed, parse, rewrite};

use crate::frame::Xdp;
use crate::maps::{self, Work};
use crate::{route, uplink};

#[inline(always)]
pub(crate) fn run(mut xdp: Xdp) -> u32 {
    let Some(work) = maps::work() else { return XDP_PASS };
    match is_ours(&xdp, work) {
        Ok(true) => match send_back(&mut xdp, work) {
            Ok(()) => {
                maps::count(Counter::Accelerated);
                transmit(&xdp)
            }
            // Changed in part, so it cannot be passed on. Never seen: the same bytes were read before.
            Err(reason) => {
                maps::count_drop(reason);
                XDP_DROP
            }
        },
        Ok(false) | Err(_) => XDP_PASS,
    }
}

/// Whether the packet is translated and goes back out. It is not changed yet.
#[inline(always)]
fn is_ours(xdp: &Xdp, work: &mut Work) -> Result<bool, DropReason> {
    let Parsed::V4(packet) = parse(xdp)? else { return Ok(false) };
    work.packet = packet;
    work.leaves = work.packet.tuple;
    if work.packet.fragment != Fragment::Whole || work.packet.ttl <= 1 {
        return Ok(false);
    }
    // SAFETY: a plain call.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    Ok(uplink::translate(work, now)?
        && !route::is_pod(&work.leaves.destination())
        && route::is_back_out(xdp, work))
}

#[inline(always)]
fn send_back(xdp: &mut Xdp, work: &Work) -> Result<(), DropReason> {
    rewrite(xdp, &work.packet, &work.leaves, 1)?;
    xdp.store(0, &work.query.dmac)?;
    xdp.store(work.query.dmac.len(), &work.query.smac)
}

#[inline(always)]
fn transmit(xdp: &Xdp) -> u32 {
    if maps::node().is_some_and(|node| node.redirects()) {
        // SAFETY: a plain call.
        unsafe { bpf_redirect(xdp.ifindex(), 0) as u32 }
    } else {
        XDP_TX
    }
}
