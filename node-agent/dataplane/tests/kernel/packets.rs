//! One packet into one program: its verdict, and every byte that comes out.

use weir_dataplane::{Protocol, View, XdpMode};
use weir_ebpf_common::limits;
use weir_tests::packet::{Macs, ack, fragment, syn, syn_ack, tcp, udp, udp_v6, udp_with_options};
use weir_tests::topology::mac_text;

use crate::bench::*;
use crate::cluster::{SIZES, at, service, snapshot};
use crate::ready::is_ready;

#[test]
fn a_packet_to_a_pod_on_the_node_is_redirected_to_it() {
    if !is_ready() {
        return;
    }
    let bench = Bench::new();
    let sides = ((POD, 40000), (SECOND_POD, 53));
    let outcome = bench.pod_sends(&udp(OUT_OF_POD, sides.0, sides.1, 64));
    assert_eq!(outcome, (REDIRECT, udp(INTO_SECOND_POD, sides.0, sides.1, 63)));
}

#[test]
fn a_packet_to_a_pod_elsewhere_is_redirected_to_the_neighbour() {
    if !is_ready() {
        return;
    }
    let bench = Bench::new();
    let sides = ((POD, 40000), (REMOTE_POD, 53));
    let outcome = bench.pod_sends(&udp(OUT_OF_POD, sides.0, sides.1, 64));
    assert_eq!(outcome, (REDIRECT, udp(OUT_OF_POD, sides.0, sides.1, 63)));
}

#[test]
fn a_packet_to_the_node_goes_up_untouched() {
    if !is_ready() {
        return;
    }
    let bench = Bench::new();
    let packet = udp(OUT_OF_POD, (POD, 40000), (NODE, 53), 64);
    assert_eq!(bench.pod_sends(&packet), (PASS, packet));
}

#[test]
fn a_cluster_ip_becomes_the_backend_and_back_again() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    bench.serve(SECOND_POD);
    let client = (POD, 40000);
    let (vip, backend) = ((VIP, 80), (SECOND_POD, 8080));

    let outcome = bench.pod_sends(&tcp(OUT_OF_POD, client, vip, 64, syn));
    assert_eq!(outcome, (REDIRECT, tcp(INTO_SECOND_POD, client, backend, 63, syn)));
    let outcome = bench.second_pod_sends(&tcp(OUT_OF_SECOND_POD, backend, client, 64, syn_ack));
    assert_eq!(outcome, (REDIRECT, tcp(INTO_POD, vip, client, 63, syn_ack)));
    let outcome = bench.pod_sends(&tcp(OUT_OF_POD, client, vip, 64, ack));
    assert_eq!(outcome, (REDIRECT, tcp(INTO_SECOND_POD, client, backend, 63, ack)));

    let flows = bench.dataplane.view(View::Conntrack).unwrap().rows;
    let expected = [
        "TCP",
        "10.32.1.1:40000",
        "10.96.0.1:80",
        "10.32.1.1:40000",
        "10.32.1.2:8080",
        "default/echo-tcp",
        "established",
    ];
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0][..7], expected.map(str::to_owned));
}

#[test]
fn options_of_the_ip_header_stay() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    bench.serve(SECOND_POD);
    let outcome = bench.pod_sends(&udp_with_options(OUT_OF_POD, (POD, 4000), (VIP, 80), 64));
    let expected = udp_with_options(INTO_SECOND_POD, (POD, 4000), (SECOND_POD, 8080), 63);
    assert_eq!(outcome, (REDIRECT, expected));
}

#[test]
fn udp_without_checksum_stays_without() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    bench.serve(SECOND_POD);
    let without = |mut packet: Vec<u8>| {
        packet[40..42].copy_from_slice(&[0, 0]);
        packet
    };
    let outcome = bench.pod_sends(&without(udp(OUT_OF_POD, (POD, 4000), (VIP, 80), 64)));
    let expected = without(udp(INTO_SECOND_POD, (POD, 4000), (SECOND_POD, 8080), 63));
    assert_eq!(outcome, (REDIRECT, expected));
}

#[test]
fn a_pod_that_reaches_itself_sees_a_stranger() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    bench.serve(POD);
    let stranger = limits::HAIRPIN_V4.low();
    let outcome = bench.pod_sends(&tcp(OUT_OF_POD, (POD, 40000), (VIP, 80), 64, syn));
    assert_eq!(outcome, (REDIRECT, tcp(INTO_POD, (stranger, 40000), (POD, 8080), 63, syn)));
    let outcome = bench.pod_sends(&tcp(OUT_OF_POD, (POD, 8080), (stranger, 40000), 64, syn_ack));
    assert_eq!(outcome, (REDIRECT, tcp(INTO_POD, (VIP, 80), (POD, 40000), 63, syn_ack)));
}

#[test]
fn a_node_port_with_a_backend_on_the_node_keeps_the_client() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    bench.serve(POD);
    let (client, port, backend) = ((CLIENT, 40000), (NODE, 30080), (POD, 8080));
    let outcome = bench.uplink_brings(&tcp(FROM_OUTSIDE, client, port, 64, syn));
    assert_eq!(outcome, (REDIRECT, tcp(INTO_POD, client, backend, 63, syn)));
    let outcome = bench.pod_sends(&tcp(OUT_OF_POD, backend, client, 64, syn_ack));
    assert_eq!(outcome, (REDIRECT, tcp(OUT_OF_POD, port, client, 63, syn_ack)));
}

#[test]
fn a_node_port_with_a_backend_elsewhere_puts_the_node_in_between() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    bench.serve(REMOTE_POD);
    let (client, port, backend) = ((CLIENT, 40000), (NODE, 30080), (REMOTE_POD, 8080));
    let (verdict, bytes) = bench.uplink_brings(&udp(FROM_OUTSIDE, client, port, 64));
    let source = u16::from_be_bytes([bytes[34], bytes[35]]);
    assert!(source >= limits::SOURCE_PORTS.0, "port {source}");
    assert_eq!((verdict, bytes), (REDIRECT, udp(FROM_OUTSIDE, (NODE, source), backend, 63)));
    let outcome = bench.uplink_brings(&udp(FROM_OUTSIDE, backend, (NODE, source), 64));
    assert_eq!(outcome, (REDIRECT, udp(FROM_OUTSIDE, port, client, 63)));
}

/// A node whose neighbours' hardware addresses are known.
fn bench_with_xdp() -> Bench {
    let bench = Bench::with(SIZES, XdpMode::Native);
    bench.ns.ip(&format!(
        "link set up0 address {}\nneighbour replace 10.31.0.12 lladdr {} dev up0\nneighbour replace 10.31.0.200 lladdr {} dev up0",
        mac_text(UPLINK_MAC),
        mac_text(OTHER_MAC),
        mac_text(OUTSIDE_MAC)
    ));
    bench
}

#[test]
fn the_driver_sends_node_port_traffic_back_out_both_ways() {
    if !is_ready() {
        return;
    }
    let mut bench = bench_with_xdp();
    bench.serve(REMOTE_POD);
    let (client, port, backend) = ((CLIENT, 40000), (NODE, 30080), (REMOTE_POD, 8080));
    let (verdict, bytes) = bench.in_driver(&tcp(FROM_OUTSIDE, client, port, 64, syn));
    let source = u16::from_be_bytes([bytes[34], bytes[35]]);
    let there: Macs = (OTHER_MAC, UPLINK_MAC);
    assert_eq!((verdict, bytes), (XDP_TX, tcp(there, (NODE, source), backend, 63, syn)));
    let from_other: Macs = (UPLINK_MAC, OTHER_MAC);
    let outcome = bench.in_driver(&tcp(from_other, backend, (NODE, source), 64, syn_ack));
    let back: Macs = (OUTSIDE_MAC, UPLINK_MAC);
    assert_eq!(outcome, (XDP_TX, tcp(back, port, client, 63, syn_ack)));
}

#[test]
fn the_driver_keeps_udp_without_checksum_and_options() {
    if !is_ready() {
        return;
    }
    let mut bench = bench_with_xdp();
    bench.serve(REMOTE_POD);
    let mut packet = udp_with_options(FROM_OUTSIDE, (CLIENT, 40000), (NODE, 30080), 64);
    let (verdict, bytes) = bench.in_driver(&packet);
    let source = u16::from_be_bytes([bytes[42], bytes[43]]);
    let there: Macs = (OTHER_MAC, UPLINK_MAC);
    let mut expected = udp_with_options(there, (NODE, source), (REMOTE_POD, 8080), 63);
    assert_eq!((verdict, bytes), (XDP_TX, expected.clone()));
    packet[48..50].copy_from_slice(&[0, 0]);
    expected[48..50].copy_from_slice(&[0, 0]);
    assert_eq!(bench.in_driver(&packet), (XDP_TX, expected));
}

#[test]
fn the_driver_passes_on_unchanged_what_is_not_for_it() {
    if !is_ready() {
        return;
    }
    let mut bench = bench_with_xdp();
    bench.serve(POD);
    let (client, port) = ((CLIENT, 40000), (NODE, 30080));
    for packet in [
        udp(FROM_OUTSIDE, client, port, 64),
        udp(FROM_OUTSIDE, client, (NODE, 22), 64),
        udp(FROM_OUTSIDE, client, (POD, 8080), 64),
        udp(FROM_OUTSIDE, client, port, 1),
        fragment(FROM_OUTSIDE, client, port, true),
        udp(FROM_OUTSIDE, client, port, 64)[..40].to_vec(),
    ] {
        assert_eq!(bench.in_driver(&packet), (XDP_PASS, packet));
    }
    // A neighbour that is not known yet.
    bench.serve(REMOTE_POD);
    bench.ns.ip("neighbour del 10.31.0.12 dev up0");
    let packet = udp(FROM_OUTSIDE, (CLIENT, 40001), port, 64);
    assert_eq!(bench.in_driver(&packet), (XDP_PASS, packet));
}

#[test]
fn a_cluster_ip_is_not_served_to_clients_outside() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    bench.serve(POD);
    let packet = udp(FROM_OUTSIDE, (CLIENT, 40000), (VIP, 80), 64);
    assert_eq!(bench.uplink_brings(&packet), (PASS, packet));
}

#[test]
fn packets_from_outside_go_straight_to_pods() {
    if !is_ready() {
        return;
    }
    let bench = Bench::new();
    let sides = ((OTHER_NODE, 40000), (POD, 53));
    let outcome = bench.uplink_brings(&udp(FROM_OUTSIDE, sides.0, sides.1, 64));
    assert_eq!(outcome, (REDIRECT, udp(INTO_POD, sides.0, sides.1, 63)));
}

#[test]
fn an_answer_of_the_node_itself_is_translated_on_its_way_out() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    bench.serve(NODE);
    let (client, port, backend) = ((CLIENT, 40000), (NODE, 30080), (NODE, 8080));
    let outcome = bench.uplink_brings(&udp(FROM_OUTSIDE, client, port, 64));
    assert_eq!(outcome, (PASS, udp(FROM_OUTSIDE, client, backend, 64)));
    let out: Macs = (OUTSIDE_MAC, UPLINK_MAC);
    let outcome = bench.run("to_uplink", bench.config.uplink, &udp(out, backend, client, 64));
    assert_eq!(outcome, (PASS, udp(out, port, client, 64)));
}

#[test]
fn a_pod_cannot_borrow_an_address() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    let packet = udp(OUT_OF_POD, (SECOND_POD, 40000), (NODE, 53), 64);
    let outcome = bench.pod_sends(&packet);
    bench.assert_dropped(outcome, "spoofed_address");

    let drops = bench.dataplane.take_drops().unwrap();
    assert_eq!(drops.len(), 1);
    let seen = &drops[0];
    assert_eq!((seen.hook, seen.reason, seen.ifindex), ("from_pod", "spoofed_address", bench.pod));
    assert_eq!((seen.source, seen.destination), (at(SECOND_POD, 40000), at(NODE, 53)));
    assert_eq!((seen.protocol, seen.length as usize), (17, packet.len()));
    assert_eq!(bench.dataplane.take_drops().unwrap(), []);
}

#[test]
fn a_pod_cannot_borrow_a_hardware_address() {
    if !is_ready() {
        return;
    }
    let bench = Bench::new();
    let outcome = bench.pod_sends(&udp(OUT_OF_SECOND_POD, (POD, 40000), (NODE, 53), 64));
    bench.assert_dropped(outcome, "spoofed_mac");
}

#[test]
fn an_interface_that_is_no_pods_sends_nothing() {
    if !is_ready() {
        return;
    }
    let bench = Bench::new();
    let packet = udp(OUT_OF_POD, (POD, 40000), (NODE, 53), 64);
    let outcome = bench.run("from_pod", bench.config.uplink, &packet);
    bench.assert_dropped(outcome, "unknown_link");
}

#[test]
fn packets_that_are_cut_or_contradict_themselves_are_dropped() {
    if !is_ready() {
        return;
    }
    let packet = udp(OUT_OF_POD, (POD, 40000), (NODE, 53), 64);
    let bench = Bench::new();
    bench.assert_dropped(bench.pod_sends(&packet[..40]), "truncated");
    let bench = Bench::new();
    let mut malformed = packet;
    malformed[14] = 0x44;
    bench.assert_dropped(bench.pod_sends(&malformed), "malformed");
}

#[test]
fn fragments_pass_unless_they_need_translation() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    bench.serve(SECOND_POD);
    for is_first in [true, false] {
        let (verdict, _) = bench.pod_sends(&fragment(OUT_OF_POD, (POD, 4000), (SECOND_POD, 53), is_first));
        assert_eq!(verdict, REDIRECT);
    }
    let outcome = bench.pod_sends(&fragment(OUT_OF_POD, (POD, 4000), (VIP, 80), true));
    bench.assert_dropped(outcome, "fragment_translated");
}

#[test]
fn a_spent_time_to_live_is_the_stacks_to_answer() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    bench.serve(SECOND_POD);
    let packet = udp(OUT_OF_POD, (POD, 4000), (SECOND_POD, 53), 1);
    assert_eq!(bench.pod_sends(&packet), (PASS, packet));
    let outcome = bench.pod_sends(&udp(OUT_OF_POD, (POD, 4000), (VIP, 80), 1));
    bench.assert_dropped(outcome, "ttl_expired");
}

#[test]
fn a_service_without_backends_drops() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    bench.dataplane.apply(&snapshot(vec![service(Protocol::Udp, vec![])])).unwrap();
    let outcome = bench.pod_sends(&udp(OUT_OF_POD, (POD, 4000), (VIP, 80), 64));
    bench.assert_dropped(outcome, "no_backend");
}

#[test]
fn a_route_that_refuses_is_heeded() {
    if !is_ready() {
        return;
    }
    let bench = Bench::new();
    bench.ns.ip("route add blackhole 10.77.0.0/16");
    let outcome = bench.pod_sends(&udp(OUT_OF_POD, (POD, 4000), ([10, 77, 0, 1], 53), 64));
    bench.assert_dropped(outcome, "unroutable");
}

#[test]
fn arp_goes_up_and_ipv6_does_not() {
    if !is_ready() {
        return;
    }
    let bench = Bench::new();
    let mut packet = udp(OUT_OF_POD, (POD, 4000), (NODE, 53), 64);
    packet[12..14].copy_from_slice(&[0x08, 0x06]);
    assert_eq!(bench.pod_sends(&packet), (PASS, packet));
    let global = udp_v6(OUT_OF_POD, ([0x20; 16], 1), ([0x21; 16], 2), 64);
    bench.assert_dropped(bench.pod_sends(&global), "unsupported_protocol");
}
