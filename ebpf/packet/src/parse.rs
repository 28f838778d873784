//! From bytes to what the programs decide by.

use weir_ebpf_common::{Address, DropReason, Tuple, protocol};

use crate::Frame;

pub const ETHERNET: usize = 14;
pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

const IPV4: usize = 20;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    V4(Packet),
    V6 {
        source: Address,
    },
    /// ARP and whatever else is not IP.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Ports are zero where there are none.
    pub tuple: Tuple,
    /// Where the L4 header begins.
    pub l4: usize,
    /// Of the IP packet, without the Ethernet header or padding.
    pub total_length: u16,
    pub ttl: u8,
    pub header_checksum: [u8; 2],
    pub fragment: Fragment,
    pub transport: Transport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    Whole,
    First,
    Later,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp(TcpFlags),
    Udp,
    /// No ports: another protocol, or not the first fragment.
    Opaque,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags {
    bits: u8,
}

impl TcpFlags {
    #[inline(always)]
    pub fn from_bits(bits: u8) -> Self {
        Self { bits }
    }

    #[inline(always)]
    pub fn fin(self) -> bool {
        self.bits & 0x01 != 0
    }

    #[inline(always)]
    pub fn rst(self) -> bool {
        self.bits & 0x04 != 0
    }

    /// A connection's very first segment.
    #[inline(always)]
    pub fn opens(self) -> bool {
        self.bits & 0x12 == 0x02
    }
}

#[inline(always)]
pub fn parse(frame: &(impl Frame + ?Sized)) -> Result<Parsed, DropReason> {
    let [high, low] = frame.load(ETHERNET - 2)?;
    match u16::from_be_bytes([high, low]) {
        ETHERTYPE_IPV4 => parse_v4(frame).map(Parsed::V4),
        ETHERTYPE_IPV6 => Ok(Parsed::V6 { source: Address::new(frame.load(ETHERNET + 8)?) }),
        _ => Ok(Parsed::Other),
    }
}

#[inline(always)]
fn parse_v4(frame: &(impl Frame + ?Sized)) -> Result<Packet, DropReason> {
    let header: [u8; IPV4] = frame.load(ETHERNET)?;
    let words = header[0] & 0x0f;
    if header[0] >> 4 != 4 || words < 5 {
        return Err(DropReason::Malformed);
    }
    let header_length = usize::from(words) * 4;
    let total_length = u16::from_be_bytes([header[2], header[3]]);
    let fragmentation = u16::from_be_bytes([header[6], header[7]]);
    let protocol = header[9];
    let source = Address::v4([header[12], header[13], header[14], header[15]]);
    let destination = Address::v4([header[16], header[17], header[18], header[19]]);
    let fragment = if fragmentation & FRAGMENT_OFFSET != 0 {
        Fragment::Later
    } else if fragmentation & MORE_FRAGMENTS != 0 {
        Fragment::First
    } else {
        Fragment::Whole
    };
    let l4 = ETHERNET + header_length;
    // What a frame holds past the packet's own length is padding, not a header.
    let room = usize::from(total_length).checked_sub(header_length).ok_or(DropReason::Malformed)?;
    let (transport, source_port, destination_port) = match (fragment, protocol) {
        (Fragment::Whole | Fragment::First, protocol::TCP) => {
            let tcp: [u8; 14] = segment(frame, l4, room, 20)?;
            if tcp[12] >> 4 < 5 {
                return Err(DropReason::Malformed);
            }
            let flags = TcpFlags::from_bits(tcp[13]);
            (Transport::Tcp(flags), [tcp[0], tcp[1]], [tcp[2], tcp[3]])
        }
        (Fragment::Whole | Fragment::First, protocol::UDP) => {
            let udp: [u8; 8] = segment(frame, l4, room, 8)?;
            (Transport::Udp, [udp[0], udp[1]], [udp[2], udp[3]])
        }
        _ => (Transport::Opaque, [0; 2], [0; 2]),
    };
    Ok(Packet {
        tuple: Tuple::new(
            protocol,
            (source, u16::from_be_bytes(source_port)),
            (destination, u16::from_be_bytes(destination_port)),
        ),
        l4,
        total_length,
        ttl: header[8],
        header_checksum: [header[10], header[11]],
        fragment,
        transport,
    })
}

/// The first `N` bytes of an L4 header that is at least `least` long, in a packet with `room` for it.
#[inline(always)]
fn segment<const N: usize>(
    frame: &(impl Frame + ?Sized),
    l4: usize,
    room: usize,
    least: usize,
) -> Result<[u8; N], DropReason> {
    if room < least { Err(DropReason::Malformed) } else { frame.load(l4) }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    const CLIENT: [u8; 4] = [10, 32, 0, 5];
    const SERVER: [u8; 4] = [10, 32, 1, 9];

    fn udp(payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(CLIENT, SERVER, 64).udp(40000, 53);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, payload).unwrap();
        bytes
    }

    fn v4(bytes: &[u8]) -> Packet {
        match parse(bytes).unwrap() {
            Parsed::V4(packet) => packet,
            other => panic!("not IPv4: {other:?}"),
        }
    }

    #[test]
    fn ports_and_flags_of_tcp_are_found() {
        let builder =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(CLIENT, SERVER, 63).tcp(40001, 80, 7, 1000).syn();
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &[]).unwrap();
        let packet = v4(&bytes);
        let expected = Tuple::new(6, (Address::v4(CLIENT), 40001), (Address::v4(SERVER), 80));
        assert_eq!(packet.tuple, expected);
        assert_eq!((packet.l4, packet.ttl, packet.fragment), (34, 63, Fragment::Whole));
        assert!(matches!(packet.transport, Transport::Tcp(flags) if flags.opens() && !flags.fin()));
    }

    #[test]
    fn options_move_the_transport_header() {
        let mut bytes = udp(b"x");
        bytes[14] = 0x46;
        bytes[17] += 4;
        bytes.splice(34..34, [1, 1, 1, 0]);
        let packet = v4(&bytes);
        assert_eq!((packet.l4, packet.tuple.destination_port()), (38, 53));
    }

    #[test]
    fn later_fragments_have_no_ports() {
        let mut bytes = udp(&[0; 64]);
        bytes[20] = 0x20;
        assert_eq!(v4(&bytes).fragment, Fragment::First);
        bytes[21] = 8;
        let packet = v4(&bytes);
        assert_eq!((packet.fragment, packet.transport), (Fragment::Later, Transport::Opaque));
        assert_eq!(packet.tuple.destination_port(), 0);
    }

    #[test]
    fn headers_that_contradict_themselves_are_malformed() {
        let good = udp(b"abc");
        for (offset, byte) in [(14, 0x65), (14, 0x44), (17, 19), (17, 27)] {
            let mut bytes = good.clone();
            bytes[offset] = byte;
            assert_eq!(parse(bytes.as_slice()), Err(DropReason::Malformed), "byte {offset} = {byte:#x}");
        }
    }

    #[test]
    fn every_cut_in_the_headers_is_noticed() {
        let bytes = udp(b"abc");
        for length in 0..42 {
            let expected = Err(DropReason::Truncated);
            assert_eq!(parse(&bytes[..length]), expected, "cut to {length} bytes");
        }
    }

    #[test]
    fn arp_is_left_alone() {
        let mut bytes = udp(b"abc");
        bytes[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(parse(bytes.as_slice()), Ok(Parsed::Other));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
            let _ = parse(bytes.as_slice());
        }

        #[test]
        fn no_ipv4_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 34..96)) {
            bytes[12..15].copy_from_slice(&[0x08, 0x00, 0x46]);
            let _ = parse(bytes.as_slice());
        }
    }
}
