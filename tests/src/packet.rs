//! Ethernet frames as they are on the wire, with every length and checksum right: what goes into a program, and what
//! is to come out.

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, PacketBuilder, TcpHeader, UdpHeader};

/// A hardware address.
pub type Mac = [u8; 6];

/// Hardware addresses: to whom, from whom.
pub type Macs = (Mac, Mac);

/// An end of a flow: IPv4 address and port.
pub type Side = ([u8; 4], u16);

const ETHERNET: usize = 14;
const DATAGRAM: &[u8] = b"a datagram";
const SEGMENT: &[u8] = b"a segment";

/// A UDP packet.
pub fn udp(macs: Macs, source: Side, destination: Side, ttl: u8) -> Vec<u8> {
    let ip = PacketBuilder::ethernet2(macs.1, macs.0).ipv4(source.0, destination.0, ttl);
    let mut bytes = Vec::new();
    ip.udp(source.1, destination.1).write(&mut bytes, DATAGRAM).expect("writing to memory");
    bytes
}

/// A UDP packet over IPv6.
pub fn udp_v6(macs: Macs, source: ([u8; 16], u16), destination: ([u8; 16], u16), hop_limit: u8) -> Vec<u8> {
    let ip = PacketBuilder::ethernet2(macs.1, macs.0).ipv6(source.0, destination.0, hop_limit);
    let mut bytes = Vec::new();
    ip.udp(source.1, destination.1).write(&mut bytes, DATAGRAM).expect("writing to memory");
    bytes
}

/// A UDP packet with eight bytes of options in its IP header.
pub fn udp_with_options(macs: Macs, source: Side, destination: Side, ttl: u8) -> Vec<u8> {
    let mut ip = Ipv4Header::new(0, ttl, IpNumber::UDP, source.0, destination.0).expect("a short packet");
    ip.options = [1, 1, 1, 1, 1, 1, 1, 0].into();
    ip.set_payload_len(UdpHeader::LEN + DATAGRAM.len()).expect("a short packet");
    ip.header_checksum = ip.calc_header_checksum();
    let udp = UdpHeader::with_ipv4_checksum(source.1, destination.1, &ip, DATAGRAM).expect("a short packet");
    let mut bytes = [macs.0, macs.1].concat();
    bytes.extend([0x08, 0x00]);
    ip.write(&mut bytes).expect("writing to memory");
    udp.write(&mut bytes).expect("writing to memory");
    bytes.extend(DATAGRAM);
    bytes
}

/// A fragment of a UDP packet: its first, or a later one.
pub fn fragment(macs: Macs, source: Side, destination: Side, is_first: bool) -> Vec<u8> {
    let mut bytes = udp(macs, source, destination, 64);
    let mut ip = Ipv4Header::from_slice(&bytes[ETHERNET..]).expect("a header").0;
    ip.more_fragments = is_first;
    ip.fragment_offset = IpFragOffset::try_new(if is_first { 0 } else { 100 }).expect("a small offset");
    ip.header_checksum = ip.calc_header_checksum();
    bytes[ETHERNET..ETHERNET + Ipv4Header::MIN_LEN].copy_from_slice(&ip.to_bytes());
    bytes
}

/// A TCP packet; `set` sets its flags, as [`syn`] does.
pub fn tcp(macs: Macs, source: Side, destination: Side, ttl: u8, set: fn(&mut TcpHeader)) -> Vec<u8> {
    let mut header = TcpHeader::new(source.1, destination.1, 7, 1024);
    set(&mut header);
    let ip = PacketBuilder::ethernet2(macs.1, macs.0).ipv4(source.0, destination.0, ttl);
    let mut bytes = Vec::new();
    ip.tcp_header(header).write(&mut bytes, SEGMENT).expect("writing to memory");
    bytes
}

/// Opens a connection.
pub fn syn(header: &mut TcpHeader) {
    header.syn = true;
}

/// Accepts one.
pub fn syn_ack(header: &mut TcpHeader) {
    (header.syn, header.ack) = (true, true);
}

/// Belongs to one.
pub fn ack(header: &mut TcpHeader) {
    header.ack = true;
}

/// Ends one at once.
pub fn rst(header: &mut TcpHeader) {
    header.rst = true;
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketHeaders, TransportHeader};

    use super::*;

    const MACS: Macs = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    const CLIENT: Side = ([10, 31, 0, 200], 40000);
    const SERVER: Side = ([10, 32, 1, 1], 80);

    #[test]
    fn packets_with_and_without_options_carry_the_right_checksums() {
        for bytes in [udp(MACS, CLIENT, SERVER, 64), udp_with_options(MACS, CLIENT, SERVER, 64)] {
            let headers = PacketHeaders::from_ethernet_slice(&bytes).unwrap();
            assert_eq!(headers.link.unwrap().ethernet2().unwrap().destination, MACS.0);
            let net = headers.net.unwrap();
            let (ip, _) = net.ipv4_ref().unwrap();
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            let Some(TransportHeader::Udp(udp)) = headers.transport else { panic!("no UDP") };
            assert_eq!(udp.checksum, udp.calc_checksum_ipv4(ip, DATAGRAM).unwrap());
            assert_eq!((udp.source_port, udp.destination_port), (40000, 80));
        }
    }

    #[test]
    fn only_the_first_fragment_has_more_to_come() {
        for is_first in [true, false] {
            let bytes = fragment(MACS, CLIENT, SERVER, is_first);
            let (ip, _) = Ipv4Header::from_slice(&bytes[ETHERNET..]).unwrap();
            assert!(ip.is_fragmenting_payload());
            assert_eq!((ip.more_fragments, ip.fragment_offset.value() == 0), (is_first, is_first));
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        }
    }
}
