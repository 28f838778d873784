//! What comes from a pod.

use weir_ebpf_common::{Address, DropReason, Frontend, IfIndex, Link, Slot, limits};
use weir_packet::{Fragment, Frame, Packet, Parsed, Transport};

use crate::conntrack::{self, Opening};
use crate::frame::Skb;
use crate::maps::{LINKS, Work};
use crate::verdict::{Policy, Route};
use crate::{route, service};

/// Offset of the source in the Ethernet header.
const SOURCE_MAC: usize = 6;

pub(crate) struct FromPod;

impl Policy for FromPod {
    #[inline(always)]
    fn decide(&self, skb: &Skb, work: &mut Work, now: u64) -> Result<Route, DropReason> {
        check_source(skb, &work.packet.tuple.source())?;
        if !conntrack::find(work, now)
            && let Some(opening) = backend(&work.packet)?
        {
            conntrack::open(work, &opening, now)?;
        }
        if work.packet.fragment != Fragment::Whole && work.leaves != work.packet.tuple {
            return Err(DropReason::FragmentTranslated);
        }
        route::towards(skb, work)
    }

    /// ARP goes through, and of IPv6 what every interface says to its neighbours by itself.
    #[inline(always)]
    fn admit(&self, parsed: &Parsed) -> Result<(), DropReason> {
        match parsed {
            Parsed::V6 { source } if !is_link_local(source) => Err(DropReason::UnsupportedProtocol),
            _ => Ok(()),
        }
    }
}

/// A pod sends from its own addresses only.
#[inline(always)]
fn check_source(skb: &Skb, source: &Address) -> Result<(), DropReason> {
    let link = LINKS.get_ptr(IfIndex::new(skb.ifindex())).ok_or(DropReason::UnknownLink)?;
    // SAFETY: the kernel keeps the element's memory while the program runs, and an interface's entry does not change.
    let link: &Link = unsafe { &*link };
    if !link.owns(source) {
        return Err(DropReason::SpoofedAddress);
    }
    if skb.load(SOURCE_MAC)? != link.pod_mac() {
        return Err(DropReason::SpoofedMac);
    }
    Ok(())
}

/// The backend for a packet to a service, where no socket program chose one before.
#[inline(always)]
fn backend(packet: &Packet) -> Result<Option<Opening>, DropReason> {
    if packet.transport == Transport::Opaque {
        return Ok(None);
    }
    let tuple = &packet.tuple;
    let frontend = Frontend::new(tuple.destination(), tuple.destination_port(), tuple.protocol());
    let Some((service, slot)) = service::pick(&frontend)? else { return Ok(None) };
    Ok(Some(Opening {
        service: service.id(),
        source: source_for(&tuple.source(), &slot),
        keep_port: true,
        backend: slot.address(),
        backend_port: slot.port(),
    }))
}

/// A pod that reaches itself must not see itself as the client, or it would answer without passing here.
#[inline(always)]
fn source_for(pod: &Address, slot: &Slot) -> Address {
    if slot.address() == *pod { limits::HAIRPIN_V4 } else { *pod }
}

/// `fe80::/10`, or unspecified as while an address is being claimed.
#[inline(always)]
fn is_link_local(source: &Address) -> bool {
    let octets = source.octets();
    *source == Address::UNSPECIFIED || (octets[0] == 0xfe && octets[1] & 0xc0 == 0x80)
}
