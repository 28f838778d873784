//! Namespaces joined as the machines of a cluster are: by a bridge between machines, and by a routed pair of virtual
//! interfaces between a node and each of its pods.

use std::net::Ipv4Addr;

use crate::netns::NetNs;
use crate::packet::Mac;

/// Machines on one wire: a bridge in a namespace of its own.
#[derive(Debug)]
pub struct Bridge {
    ns: NetNs,
}

impl Bridge {
    pub fn up() -> Self {
        let ns = NetNs::machine();
        ns.ip("link add br0 type bridge\nlink set br0 up");
        Self { ns }
    }

    /// Joins `machine` by an `eth0` with `address`/24, and a port of that name here. Nobody on the way relies on a
    /// network card that completes checksums: XDP, which sees the frames, knows nothing of those.
    pub fn join(&self, machine: &NetNs, port: &str, address: Ipv4Addr) {
        self.ns.ip(&format!(
            "link add {port} type veth peer name eth0 netns {path}\nlink set {port} master br0 up",
            path = machine.path().display()
        ));
        // Frames that XDP redirects are taken by the peer's NAPI, which GRO turns on. GRO on the bridge's ports also puts
        // segments together that leave by another port, and there they must not become frames with half a checksum again.
        self.ns.offload(port, "gro on");
        self.ns.offload(port, "tx off");
        machine.ip(&format!("address add {address}/24 dev eth0\nlink set eth0 up"));
        machine.offload("eth0", "tx off");
    }
}

/// The wire between a node and a pod: what its two ends are called and who they are.
#[derive(Clone, Copy, Debug)]
pub struct PodWire<'a> {
    /// The interface on the node; the one in the pod is `eth0`.
    pub host_name: &'a str,
    pub host_mac: Mac,
    pub pod_mac: Mac,
    pub address: Ipv4Addr,
}

impl PodWire<'_> {
    /// Makes the pod's namespace and the wire to it. The node has a route to the pod's address alone, the pod one to
    /// everywhere by 169.254.1.1, and both know each other's hardware address without asking.
    pub fn connect(&self, node: &NetNs) -> NetNs {
        let Self { host_name, address, .. } = self;
        let (host, pod) = (mac_text(self.host_mac), mac_text(self.pod_mac));
        let ns = NetNs::machine();
        node.ip(&format!(
            "link add {host_name} address {host} type veth peer name eth0 address {pod} netns {path}
             link set {host_name} up
             route add {address}/32 dev {host_name} scope link
             neighbour add {address} lladdr {pod} dev {host_name} nud permanent",
            path = ns.path().display()
        ));
        ns.ip(&format!(
            "address add {address}/32 dev eth0
             link set eth0 up
             neighbour add 169.254.1.1 lladdr {host} dev eth0 nud permanent
             route add 169.254.1.1 dev eth0 scope link
             route add default via 169.254.1.1 dev eth0 onlink"
        ));
        ns
    }
}

/// A hardware address as `ip` takes it: `02:00:00:00:01:01`.
pub fn mac_text(octets: Mac) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::require;

    #[test]
    fn a_pod_and_a_machine_beyond_the_bridge_reach_each_other() {
        if !require::root() {
            return;
        }
        let bridge = Bridge::up();
        let (node, client) = (NetNs::machine(), NetNs::machine());
        bridge.join(&node, "node", [10, 31, 0, 11].into());
        bridge.join(&client, "client", [10, 31, 0, 200].into());
        client.ip("route add 10.32.1.0/24 via 10.31.0.11");
        let (host_mac, pod_mac) = ([2, 0, 0, 0, 0, 0xee], [2, 0, 0, 0, 1, 1]);
        let wire = PodWire { host_name: "pod1", host_mac, pod_mac, address: [10, 32, 1, 1].into() };
        let pod = wire.connect(&node);

        let bound = |ns: &NetNs| {
            let socket = ns.run(|| UdpSocket::bind("0.0.0.0:5353")).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket
        };
        let (asking, answering) = (bound(&client), bound(&pod));
        asking.send_to(b"hello", "10.32.1.1:5353").unwrap();
        let (length, from) = answering.recv_from(&mut [0; 8]).unwrap();
        assert_eq!((length, from), (5, "10.31.0.200:5353".parse().unwrap()));
        answering.send_to(b"back", from).unwrap();
        assert_eq!(asking.recv_from(&mut [0; 8]).unwrap(), (4, "10.32.1.1:5353".parse().unwrap()));
        assert_eq!(pod.complaints(), []);
    }
}
