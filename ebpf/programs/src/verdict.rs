//! From a decision to what happens to the packet. The only place that counts, reports and redirects.

use aya_ebpf::bindings::{bpf_redir_neigh, tcx_action_base};
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_redirect_neigh, bpf_redirect_peer};
use weir_ebpf_common::{Counter, DropEvent, DropReason, Hook, Tuple};
use weir_packet::{FrameMut, Parsed, parse, rewrite};

use crate::frame::Skb;
use crate::maps::{self, Work};

/// Where a packet goes. The particulars are in the workspace: values that only some paths set would reach the verifier as
/// registers that were never written.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// To the node's own stack, or on along the path it is on.
    Stack,
    /// To a pod on this node, by `work.endpoint`.
    Pod,
    /// To another machine, by `work.neighbour`.
    Neighbour,
}

/// What a hook makes of packets.
pub(crate) trait Policy {
    /// Of IPv4: where the packet goes, and in `work.leaves` the tuple with which. `now` is in nanoseconds of the
    /// monotonic clock.
    fn decide(&self, skb: &Skb, work: &mut Work, now: u64) -> Result<Route, DropReason>;
    /// Of anything else: whether it may go to the stack.
    fn admit(&self, parsed: &Parsed) -> Result<(), DropReason>;
}

/// Runs one packet through one hook.
#[inline(always)]
pub(crate) fn run(mut skb: Skb, hook: Hook, policy: impl Policy) -> i32 {
    let Some(work) = maps::work() else { return tcx_action_base::TCX_DROP };
    // SAFETY: a plain call.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    work.packet.tuple = Tuple::UNSET;
    match decide(&mut skb, work, policy, now) {
        Ok(action) => action,
        Err(reason) => dropped(&skb, hook, reason, &work.packet.tuple, now),
    }
}

#[inline(always)]
fn decide(skb: &mut Skb, work: &mut Work, policy: impl Policy, now: u64) -> Result<i32, DropReason> {
    match parse(skb)? {
        Parsed::V4(packet) => work.packet = packet,
        other => return policy.admit(&other).map(|()| passed()),
    }
    work.leaves = work.packet.tuple;
    let route = policy.decide(skb, work, now)?;
    perform(skb, work, route)
}

#[inline(always)]
fn perform(skb: &mut Skb, work: &mut Work, route: Route) -> Result<i32, DropReason> {
    let (packet, leaves) = (&work.packet, &work.leaves);
    if route == Route::Stack {
        rewrite(skb, packet, leaves, 0)?;
        return Ok(passed());
    }
    if packet.ttl <= 1 {
        // The stack answers with the ICMP error. It cannot for a packet whose addresses it does not know.
        return if *leaves == packet.tuple { Ok(passed()) } else { Err(DropReason::TtlExpired) };
    }
    rewrite(skb, packet, leaves, 1)?;
    if route == Route::Pod {
        let (pod, host) = (work.endpoint.pod_mac(), work.endpoint.host_mac());
        skb.store(0, &pod)?;
        skb.store(pod.len(), &host)?;
        maps::count(Counter::Delivered);
        // SAFETY: a plain call.
        return Ok(unsafe { bpf_redirect_peer(work.endpoint.link().get(), 0) } as i32);
    }
    maps::count(Counter::Forwarded);
    let next = &raw mut work.neighbour.next_hop;
    // SAFETY: the parameters outlive the call, and the size is theirs.
    Ok(unsafe { bpf_redirect_neigh(work.neighbour.ifindex, next, size_of::<bpf_redir_neigh>() as i32, 0) }
        as i32)
}

/// On to the next program of the hook, then to the stack.
#[inline(always)]
fn passed() -> i32 {
    maps::count(Counter::Passed);
    tcx_action_base::TCX_NEXT
}

#[inline(always)]
fn dropped(skb: &Skb, hook: Hook, reason: DropReason, tuple: &Tuple, now: u64) -> i32 {
    maps::count_drop(reason);
    if let Some(mut entry) = maps::EVENTS.reserve(0) {
        entry.write(DropEvent::new(now, hook, reason, skb.ifindex(), skb.length(), *tuple));
        entry.submit(0);
    }
    tcx_action_base::TCX_DROP
}
