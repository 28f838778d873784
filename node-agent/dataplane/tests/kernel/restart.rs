//! The dataplane without its agent, and the agents after.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use weir_dataplane::{Dataplane, Error, PlanError, Protocol, View, XdpMode};
use weir_ebpf_common::Node as NodeValue;

use crate::cluster::{Cluster, Node, Pod, at, backend, change, key, node_address, serve, service, snapshot};
use crate::process;
use crate::ready::is_ready;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// A cluster with a pod on each node; the second serves at 10.96.0.1:80 and by NodePort.
fn scene() -> (Cluster, [Pod; 2]) {
    let mut cluster = Cluster::new(XdpMode::Off);
    let pods = [0, 1].map(|node: usize| cluster.nodes[node].add_pod());
    serve(&pods[1].ns, 8080, "server");
    let backends = vec![backend(pods[1].address, 8080)];
    cluster
        .apply(&snapshot(vec![service(Protocol::Tcp, backends.clone()), service(Protocol::Udp, backends)]));
    (cluster, pods)
}

impl Node {
    /// Another agent takes over, after the first has died without a word.
    fn reopen(&mut self) {
        self.dataplane = self.ns.run(|| Dataplane::open(&self.config)).unwrap();
    }

    /// Name, link number and program number of each link.
    fn links(&self) -> Vec<[String; 3]> {
        let rows = self.dataplane.view(View::Links).unwrap().rows;
        rows.into_iter().map(|row| [row[0].clone(), row[1].clone(), row[2].clone()]).collect()
    }

    fn rows(&self, view: View) -> Vec<Vec<String>> {
        self.dataplane.view(view).unwrap().rows
    }

    /// As if the programs that run were another version's.
    fn forget_build(&self) {
        let pin = MapData::from_pin(self.config.bpffs.join("NODE")).unwrap();
        let mut map: Array<_, NodeValue> = Map::from_map_data(pin).unwrap().try_into().unwrap();
        let node = map.get(&0, 0).unwrap();
        map.set(0, NodeValue::new(node.addresses(), node.uplink(), node.redirects(), 1), 0).unwrap();
    }
}

/// One more exchange on a connection that stays.
fn exchange(mut stream: &TcpStream) {
    stream.write_all(b"more").unwrap();
}

#[test]
fn an_agent_that_starts_again_adopts_everything() {
    if !is_ready() {
        return;
    }
    let (mut cluster, pods) = scene();
    let to = at(node_address(1), 30080);
    let stream = cluster.client.run(|| TcpStream::connect(to).unwrap());
    let node = &mut cluster.nodes[0];
    let before = (node.links(), node.rows(View::Services), node.dataplane.pod_links().unwrap());
    node.reopen();
    assert_eq!((node.links(), node.rows(View::Services), node.dataplane.pod_links().unwrap()), before);
    assert_eq!(before.2, std::slice::from_ref(&pods[0].link));
    finish(stream);
}

/// The connection still works, to its end.
fn finish(mut stream: TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    exchange(&stream);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, format!("server saw {} send 4", node_address(1)));
}

#[test]
fn other_programs_take_the_place_of_those_that_run() {
    if !is_ready() {
        return;
    }
    let (mut cluster, pods) = scene();
    let to = at(node_address(1), 30080);
    let stream = cluster.client.run(|| TcpStream::connect(to).unwrap());
    let node = &mut cluster.nodes[0];
    let before = node.links();
    node.forget_build();
    node.reopen();
    let after = node.links();
    for (old, new) in before.iter().zip(&after) {
        assert_eq!(old[..2], new[..2], "the link stays");
        assert_ne!(old[2], new[2], "the program does not");
    }
    finish(stream);
    let seen = process::run(&pods[0].ns, Some(node.cgroup.path()), &format!("tcp {} 2", at(VIP, 80)));
    assert_eq!(seen.lines.len(), 2);
    assert!(seen.lines.iter().all(|line| line.contains("server saw")), "{seen:?}");
}

#[test]
fn a_snapshot_after_a_start_removes_what_it_does_not_name() {
    if !is_ready() {
        return;
    }
    let (mut cluster, pods) = scene();
    let node = &mut cluster.nodes[0];
    node.reopen();
    let backends = vec![backend(pods[0].address, 9000), backend(pods[1].address, 8080)];
    let applied = node.dataplane.apply(&snapshot(vec![service(Protocol::Tcp, backends)])).unwrap();
    assert_eq!((applied.services, applied.backends), (1, 2));
    let services = node.rows(View::Services);
    assert_eq!(services.len(), 2, "a ClusterIP and a NodePort: {services:?}");
    assert!(services.iter().all(|row| row[0] == "default/echo-tcp" && row[5] == "2"), "{services:?}");
    let backends: Vec<_> = node.rows(View::Backends).into_iter().map(|row| row[2].clone()).collect();
    assert_eq!(backends, ["10.32.1.1:9000", "10.32.2.1:8080"]);
    let maps = node.rows(View::Maps);
    let entries = |name: &str| maps.iter().find(|row| row[0] == name).unwrap()[4].clone();
    assert_eq!((entries("SERVICES"), entries("NAMES")), ("2".to_owned(), "1".to_owned()));
}

#[test]
fn what_does_not_fit_leaves_the_old_state() {
    if !is_ready() {
        return;
    }
    let (mut cluster, pods) = scene();
    let node = &mut cluster.nodes[0];
    let before = (node.rows(View::Services), node.rows(View::Backends));
    let many = (0..100).map(|port| backend(pods[0].address, port + 1)).collect();
    let outcome = node.dataplane.apply(&change(vec![service(Protocol::Tcp, many)]));
    assert!(matches!(outcome, Err(Error::Plan(PlanError::Slots { needed: 100, .. }))), "{outcome:?}");
    let ports = (0..40).map(|number| {
        let mut port = service(Protocol::Tcp, vec![]);
        port.key = key(&format!("s{number}"));
        port.port = 1000 + number;
        port.node_port = Some(31000 + number);
        port
    });
    let outcome = node.dataplane.apply(&change(ports.collect()));
    assert!(matches!(outcome, Err(Error::Plan(PlanError::Frontends { .. }))), "{outcome:?}");
    assert_eq!((node.rows(View::Services), node.rows(View::Backends)), before);
}

#[test]
fn tables_can_be_exchanged_faster_than_their_memory_comes_back() {
    if !is_ready() {
        return;
    }
    let (mut cluster, pods) = scene();
    let node = &mut cluster.nodes[0];
    for round in 0..40 {
        let backends = (0..20).map(|port| backend(pods[0].address, 1000 + 20 * round + port)).collect();
        node.dataplane.apply(&change(vec![service(Protocol::Tcp, backends)])).unwrap();
    }
    assert_eq!(node.rows(View::Backends).len(), 20 + 1);
}

#[test]
fn a_pod_whose_interface_is_gone_is_forgotten() {
    if !is_ready() {
        return;
    }
    let (mut cluster, _pods) = scene();
    let node = &mut cluster.nodes[0];
    node.ns.ip("link delete pod1");
    node.reopen();
    assert_eq!(node.dataplane.pod_links().unwrap(), []);
    assert!(node.links().iter().all(|link| !link[0].contains("pod")));
}

#[test]
fn a_pod_can_be_attached_twice_and_detached_twice() {
    if !is_ready() {
        return;
    }
    let (mut cluster, pods) = scene();
    let (node, link) = (&mut cluster.nodes[0], &pods[0].link);
    let (ns, dataplane) = (&node.ns, &mut node.dataplane);
    ns.run(|| dataplane.attach_pod(link)).unwrap();
    assert_eq!(dataplane.pod_links().unwrap(), std::slice::from_ref(link));
    for _ in 0..2 {
        ns.run(|| dataplane.detach_pod(link.ifindex)).unwrap();
        assert_eq!(dataplane.pod_links().unwrap(), []);
    }
}

#[test]
fn unload_leaves_nothing() {
    if !is_ready() {
        return;
    }
    let (mut cluster, pods) = scene();
    let node = &mut cluster.nodes[0];
    let removed = Dataplane::unload(&node.config.bpffs).unwrap();
    assert!(removed.iter().any(|path| path.ends_with("/links/connect4")), "{removed:?}");
    assert!(!node.config.bpffs.exists());
    assert_eq!(Dataplane::unload(&node.config.bpffs).unwrap(), Vec::<String>::new());
    let orders = format!("tcp {} 1", at(VIP, 80));
    let seen = process::run(&pods[0].ns, Some(node.cgroup.path()), &orders);
    assert!(seen.lines[0].starts_with("error"), "{seen:?}");
}

#[test]
fn a_directory_that_is_no_bpffs_is_refused() {
    if !is_ready() {
        return;
    }
    let (cluster, _pods) = scene();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut config = cluster.nodes[0].config.clone();
    config.bpffs = elsewhere.path().join("node");
    let outcome = Dataplane::open(&config);
    assert!(matches!(outcome, Err(Error::NotBpffs { .. })), "{outcome:?}");
}

#[test]
fn the_maps_can_be_inspected_without_an_agent() {
    if !is_ready() {
        return;
    }
    let (cluster, _pods) = scene();
    let node = &cluster.nodes[0];
    let inspector = Dataplane::inspect_only(&node.config.bpffs).unwrap();
    assert_eq!(inspector.view(View::Services).unwrap(), node.dataplane.view(View::Services).unwrap());
    assert_eq!(inspector.view(View::Maps).unwrap().rows.len(), 12);
}
