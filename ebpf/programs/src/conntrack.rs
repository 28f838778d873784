//! Finding and opening translated flows.
//!
//! Both entries of a flow are written together but not at once, so a reader may see one without the other: a reply
//! without its opening is harmless, and the opening is inserted last.

use aya_ebpf::bindings::{BPF_ANY, BPF_EXIST, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_get_prandom_u32;
use weir_ebpf_common::{Address, Counter, DropReason, Flow, ServiceId, Tuple, limits};
use weir_packet::{Parsed, Transport, source_port, tracking};

use crate::frame::Skb;
use crate::maps::{self, CONNTRACK, Work};
use crate::verdict::{Policy, Route};

/// Whether the packet belongs to a flow, and if so, the tuple with which it leaves. Keeps the flow's state and time.
#[inline(always)]
pub(crate) fn find(work: &mut Work, now: u64) -> bool {
    if work.packet.transport == Transport::Opaque {
        return false;
    }
    let Some(entry) = CONNTRACK.get_ptr_mut(&work.packet.tuple) else { return false };
    // SAFETY: the kernel keeps the element's memory while the program runs. It may become another flow's meanwhile,
    // so the value is copied at once.
    work.flow = unsafe { *entry };
    if tracking::starts_over(&work.flow, work.packet.transport) || is_over(work, now) {
        forget(work);
        return false;
    }
    let (flow, transport) = (&mut work.flow, work.packet.transport);
    let state = tracking::advance(flow.state(), flow.is_reply(), transport);
    if state != flow.state() {
        flow.set_state(state);
        flow.set_last_seen(now);
        // Failures leave the entries as they were, or find them gone: the next packet tries again.
        let _ = CONNTRACK.insert(&work.packet.tuple, &work.flow, u64::from(BPF_EXIST));
        if find_peer(work) {
            work.peer.set_state(state);
            let _ = CONNTRACK.insert(&work.peer_key, &work.peer, u64::from(BPF_EXIST));
        }
    } else if now.saturating_sub(flow.last_seen()) > tracking::REFRESH {
        // SAFETY: as above. If the element has become another flow's, that flow looks a little younger.
        unsafe { (*entry).set_last_seen(now) };
    }
    work.leaves = *work.flow.leaves();
    true
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
            work.peer = Flow::reply(arrives, opening.service, now);
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
    work.flow = Flow::forward(work.leaves, service, now);
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
    let Some(taken) = CONNTRACK.get_ptr(&work.peer_key) else { return Err(DropReason::ConntrackFull) };
    // SAFETY: as in `find`: copied at once.
    work.flow = unsafe { *taken };
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
    tracking::is_silent(&work.flow, now) && (!find_peer(work) || tracking::is_silent(&work.peer, now))
}

#[inline(always)]
fn forget(work: &mut Work) {
    work.peer_key = work.flow.peer();
    // An entry that is gone already is as good as removed.
    let _ = CONNTRACK.remove(&work.peer_key);
    let _ = CONNTRACK.remove(&work.packet.tuple);
}

/// Copies the entry of the flow's other direction.
#[inline(always)]
fn find_peer(work: &mut Work) -> bool {
    work.peer_key = work.flow.peer();
    let Some(peer) = CONNTRACK.get_ptr(&work.peer_key) else { return false };
    // SAFETY: as in `find`: copied at once.
    work.peer = unsafe { *peer };
    true
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
