//! A node on which one packet at a time runs through one program (BPF_PROG_TEST_RUN).

use std::net::Ipv4Addr;

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use weir_dataplane::{Config, Dataplane, Protocol, Sizes, View, XdpMode};
use weir_tests::bpffs::Bpffs;
use weir_tests::cgroup::Cgroup;
use weir_tests::netns::NetNs;
use weir_tests::packet::Macs;

use crate::cluster::{HOST_MAC, SIZES, backend, service, snapshot, wire_pod};

/// On to the next program, and so to the stack: `TCX_NEXT`.
pub(crate) const PASS: u32 = u32::MAX;
/// `TCX_DROP`.
pub(crate) const DROP: u32 = 2;
/// `TCX_REDIRECT`.
pub(crate) const REDIRECT: u32 = 7;

pub(crate) const XDP_PASS: u32 = 2;
pub(crate) const XDP_TX: u32 = 3;

pub(crate) const NODE: [u8; 4] = [10, 31, 0, 11];
pub(crate) const OTHER_NODE: [u8; 4] = [10, 31, 0, 12];
pub(crate) const CLIENT: [u8; 4] = [10, 31, 0, 200];
pub(crate) const VIP: [u8; 4] = [10, 96, 0, 1];
pub(crate) const POD: [u8; 4] = [10, 32, 1, 1];
pub(crate) const SECOND_POD: [u8; 4] = [10, 32, 1, 2];
pub(crate) const REMOTE_POD: [u8; 4] = [10, 32, 2, 1];
pub(crate) const POD_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(crate) const SECOND_POD_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
pub(crate) const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 2, 9];
pub(crate) const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];
pub(crate) const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];

/// A node with two pods, and no other machine behind its uplink.
pub(crate) struct Bench {
    pub(crate) ns: NetNs,
    pub(crate) dataplane: Dataplane,
    pub(crate) config: Config,
    pub(crate) pod: u32,
    second_pod: u32,
    _pods: [NetNs; 2],
    _guards: (Bpffs, Cgroup),
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_sizes(SIZES)
    }

    pub(crate) fn with_sizes(sizes: Sizes) -> Self {
        Self::with(sizes, XdpMode::Off)
    }

    pub(crate) fn with(sizes: Sizes, xdp: XdpMode) -> Self {
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
    pub(crate) fn serve(&mut self, address: [u8; 4]) {
        let backends = vec![backend(address.into(), 8080)];
        let ports = vec![service(Protocol::Tcp, backends.clone()), service(Protocol::Udp, backends)];
        self.dataplane.apply(&snapshot(ports)).unwrap();
    }

    /// Runs a program on tcx as if the packet came by an interface.
    pub(crate) fn run(&self, program: &str, ifindex: u32, packet: &[u8]) -> (u32, Vec<u8>) {
        let mut context = [0; 192];
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        self.test(program, packet, &context)
    }

    /// Runs the program on the uplink's driver.
    pub(crate) fn in_driver(&self, packet: &[u8]) -> (u32, Vec<u8>) {
        let mut context = [0; 24];
        context[4..8].copy_from_slice(&(packet.len() as u32).to_ne_bytes());
        context[12..16].copy_from_slice(&self.config.uplink.to_ne_bytes());
        self.test("uplink_xdp", packet, &context)
    }

    /// aya's handle on one kind of program serves for all: the kernel goes by the program's own.
    pub(crate) fn test(&self, program: &str, packet: &[u8], context: &[u8]) -> (u32, Vec<u8>) {
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

    pub(crate) fn pod_sends(&self, packet: &[u8]) -> (u32, Vec<u8>) {
        self.run("from_pod", self.pod, packet)
    }

    pub(crate) fn second_pod_sends(&self, packet: &[u8]) -> (u32, Vec<u8>) {
        self.run("from_pod", self.second_pod, packet)
    }

    pub(crate) fn uplink_brings(&self, packet: &[u8]) -> (u32, Vec<u8>) {
        self.run("from_uplink", self.config.uplink, packet)
    }

    /// The packet was dropped, for this reason alone, and counted once.
    pub(crate) fn assert_dropped(&self, outcome: (u32, Vec<u8>), reason: &str) {
        assert_eq!(outcome.0, DROP);
        let rows = self.dataplane.view(View::Drops).unwrap().rows;
        let counted: Vec<_> = rows.into_iter().filter(|row| row[0] == "drop" && row[2] != "0").collect();
        assert_eq!(counted, [["drop", reason, "1"].map(str::to_owned)]);
    }
}

pub(crate) const OUT_OF_POD: Macs = (HOST_MAC, POD_MAC);
pub(crate) const OUT_OF_SECOND_POD: Macs = (HOST_MAC, SECOND_POD_MAC);
pub(crate) const INTO_POD: Macs = (POD_MAC, HOST_MAC);
pub(crate) const INTO_SECOND_POD: Macs = (SECOND_POD_MAC, HOST_MAC);
pub(crate) const FROM_OUTSIDE: Macs = (UPLINK_MAC, OUTSIDE_MAC);
