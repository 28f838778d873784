//! A hub, nodes, a client outside and pods, all in namespaces of their own, as a cluster on one machine has them.
//!
//! ```text
//! client 10.31.0.200 ─┐         ┌─ node 1 10.31.0.11 ─ pods 10.32.1.*
//!                     hub bridge┤
//!                               └─ node 2 10.31.0.12 ─ pods 10.32.2.*
//! ```

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;

use weir_dataplane::{
    Backend, Batch, Config, Dataplane, PodLink, Protocol, ServiceKey, ServicePort, Sizes, XdpMode,
};

use crate::netns::NetNs;
use crate::sandbox::{Bpffs, Cgroup};

pub(crate) const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xee];
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
    _hub: NetNs,
}

pub(crate) fn node_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 31, 0, 10 + number)
}

impl Cluster {
    pub(crate) fn new(xdp: XdpMode) -> Self {
        let hub = NetNs::new();
        hub.ip("link add br0 type bridge\nlink set br0 up");
        let client = NetNs::new();
        join(&hub, &client, "client", Ipv4Addr::new(10, 31, 0, 200));
        let nodes = [1, 2].map(|number| {
            let ns = NetNs::new();
            join(&hub, &ns, &format!("node{number}"), node_address(number));
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

/// Joins a namespace to the hub's bridge by an `eth0`.
fn join(hub: &NetNs, ns: &NetNs, name: &str, address: Ipv4Addr) {
    hub.ip(&format!(
        "link add {name} type veth peer name eth0 netns {path}\nlink set {name} master br0 up",
        path = ns.path()
    ));
    // Frames that XDP redirects are taken by the peer's NAPI, which GRO turns on. GRO on the bridge's ports also puts
    // segments together that leave by another port, and there they must not become frames with half a checksum again.
    offload(hub, name, "gro on");
    offload(hub, name, "tx off");
    ns.ip(&format!("address add {address}/24 dev eth0\nlink set eth0 up"));
    offload(ns, "eth0", "tx off");
}

/// `ethtool -K`. XDP knows nothing of checksums that a network card is to complete.
fn offload(ns: &NetNs, interface: &str, setting: &str) {
    ns.run(|| {
        let arguments = ["-K", interface].into_iter().chain(setting.split(' '));
        let done = Command::new("ethtool").args(arguments).output().unwrap();
        assert!(done.status.success(), "ethtool: {}", String::from_utf8_lossy(&done.stderr));
    });
}

impl Node {
    fn new(ns: NetNs, number: u8, xdp: XdpMode) -> Self {
        let (bpffs, cgroup) = (Bpffs::new(), Cgroup::new());
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

/// A pod's namespace, and its veth on the node.
pub(crate) fn wire_pod(node: &NetNs, veth: &str, address: Ipv4Addr, number: u8) -> (PodLink, NetNs) {
    let ns = NetNs::new();
    let pod_mac = [0x02, 0, 0, 0, 1, number];
    let (host, pod) = (mac(HOST_MAC), mac(pod_mac));
    node.ip(&format!(
        "link add {veth} address {host} type veth peer name eth0 address {pod} netns {path}
         link set {veth} up
         route add {address}/32 dev {veth} scope link
         neighbour add {address} lladdr {pod} dev {veth} nud permanent",
        path = ns.path()
    ));
    ns.ip(&format!(
        "address add {address}/32 dev eth0
         link set eth0 up
         neighbour add 169.254.1.1 lladdr {host} dev eth0 nud permanent
         route add 169.254.1.1 dev eth0 scope link
         route add default via 169.254.1.1 dev eth0 onlink"
    ));
    let link = PodLink {
        ifindex: node.index_of(veth),
        addresses: vec![address.into()],
        pod_mac,
        host_mac: HOST_MAC,
    };
    (link, ns)
}

pub(crate) fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
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
