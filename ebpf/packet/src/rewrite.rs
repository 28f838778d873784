//! From the tuple with which a packet arrived to the one with which it leaves.

use weir_ebpf_common::{DropReason, Tuple};

use crate::checksum::Change;
use crate::frame::{FrameMut, L4Change};
use crate::parse::{ETHERNET, Packet, Transport};

/// Offset of the part of the IPv4 header that changes: time to live, protocol, checksum, both addresses.
const CHANGING: usize = ETHERNET + 8;

/// Gives an IPv4 packet the addresses and ports of `leaves` and takes `hops` off its time to live, checksums kept right.
#[inline(always)]
pub fn rewrite(
    frame: &mut (impl FrameMut + ?Sized),
    packet: &Packet,
    leaves: &Tuple,
    hops: u8,
) -> Result<(), DropReason> {
    let arrived = &packet.tuple;
    let translated = leaves != arrived;
    if translated || hops > 0 {
        let (old, new) = (addresses(arrived), addresses(leaves));
        let ttl = packet.ttl.checked_sub(hops).ok_or(DropReason::TtlExpired)?;
        let protocol = arrived.protocol();
        let pseudo_header = Change::replace(&old, &new);
        let checksum = pseudo_header
            .and(Change::replace(&[packet.ttl, protocol], &[ttl, protocol]))
            .apply(packet.header_checksum);
        let mut bytes = [0; 12];
        bytes[0] = ttl;
        bytes[1] = protocol;
        bytes[2..4].copy_from_slice(&checksum);
        bytes[4..].copy_from_slice(&new);
        frame.store(CHANGING, &bytes)?;
        if translated {
            rewrite_l4(frame, packet, leaves, pseudo_header)?;
        }
    }
    Ok(())
}

#[inline(always)]
fn rewrite_l4(
    frame: &mut (impl FrameMut + ?Sized),
    packet: &Packet,
    leaves: &Tuple,
    pseudo_header: Change,
) -> Result<(), DropReason> {
    let (checksum, is_udp) = match packet.transport {
        Transport::Tcp(_) => (packet.l4 + 16, false),
        Transport::Udp => (packet.l4 + 6, true),
        Transport::Opaque => return Ok(()),
    };
    let (old, new) = (ports(&packet.tuple), ports(leaves));
    let header = Change::replace(&old, &new);
    frame.store(packet.l4, &new)?;
    frame.adjust_l4(checksum, L4Change { pseudo_header, header, is_udp })
}

/// Source and destination as they stand in an IPv4 header.
#[inline(always)]
fn addresses(tuple: &Tuple) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (tuple.source().low(), tuple.destination().low());
    [a, b, c, d, e, f, g, h]
}

/// Source and destination as they stand in a TCP or UDP header.
#[inline(always)]
fn ports(tuple: &Tuple) -> [u8; 4] {
    let ([a, b], [c, d]) = (tuple.source_port().to_be_bytes(), tuple.destination_port().to_be_bytes());
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use etherparse::PacketBuilder;
    use proptest::prelude::*;
    use weir_ebpf_common::{Address, protocol};

    use super::*;
    use crate::{Parsed, parse};

    type Side = ([u8; 4], u16);

    fn tuple(protocol: u8, source: Side, destination: Side) -> Tuple {
        Tuple::new(protocol, (Address::v4(source.0), source.1), (Address::v4(destination.0), destination.1))
    }

    /// A packet as etherparse builds it from scratch.
    fn build(tcp: bool, source: Side, destination: Side, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let ip = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source.0, destination.0, ttl);
        let mut bytes = Vec::new();
        if tcp {
            ip.tcp(source.1, destination.1, 12345, 8192).ack(99).write(&mut bytes, payload).unwrap();
        } else {
            ip.udp(source.1, destination.1).write(&mut bytes, payload).unwrap();
        }
        bytes
    }

    fn rewritten(mut bytes: Vec<u8>, leaves: &Tuple, hops: u8) -> Result<Vec<u8>, DropReason> {
        let Parsed::V4(packet) = parse(bytes.as_slice())? else { panic!("not IPv4") };
        rewrite(bytes.as_mut_slice(), &packet, leaves, hops)?;
        Ok(bytes)
    }

    fn side() -> impl Strategy<Value = Side> {
        (any::<[u8; 4]>(), any::<u16>())
    }

    proptest! {
        #[test]
        fn a_rewritten_packet_equals_one_built_anew(
            tcp in any::<bool>(),
            from in (side(), side()),
            to in (side(), side()),
            ttl in 1_u8..,
            hops in 0_u8..2,
            payload in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let protocol = if tcp { protocol::TCP } else { protocol::UDP };
            let arrives = build(tcp, from.0, from.1, ttl, &payload);
            let leaves = rewritten(arrives, &tuple(protocol, to.0, to.1), hops).unwrap();
            prop_assert_eq!(leaves, build(tcp, to.0, to.1, ttl - hops, &payload));
        }

        #[test]
        fn a_rewrite_and_its_reverse_cancel_out(
            tcp in any::<bool>(), from in (side(), side()), to in (side(), side()),
        ) {
            let protocol = if tcp { protocol::TCP } else { protocol::UDP };
            let bytes = build(tcp, from.0, from.1, 64, b"there and back");
            let there = rewritten(bytes.clone(), &tuple(protocol, to.0, to.1), 0).unwrap();
            let back = rewritten(there, &tuple(protocol, from.0, from.1), 0).unwrap();
            prop_assert_eq!(back, bytes);
        }
    }

    #[test]
    fn udp_without_checksum_stays_without() {
        let mut bytes = build(false, ([10, 0, 0, 1], 1), ([10, 0, 0, 2], 2), 64, b"x");
        bytes[40..42].copy_from_slice(&[0, 0]);
        let leaves = tuple(protocol::UDP, ([10, 0, 0, 1], 1), ([10, 9, 9, 9], 53));
        assert_eq!(rewritten(bytes, &leaves, 0).unwrap()[40..42], [0, 0]);
    }

    #[test]
    fn a_spent_time_to_live_is_not_wrapped() {
        let bytes = build(false, ([10, 0, 0, 1], 1), ([10, 0, 0, 2], 2), 0, b"x");
        let leaves = tuple(protocol::UDP, ([10, 0, 0, 1], 1), ([10, 0, 0, 2], 2));
        assert_eq!(rewritten(bytes, &leaves, 1), Err(DropReason::TtlExpired));
    }
}
