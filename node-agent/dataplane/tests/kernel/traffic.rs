//! Real traffic between pods, nodes and a client outside.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use weir_dataplane::{Protocol, View, XdpMode};

use crate::cluster::{Cluster, Pod, at, backend, change, node_address, serve, service, snapshot};
use crate::process::{self, Seen};
use crate::ready::is_ready;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const CLIENT: &str = "10.31.0.200";

struct Scene {
    cluster: Cluster,
    /// Two on each node; all serve.
    pods: Vec<Pod>,
}

fn scene(xdp: XdpMode) -> Scene {
    let mut cluster = Cluster::new(xdp);
    let pods: Vec<Pod> = [0, 0, 1, 1].into_iter().map(|node: usize| cluster.nodes[node].add_pod()).collect();
    for pod in &pods {
        serve(&pod.ns, 8080, &pod.address.to_string());
    }
    let backends: Vec<_> = pods.iter().map(|pod| backend(pod.address, 8080)).collect();
    cluster
        .apply(&snapshot(vec![service(Protocol::Tcp, backends.clone()), service(Protocol::Udp, backends)]));
    Scene { cluster, pods }
}

impl Seen {
    /// All exchanges succeeded and the peer was `frontend`. Returns who answered, and whom it saw.
    fn answers(&self, frontend: SocketAddr) -> Vec<(String, String)> {
        let parse = |line: &String| {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(words[0], frontend.to_string(), "{line}");
            (words[1].to_owned(), words[3].to_owned())
        };
        self.lines.iter().map(parse).collect()
    }
}

fn who(answers: &[(String, String)]) -> BTreeSet<String> {
    answers.iter().map(|(who, _)| who.clone()).collect()
}

fn all(pods: &[Pod]) -> BTreeSet<String> {
    pods.iter().map(|pod| pod.address.to_string()).collect()
}

/// Nothing was dropped, sent again or damaged.
fn assert_clean(scene: &Scene) {
    let of_node = |node: &crate::cluster::Node| node.dataplane.view(View::Drops).unwrap().rows;
    let rows = scene.cluster.nodes.iter().flat_map(of_node);
    let drops: Vec<_> = rows.filter(|row| row[0] == "drop" && row[2] != "0").collect();
    assert_eq!(drops, Vec::<Vec<String>>::new());
    let machines = scene.cluster.nodes.iter().map(|node| &node.ns).chain([&scene.cluster.client]);
    for ns in machines.chain(scene.pods.iter().map(|pod| &pod.ns)) {
        assert_eq!(ns.complaints(), []);
    }
}

#[test]
fn pods_reach_pods_on_their_node_and_on_the_other() {
    if !is_ready() {
        return;
    }
    let scene = scene(XdpMode::Off);
    for target in &scene.pods[1..] {
        let to = at(target.address, 8080);
        for orders in [format!("tcp {to} 1"), format!("udp-unconnected {to} 1")] {
            let seen = process::run(&scene.pods[0].ns, None, &orders).answers(to);
            assert_eq!(seen, [(target.address.to_string(), "10.32.1.1".to_owned())], "{orders}");
        }
    }
    assert_clean(&scene);
}

#[test]
fn sockets_of_pods_and_nodes_reach_every_backend_of_a_cluster_ip() {
    if !is_ready() {
        return;
    }
    let scene = scene(XdpMode::Off);
    let node = &scene.cluster.nodes[0];
    let vip = at(VIP, 80);
    for (from, ns) in [("pod", &scene.pods[0].ns), ("node", &node.ns)] {
        for verb in ["tcp", "udp-connected", "udp-unconnected"] {
            let mut answered = BTreeSet::new();
            // A UDP socket keeps to one backend, so ask with many.
            for _ in 0..if verb == "tcp" { 1 } else { 24 } {
                let times = if verb == "tcp" { 40 } else { 2 };
                let seen = process::run(ns, Some(node.cgroup.path()), &format!("{verb} {vip} {times}"));
                let answers = seen.answers(vip);
                assert_eq!(answers.len(), times, "{from} {verb}: {seen:?}");
                assert!(verb == "tcp" || who(&answers).len() == 1, "{from} {verb}: {seen:?}");
                answered.extend(who(&answers));
            }
            assert_eq!(answered, all(&scene.pods), "{from} {verb}");
        }
    }
    assert_eq!(node.dataplane.view(View::Conntrack).unwrap().rows, Vec::<Vec<String>>::new());
}

#[test]
fn a_socket_of_both_families_reaches_a_cluster_ip() {
    if !is_ready() {
        return;
    }
    let scene = scene(XdpMode::Off);
    let node = &scene.cluster.nodes[0];
    node.ns.sysctl("ipv6/conf/all/disable_ipv6", "0");
    let vip = at(VIP.to_ipv6_mapped(), 80);
    for orders in
        [format!("tcp {vip} 4"), format!("udp-connected {vip} 4"), format!("udp-unconnected {vip} 4")]
    {
        let seen = process::run(&node.ns, Some(node.cgroup.path()), &orders);
        assert_eq!(seen.answers(vip).len(), 4, "{orders}: {seen:?}");
    }
}

#[test]
fn packets_that_no_socket_program_saw_reach_every_backend_of_a_cluster_ip() {
    if !is_ready() {
        return;
    }
    let scene = scene(XdpMode::Off);
    let vip = at(VIP, 80);
    let seen = process::run(&scene.pods[0].ns, None, &format!("tcp {vip} 60"));
    let answers = seen.answers(vip);
    assert_eq!(who(&answers), all(&scene.pods), "{seen:?}");
    for (who, saw) in answers {
        let hairpin = who == scene.pods[0].address.to_string();
        assert_eq!(saw, if hairpin { "169.254.43.1" } else { "10.32.1.1" });
    }
    let seen = process::run(&scene.pods[0].ns, None, &format!("udp-unconnected {vip} 3"));
    assert_eq!(seen.answers(vip).len(), 3, "{seen:?}");
    assert_clean(&scene);
}

/// Backends on the node asked see the client; those of the other node see the node asked.
fn assert_node_ports_work(xdp: XdpMode) {
    let scene = scene(xdp);
    for number in [1, 2] {
        let to = at(node_address(number), 30080);
        let mut answers = process::run(&scene.cluster.client, None, &format!("tcp {to} 60")).answers(to);
        assert_eq!(answers.len(), 60);
        for _ in 0..24 {
            let seen = process::run(&scene.cluster.client, None, &format!("udp-unconnected {to} 2"));
            assert_eq!(seen.lines.len(), 2);
            answers.extend(seen.answers(to));
        }
        assert_eq!(who(&answers), all(&scene.pods), "{answers:?}");
        for (who, saw) in answers {
            let is_local = who.starts_with(&format!("10.32.{number}."));
            let expected = if is_local { CLIENT.to_owned() } else { node_address(number).to_string() };
            assert_eq!(saw, expected, "{who} asked by node {number}");
        }
    }
    assert_clean(&scene);
    for node in &scene.cluster.nodes {
        let rows = node.dataplane.view(View::Drops).unwrap().rows;
        let accelerated: u64 = rows.iter().find(|row| row[1] == "accelerated").unwrap()[2].parse().unwrap();
        assert_eq!(accelerated > 100, xdp == XdpMode::NativeRedirect, "{accelerated} packets");
    }
}

#[test]
fn a_client_outside_reaches_every_backend_by_node_port() {
    if is_ready() {
        assert_node_ports_work(XdpMode::Off);
    }
}

#[test]
fn a_client_outside_reaches_every_backend_by_node_port_through_xdp() {
    if is_ready() {
        assert_node_ports_work(XdpMode::NativeRedirect);
    }
}

#[test]
fn pods_and_nodes_reach_node_ports_of_either_node() {
    if !is_ready() {
        return;
    }
    let scene = scene(XdpMode::Off);
    let node = &scene.cluster.nodes[0];
    for number in [1, 2] {
        let to = at(node_address(number), 30080);
        for ns in [&scene.pods[0].ns, &node.ns] {
            let seen = process::run(ns, Some(node.cgroup.path()), &format!("tcp {to} 40"));
            assert_eq!(who(&seen.answers(to)), all(&scene.pods), "{seen:?}");
        }
    }
}

#[test]
fn a_backend_that_is_a_process_of_the_node_answers_by_both_ways() {
    if !is_ready() {
        return;
    }
    let mut scene = scene(XdpMode::Off);
    serve(&scene.cluster.nodes[0].ns, 9090, "node-process");
    scene.cluster.apply(&change(vec![service(Protocol::Tcp, vec![backend(node_address(1), 9090)])]));
    let vip = at(VIP, 80);
    let seen = process::run(&scene.pods[0].ns, None, &format!("tcp {vip} 3"));
    assert_eq!(seen.lines, vec![format!("{vip} node-process saw 10.32.1.1 send 4000"); 3]);
    for number in [1, 2] {
        let to = at(node_address(number), 30080);
        let seen = process::run(&scene.cluster.client, None, &format!("tcp {to} 3"));
        let saw = if number == 1 { CLIENT.to_owned() } else { node_address(2).to_string() };
        assert_eq!(seen.lines, vec![format!("{to} node-process saw {saw} send 4000"); 3]);
    }
}

#[test]
fn a_service_without_backends_refuses() {
    if !is_ready() {
        return;
    }
    let mut scene = scene(XdpMode::Off);
    scene.cluster.apply(&change(vec![service(Protocol::Tcp, vec![])]));
    let node = &scene.cluster.nodes[0];
    let orders = format!("tcp {} 1", at(VIP, 80));
    let seen = process::run(&scene.pods[0].ns, Some(node.cgroup.path()), &orders);
    assert_eq!(seen.lines, ["error ConnectionRefused"]);
}

#[test]
fn udp_flows_leave_a_backend_that_is_gone_at_once() {
    if !is_ready() {
        return;
    }
    let mut scene = scene(XdpMode::Off);
    let to = at(node_address(1), 30080);
    let (first, second) = (scene.pods[2].address, scene.pods[3].address);
    scene.cluster.apply(&change(vec![service(Protocol::Udp, vec![backend(first, 8080)])]));
    let socket = scene.cluster.client.run(|| std::net::UdpSocket::bind(("0.0.0.0", 0)).unwrap());
    socket.set_read_timeout(Some(std::time::Duration::from_secs(3))).unwrap();
    let ask = || {
        let mut buffer = [0; 64];
        socket.send_to(b"hello", to).unwrap();
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from, to);
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert!(ask().starts_with(&format!("{first} ")));
    scene.cluster.apply(&change(vec![service(Protocol::Udp, vec![backend(second, 8080)])]));
    assert!(ask().starts_with(&format!("{second} ")));
}
