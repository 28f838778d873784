//! What comes from other machines.

use weir_ebpf_common::{Address, DropReason, Frontend, Slot};
use weir_packet::{Fragment, Packet, Parsed, Transport};

use crate::conntrack::{self, Opening};
use crate::frame::Skb;
use crate::maps::{self, Work};
use crate::verdict::{Policy, Route};
use crate::{route, service};

pub(crate) struct FromUplink;

impl Policy for FromUplink {
    #[inline(always)]
    fn decide(&self, skb: &Skb, work: &mut Work, now: u64) -> Result<Route, DropReason> {
        if !translate(work, now)? {
            return Ok(route::to_pod(work).unwrap_or(Route::Stack));
        }
        if work.packet.fragment != Fragment::Whole {
            return Err(DropReason::FragmentTranslated);
        }
        route::towards(skb, work)
    }

    #[inline(always)]
    fn admit(&self, _parsed: &Parsed) -> Result<(), DropReason> {
        Ok(())
    }
}

/// Sets the tuple with which a packet leaves, if it belongs to a translated flow or begins one.
#[inline(always)]
pub(crate) fn translate(work: &mut Work, now: u64) -> Result<bool, DropReason> {
    if conntrack::find(work, now) {
        return Ok(true);
    }
    let Some(opening) = backend(&work.packet)? else { return Ok(false) };
    conntrack::open(work, &opening, now)?;
    Ok(true)
}

/// The backend for a packet to a NodePort.
#[inline(always)]
fn backend(packet: &Packet) -> Result<Option<Opening>, DropReason> {
    if packet.transport == Transport::Opaque {
        return Ok(None);
    }
    let tuple = &packet.tuple;
    let frontend = Frontend::new(tuple.destination(), tuple.destination_port(), tuple.protocol());
    if !service::is_external(&frontend) {
        return Ok(None);
    }
    let Some((service, slot)) = service::pick(&frontend)? else { return Ok(None) };
    let client = tuple.source();
    let source = source_for(&client, &slot)?;
    Ok(Some(Opening {
        service: service.id(),
        source,
        keep_port: source == client,
        backend: slot.address(),
        backend_port: slot.port(),
    }))
}

/// A backend on this node sees the client, since its answers pass here anyway. Another node's must answer to this one.
#[inline(always)]
fn source_for(client: &Address, slot: &Slot) -> Result<Address, DropReason> {
    let node = maps::node().ok_or(DropReason::NoNodeAddress)?.v4();
    if node == slot.address() || route::is_pod(&slot.address()) {
        Ok(*client)
    } else if node == Address::UNSPECIFIED {
        Err(DropReason::NoNodeAddress)
    } else {
        Ok(node)
    }
}
