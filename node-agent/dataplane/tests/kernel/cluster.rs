//! A hub, nodes, a client outside and pods, all in namespaces of their own, as a cluster on one machine has them.
//!
//! ```text
//! client 10.31.0.200 ─┐         ┌─ node 1 10.31.0.11 ─ pods 10.32.1.*
//!                     hub bridge┤
//!                               └─ node 2 10.31.0.12 ─ pods 10.32.2.*
//! ```

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use weir_dataplane::{
    Backend, Batch, Config, Dataplane, PodLink, Protocol, ServiceKey, ServicePort, Sizes, XdpMode,
};
use weir_tests::bpffs::Bpffs;
use weir_tests::cgroup::Cgroup;
use weir_tests::netns::NetNs;
use weir_tests::packet::Mac;
use weir_tests::topology::{Bridge, PodWire};

pub(crate) const HOST_MAC: Mac = [0x02, 0, 0, 0, 0, 0xee];
pub(crate) const SIZES: Sizes =
    Sizes { services: 64, slots: 64, conntrack: 4096, sockets: 1024, pods: 16, events: 4096 };

pub(crate) struct Node {
    pub(crate) ns: NetNs,
    pub(crate) cgroup: Cgroup,
    pub(crate) config: Config,
    pub(crate) dataplane: Dataplane,
    number: u8,
    pods: u8,
    _bpffs: Bpffs,
}

pub(crate) struct Pod {
    pub(crate) ns: NetNs,
    pub(crate) address: Ipv4Addr,
    pub(crate) link: PodLink,
}

pub(crate) struct Cluster {
    pub(crate) client: NetNs,
    pub(crate) nodes: [Node; 2],
    _hub: Bridge,
}

pub(crate) fn node_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 31, 0, 10 + number)
}

impl Cluster {
    pub(crate) fn new(xdp: XdpMode) -> Self {
        let hub = Bridge::up();
        let client = NetNs::machine();
        hub.join(&client, "client", Ipv4Addr::new(10, 31, 0, 200));
        let nodes = [1, 2].map(|number| {
            let ns = NetNs::machine();
            hub.join(&ns, &format!("node{number}"), node_address(number));
            let other = 3 - number;
            ns.ip(&format!("route add 10.32.{other}.0/24 via {}", node_address(other)));
            Node::new(ns, number, xdp)
        });
        Self { client, nodes, _hub: hub }
    }

    /// Applies a batch on both nodes.
    pub(crate) fn apply(&mut self, batch: &Batch) {
        for node in &mut self.nodes {
            let (ns, dataplane) = (&node.ns, &mut node.dataplane);
            ns.run(|| dataplane.apply(batch)).unwrap();
        }
    }
}

impl Node {
    fn new(ns: NetNs, number: u8, xdp: XdpMode) -> Self {
        let (bpffs, cgroup) = (Bpffs::mount(), Cgroup::create());
        let config = Config {
            bpffs: bpffs.node(),
            cgroup: cgroup.path().to_owned(),
            uplink: ns.index_of("eth0"),
            node_addresses: vec![node_address(number).into()],
            xdp,
            sizes: SIZES,
        };
        let dataplane = ns.run(|| Dataplane::open(&config)).unwrap();
        Self { ns, cgroup, config, dataplane, number, pods: 0, _bpffs: bpffs }
    }

    /// A pod with an address of the node's range, attached.
    pub(crate) fn add_pod(&mut self) -> Pod {
        self.pods += 1;
        let address = Ipv4Addr::new(10, 32, self.number, self.pods);
        let (link, ns) = wire_pod(&self.ns, &format!("pod{}", self.pods), address, self.pods);
        let dataplane = &mut self.dataplane;
        self.ns.run(|| dataplane.attach_pod(&link)).unwrap();
        Pod { ns, address, link }
    }
}

/// A pod's namespace, and its link to the node as the dataplane knows it.
pub(crate) fn wire_pod(node: &NetNs, veth: &str, address: Ipv4Addr, number: u8) -> (PodLink, NetNs) {
    let pod_mac = [0x02, 0, 0, 0, 1, number];
    let ns = PodWire { host_name: veth, host_mac: HOST_MAC, pod_mac, address }.connect(node);
    let link = PodLink {
        ifindex: node.index_of(veth),
        addresses: vec![address.into()],
        pod_mac,
        host_mac: HOST_MAC,
    };
    (link, ns)
}

/// Answers with a name and whom it sees as the client: TCP once the client is done, UDP at once.
pub(crate) fn serve(ns: &NetNs, port: u16, name: &str) {
    let (tcp, udp) = ns.run(|| {
        let any = (Ipv4Addr::UNSPECIFIED, port);
        (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
    });
    let (tcp_name, udp_name) = (name.to_owned(), name.to_owned());
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let name = tcp_name.clone();
            std::thread::spawn(move || {
                let mut all = Vec::new();
                let client = stream.peer_addr().unwrap();
                // A client that gives up is the client's affair.
                let _ = stream.read_to_end(&mut all);
                let _ = write!(stream, "{name} saw {} send {}", client.ip(), all.len());
            });
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = udp.recv_from(&mut buffer) {
            let answer = format!("{udp_name} saw {} send {length}", client.ip());
            let _ = udp.send_to(answer.as_bytes(), client);
        }
    });
}

pub(crate) fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "default".to_owned(), name: name.to_owned(), port_name: String::new() }
}

pub(crate) fn backend(address: Ipv4Addr, port: u16) -> Backend {
    Backend {
        address: address.into(),
        port,
        node_name: "node".to_owned(),
        pod: format!("default/pod-{address}"),
        ready: true,
        terminating: false,
    }
}

/// A service at 10.96.0.1:80 and on every node's port 30080, of one protocol.
pub(crate) fn service(protocol: Protocol, backends: Vec<Backend>) -> ServicePort {
    ServicePort {
        key: key(&format!("echo-{protocol}").to_lowercase()),
        protocol,
        cluster_ips: vec![IpAddr::from([10, 96, 0, 1])],
        port: 80,
        node_port: Some(30080),
        backends,
    }
}

pub(crate) fn snapshot(upserts: Vec<ServicePort>) -> Batch {
    Batch { revision: 1, snapshot: true, upserts, deletes: Vec::new() }
}

pub(crate) fn change(upserts: Vec<ServicePort>) -> Batch {
    Batch { snapshot: false, revision: 2, ..snapshot(upserts) }
}

pub(crate) fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}
