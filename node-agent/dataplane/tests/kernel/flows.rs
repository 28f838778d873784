//! How flows begin, keep their backend, and are forgotten.

use std::net::Ipv4Addr;

use aya::maps::{HashMap, Map, MapData};
use weir_dataplane::{Protocol, Sizes, View};
use weir_ebpf_common::{Address, Flow, ServiceId, Tuple, limits};
use weir_tests::packet::{Side, ack, rst, syn, syn_ack, tcp, udp};

use crate::bench::*;
use crate::cluster::{SIZES, backend, change, service};
use crate::ready::is_ready;

#[test]
fn a_flow_keeps_its_backend_when_the_service_gets_another() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    bench.serve(SECOND_POD);
    let (client, vip) = ((POD, 40000), (VIP, 80));
    let first = bench.pod_sends(&tcp(OUT_OF_POD, client, vip, 64, syn));
    assert_eq!(first.1, tcp(INTO_SECOND_POD, client, (SECOND_POD, 8080), 63, syn));
    bench.second_pod_sends(&tcp(OUT_OF_SECOND_POD, (SECOND_POD, 8080), client, 64, syn_ack));
    let moved = service(Protocol::Tcp, vec![backend(REMOTE_POD.into(), 8080)]);
    bench.dataplane.apply(&change(vec![moved])).unwrap();

    let same = bench.pod_sends(&tcp(OUT_OF_POD, client, vip, 64, ack));
    assert_eq!(same.1, tcp(INTO_SECOND_POD, client, (SECOND_POD, 8080), 63, ack));
    let other_client = (POD, 40001);
    let other = bench.pod_sends(&tcp(OUT_OF_POD, other_client, vip, 64, syn));
    assert_eq!(other.1, tcp(OUT_OF_POD, other_client, (REMOTE_POD, 8080), 63, syn));
}

#[test]
fn two_services_with_one_backend_do_not_collide() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    bench.serve(SECOND_POD);
    let mut second = service(Protocol::Tcp, vec![backend(SECOND_POD.into(), 8080)]);
    second.key = crate::cluster::key("second");
    second.cluster_ips = vec![Ipv4Addr::new(10, 96, 0, 2).into()];
    second.node_port = None;
    bench.dataplane.apply(&change(vec![second])).unwrap();
    let (client, backend) = ((POD, 40000), (SECOND_POD, 8080));
    bench.pod_sends(&tcp(OUT_OF_POD, client, (VIP, 80), 64, syn));

    let second_vip = ([10, 96, 0, 2], 80);
    let (verdict, bytes) = bench.pod_sends(&tcp(OUT_OF_POD, client, second_vip, 64, syn));
    let port = u16::from_be_bytes([bytes[34], bytes[35]]);
    assert!(port >= limits::SOURCE_PORTS.0, "port {port}");
    let expected = tcp(INTO_SECOND_POD, (POD, port), backend, 63, syn);
    assert_eq!((verdict, bytes), (REDIRECT, expected));
    let (_, bytes) = bench.second_pod_sends(&tcp(OUT_OF_SECOND_POD, backend, (POD, port), 64, syn_ack));
    assert_eq!(bytes, tcp(INTO_POD, second_vip, client, 63, syn_ack));
    let (_, bytes) = bench.second_pod_sends(&tcp(OUT_OF_SECOND_POD, backend, client, 64, syn_ack));
    assert_eq!(bytes, tcp(INTO_POD, (VIP, 80), client, 63, syn_ack));
}

#[test]
fn a_client_that_uses_its_port_again_gets_a_new_flow() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    bench.serve(POD);
    let (client, port) = ((CLIENT, 40000), (NODE, 30080));
    bench.uplink_brings(&tcp(FROM_OUTSIDE, client, port, 64, syn));
    bench.uplink_brings(&tcp(FROM_OUTSIDE, client, port, 64, rst));
    let moved = service(Protocol::Tcp, vec![backend(SECOND_POD.into(), 8080)]);
    bench.dataplane.apply(&change(vec![moved])).unwrap();
    let outcome = bench.uplink_brings(&tcp(FROM_OUTSIDE, client, port, 64, syn));
    assert_eq!(outcome, (REDIRECT, tcp(INTO_SECOND_POD, client, (SECOND_POD, 8080), 63, syn)));
}

#[test]
fn a_connection_without_answer_leaves_a_backend_that_is_gone() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    bench.serve(POD);
    let (client, port) = ((CLIENT, 40000), (NODE, 30080));
    bench.uplink_brings(&tcp(FROM_OUTSIDE, client, port, 64, syn));
    bench.serve(SECOND_POD);
    let outcome = bench.uplink_brings(&tcp(FROM_OUTSIDE, client, port, 64, syn));
    assert_eq!(outcome, (REDIRECT, tcp(INTO_SECOND_POD, client, (SECOND_POD, 8080), 63, syn)));
}

#[test]
fn a_connection_goes_on_to_a_backend_that_is_gone_but_does_not_begin_there() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::new();
    bench.serve(POD);
    let (client, port) = ((CLIENT, 40000), (NODE, 30080));
    bench.uplink_brings(&tcp(FROM_OUTSIDE, client, port, 64, syn));
    bench.pod_sends(&tcp(OUT_OF_POD, (POD, 8080), client, 64, syn_ack));
    bench.serve(SECOND_POD);
    let outcome = bench.uplink_brings(&tcp(FROM_OUTSIDE, client, port, 64, ack));
    assert_eq!(outcome, (REDIRECT, tcp(INTO_POD, client, (POD, 8080), 63, ack)));
    let outcome = bench.uplink_brings(&tcp(FROM_OUTSIDE, client, port, 64, syn));
    assert_eq!(outcome, (REDIRECT, tcp(INTO_SECOND_POD, client, (SECOND_POD, 8080), 63, syn)));
}

/// The map of flows, opened once more.
fn flows(bench: &Bench) -> HashMap<MapData, Tuple, Flow> {
    let pin = MapData::from_pin(bench.config.bpffs.join("CONNTRACK")).unwrap();
    Map::from_map_data(pin).unwrap().try_into().unwrap()
}

/// Nanoseconds of the clock that flows go by.
fn now() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000_000
}

fn side((octets, port): Side) -> (Address, u16) {
    (Address::v4(octets), port)
}

#[test]
fn a_flow_that_opens_where_an_old_one_is_forgotten_stays() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::with_sizes(Sizes { conntrack: 1 << 17, ..SIZES });
    bench.serve(POD);
    let (mut conntrack, now) = (flows(&bench), now());
    let arrives: Vec<_> =
        (10_000..30_000).map(|port| Tuple::new(6, side((CLIENT, port)), side((NODE, 30080)))).collect();
    let put = |conntrack: &mut HashMap<MapData, Tuple, Flow>, arrives: &Tuple, seen| {
        let leaves = Tuple::new(6, (arrives.source(), arrives.source_port()), side((POD, 8080)));
        conntrack.insert(arrives, Flow::forward(arrives, leaves, ServiceId::new(1), seen), 0).unwrap();
    };
    arrives.iter().for_each(|arrives| put(&mut conntrack, arrives, 0));
    let dataplane = &mut bench.dataplane;
    std::thread::scope(|scope| {
        let collecting = scope.spawn(|| while dataplane.collect().unwrap() > 0 {});
        arrives.iter().for_each(|arrives| put(&mut conntrack, arrives, now));
        collecting.join().unwrap();
    });
    let lost = arrives.iter().filter(|arrives| conntrack.get(arrives, 0).is_err()).count();
    assert_eq!(lost, 0, "of {}", arrives.len());
}

#[test]
fn all_old_flows_are_forgotten_and_no_others() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::with_sizes(Sizes { conntrack: 1 << 17, ..SIZES });
    let (mut conntrack, now) = (flows(&bench), now());
    for port in 10_000..15_000 {
        let arrives = Tuple::new(6, side((CLIENT, port)), side((NODE, 30080)));
        let leaves = Tuple::new(6, side((CLIENT, port)), side((POD, 8080)));
        // Of every fourth only the answers were heard of lately, and every fourth is new.
        let (seen, answered) =
            ([0, 0, 0, now][usize::from(port % 4)], [0, now, 0, now][usize::from(port % 4)]);
        let answers = leaves.reversed();
        conntrack.insert(arrives, Flow::forward(&arrives, leaves, ServiceId::new(1), seen), 0).unwrap();
        conntrack.insert(answers, Flow::reply(&answers, &arrives, ServiceId::new(1), answered), 0).unwrap();
    }
    assert_eq!(bench.dataplane.collect().unwrap(), 5000);
    assert_eq!(bench.dataplane.view(View::Conntrack).unwrap().rows.len(), 2500);
    assert_eq!(bench.dataplane.collect().unwrap(), 0);
}

#[test]
fn a_flow_finds_no_source_port_when_all_are_taken() {
    if !is_ready() {
        return;
    }
    let mut bench = Bench::with_sizes(Sizes { conntrack: 1 << 17, ..SIZES });
    bench.serve(REMOTE_POD);
    let (mut flows, now) = (flows(&bench), now());
    for port in limits::SOURCE_PORTS.0..=limits::SOURCE_PORTS.1 {
        let answers = Tuple::new(17, side((REMOTE_POD, 8080)), side((NODE, port)));
        let opened = Tuple::new(17, side(([10, 9, 9, 9], port)), side((NODE, 30080)));
        flows.insert(answers, Flow::reply(&answers, &opened, ServiceId::new(1), now), 0).unwrap();
    }
    let outcome = bench.uplink_brings(&udp(FROM_OUTSIDE, (CLIENT, 40000), (NODE, 30080), 64));
    bench.assert_dropped(outcome, "source_ports_exhausted");
}
