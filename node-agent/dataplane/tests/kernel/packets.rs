//! One packet into one program (BPF_PROG_TEST_RUN): its verdict, and every byte that comes out.

use std::net::Ipv4Addr;

use aya::maps::{HashMap, Map, MapData};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use weir_dataplane::{Config, Dataplane, Protocol, Sizes, View, XdpMode};
use weir_ebpf_common::{Address, Flow, ServiceId, Tuple, limits};
use weir_tests::bpffs::Bpffs;
use weir_tests::cgroup::Cgroup;
use weir_tests::netns::NetNs;
use weir_tests::packet::{Macs, Side, ack, fragment, rst, syn, syn_ack, tcp, udp, udp_v6, udp_with_options};
use weir_tests::topology::mac_text;

use crate::cluster::{HOST_MAC, SIZES, at, backend, change, service, snapshot, wire_pod};
use crate::ready::is_ready;

/// On to the next program, and so to the stack: `TCX_NEXT`.
const PASS: u32 = u32::MAX;
/// `TCX_DROP`.
const DROP: u32 = 2;
/// `TCX_REDIRECT`.
const REDIRECT: u32 = 7;

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

const NODE: [u8; 4] = [10, 31, 0, 11];
const OTHER_NODE: [u8; 4] = [10, 31, 0, 12];
const CLIENT: [u8; 4] = [10, 31, 0, 200];
const VIP: [u8; 4] = [10, 96, 0, 1];
const POD: [u8; 4] = [10, 32, 1, 1];
const SECOND_POD: [u8; 4] = [10, 32, 1, 2];
const REMOTE_POD: [u8; 4] = [10, 32, 2, 1];
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const SECOND_POD_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 2, 9];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];

/// A node with two pods, and no other machine behind its uplink.
struct Bench {
    ns: NetNs,
    dataplane: Dataplane,
    config: Config,
    pod: u32,
    second_pod: u32,
    _pods: [NetNs; 2],
    _guards: (Bpffs, Cgroup),
}

impl Bench {
    fn new() -> Self {
        Self::with_sizes(SIZES)
    }

    fn with_sizes(sizes: Sizes) -> Self {
        Self::with(sizes, XdpMode::Off)
    }

    fn with(sizes: Sizes, xdp: XdpMode) -> Self {
        let ns = NetNs::machine();
        ns.ip("link add up0 type veth peer name up1\nlink set up1 up\nlink set up0 up");
        ns.ip("address add 10.31.0.11/24 dev up0\nroute add 10.32.2.0/24 via 10.31.0.12");
        let guards = (Bpffs::mount(), Cgroup::create());
        let config = Config {
            bpffs: guards.0.node(),
            cgroup: guards.1.path().to_owned(),
            uplink: ns.index_of("up0"),
            node_addresses: vec![Ipv4Addr::from(NODE).into()],
            xdp,
            sizes,
        };
        let mut dataplane = ns.run(|| Dataplane::open(&config)).unwrap();
        let (link, first) = wire_pod(&ns, "pod1", POD.into(), 1);
        let (second_link, second) = wire_pod(&ns, "pod2", SECOND_POD.into(), 2);
        ns.run(|| dataplane.attach_pod(&link).and_then(|()| dataplane.attach_pod(&second_link))).unwrap();
        Self {
            ns,
            dataplane,
            config,
            pod: link.ifindex,
            second_pod: second_link.ifindex,
            _pods: [first, second],
            _guards: guards,
        }
    }

    /// One TCP and one UDP service, each with the one backend.
    fn serve(&mut self, address: [u8; 4]) {
        let backends = vec![backend(address.into(), 8080)];
        let ports = vec![service(Protocol::Tcp, backends.clone()), service(Protocol::Udp, backends)];
        self.dataplane.apply(&snapshot(ports)).unwrap();
    }

    /// Runs a program on tcx as if the packet came by an interface.
    fn run(&self, program: &str, ifindex: u32, packet: &[u8]) -> (u32, Vec<u8>) {
        let mut context = [0; 192];
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        self.test(program, packet, &context)
    }

    /// Runs the program on the uplink's driver.
    fn in_driver(&self, packet: &[u8]) -> (u32, Vec<u8>) {
        let mut context = [0; 24];
        context[4..8].copy_from_slice(&(packet.len() as u32).to_ne_bytes());
        context[12..16].copy_from_slice(&self.config.uplink.to_ne_bytes());
        self.test("uplink_xdp", packet, &context)
    }

    /// aya's handle on one kind of program serves for all: the kernel goes by the program's own.
    fn test(&self, program: &str, packet: &[u8], context: &[u8]) -> (u32, Vec<u8>) {
        let mut output = vec![0; packet.len() + 64];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut output),
            ctx_in: Some(context),
            ..TestRunOptions::default()
        };
        let path = self.config.bpffs.join("programs").join(program);
        let result = self.ns.run(|| SchedClassifier::from_pin(path).unwrap().test_run(options)).unwrap();
        output.truncate(result.data_size_out as usize);
        (result.return_value, output)
    }

    fn pod_sends(&self, packet: &[u8]) -> (u32, Vec<u8>) {
        self.run("from_pod", self.pod, packet)
    }

    fn second_pod_sends(&self, packet: &[u8]) -> (u32, Vec<u8>) {
        self.run("from_pod", self.second_pod, packet)
    }

    fn uplink_brings(&self, packet: &[u8]) -> (u32, Vec<u8>) {
        self.run("from_uplink", self.config.uplink, packet)
    }

    /// The packet was dropped, for this reason alone, and counted once.
    fn assert_dropped(&self, outcome: (u32, Vec<u8>), reason: &str) {
        assert_eq!(outcome.0, DROP);
        let rows = self.dataplane.view(View::Drops).unwrap().rows;
        let counted: Vec<_> = rows.into_iter().filter(|row| row[0] == "drop" && row[2] != "0").collect();
        assert_eq!(counted, [["drop", reason, "1"].map(str::to_owned)]);
    }
}

const OUT_OF_POD: Macs = (HOST_MAC, POD_MAC);
const OUT_OF_SECOND_POD: Macs = (HOST_MAC, SECOND_POD_MAC);
const INTO_POD: Macs = (POD_MAC, HOST_MAC);
const INTO_SECOND_POD: Macs = (SECOND_POD_MAC, HOST_MAC);
const FROM_OUTSIDE: Macs = (UPLINK_MAC, OUTSIDE_MAC);

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
