//! Real veth pairs, addresses and routes between namespaces of the test's own; no eBPF.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt;
use nix::sys::socket;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};
use weir_network::{Config, Network, PodAttachment, Route, host_name};
use weir_tests::netns::NetNs;
use weir_tests::require;

const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `test` in a new network namespace, which stands for a node.
fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    if !require::root() {
        return;
    }
    NetNs::bare().run(|| {
        weir_network::prepare_node().expect("sysctls");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(test());
    });
}

async fn open(dir: &Path) -> Network {
    let pod_cidr = "10.32.1.0/24".parse().expect("a range");
    Network::open(Config { state_dir: dir.to_owned(), pod_cidr, mtu: 1500 }).await.expect("a network")
}

fn netlink() -> rtnetlink::Handle {
    let (connection, handle, _) = rtnetlink::new_connection().expect("a socket");
    tokio::spawn(connection);
    handle
}

fn address(attachment: &PodAttachment) -> IpAddr {
    attachment.addresses[0]
}

/// The address a server in `pod` sees when a client connects by running in `client`; both send a word.
fn tcp(server: &NetNs, at: IpAddr, client: impl FnOnce(SocketAddr) -> TcpStream) -> IpAddr {
    let listener = server.run(move || TcpListener::bind((at, 0)).expect("bound"));
    let to = listener.local_addr().expect("an address");
    let answering = server.spawn(move || {
        let (mut stream, from) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut word = [0; 4];
        stream.read_exact(&mut word).expect("a word");
        stream.write_all(&word).expect("sent back");
        from.ip()
    });
    let mut stream = client(to);
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(b"weir").expect("sent");
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).expect("an echo");
    assert_eq!(&echo, b"weir");
    answering.join().expect("the server")
}

fn tcp_between(client: &NetNs, server: &NetNs, at: IpAddr) -> IpAddr {
    tcp(server, at, |to| client.run(move || TcpStream::connect_timeout(&to, PATIENCE).expect("connected")))
}

fn udp_between(client: &NetNs, server: &NetNs, at: IpAddr) {
    let there = server.run(move || UdpSocket::bind((at, 0)).expect("bound"));
    let here = client.run(|| UdpSocket::bind("0.0.0.0:0").expect("bound"));
    for socket in [&there, &here] {
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
    }
    here.send_to(b"ask", there.local_addr().expect("an address")).expect("sent");
    let mut word = [0; 8];
    let (_, from) = there.recv_from(&mut word).expect("a question");
    there.send_to(b"answer", from).expect("sent");
    assert_eq!(here.recv(&mut word).expect("an answer"), 6);
}

fn ping(from: &NetNs, to: IpAddr) {
    let IpAddr::V4(to) = to else { panic!("an IPv4 address") };
    from.run(move || {
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").expect("allowed");
        let icmp = socket::socket(
            socket::AddressFamily::Inet,
            socket::SockType::Datagram,
            socket::SockFlag::SOCK_CLOEXEC,
            socket::SockProtocol::Icmp,
        )
        .expect("a socket");
        let socket = UdpSocket::from(icmp);
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        // Echo request; the kernel fills in checksum and identifier.
        socket.send_to(&[8, 0, 0, 0, 0, 0, 0, 1], (to, 0)).expect("sent");
        let mut reply = [0; 64];
        let length = socket.recv(&mut reply).expect("an echo reply");
        assert_eq!((reply[0], length), (0, 8));
    });
}

/// Names of all links and printed forms of all routes of this namespace.
async fn snapshot() -> (BTreeSet<String>, BTreeSet<String>) {
    let netlink = netlink();
    let links: Vec<LinkMessage> = netlink.link().get().execute().try_collect().await.expect("links");
    let names = links.iter().flat_map(|link| &link.attributes).filter_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<RouteMessage> = netlink.route().get(all).execute().try_collect().await.expect("routes");
    (names.collect(), routes.iter().map(|route| format!("{route:?}")).collect())
}

#[test]
fn pods_reach_each_other_and_the_node_reaches_them() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().expect("a directory");
        let network = open(dir.path()).await;
        let (a, b) = (NetNs::bare(), NetNs::bare());
        let at_a = network.add_pod("pod-a", &a.path()).await.expect("pod a");
        let at_b = network.add_pod("pod-b", &b.path()).await.expect("pod b");
        assert_eq!(tcp_between(&a, &b, address(&at_b)), address(&at_a), "no address is translated");
        tcp_between(&b, &a, address(&at_a));
        udp_between(&a, &b, address(&at_b));
        ping(&a, address(&at_b));
        ping(&a, address(&at_a));
        tcp_between(&a, &a, address(&at_a));
        tcp_between(&a, &a, Ipv4Addr::LOCALHOST.into());
        // The node itself has an address only on its uplink, which this one lacks.
        uplink().await;
        let node = "10.31.0.11".parse::<IpAddr>().expect("an address");
        let from =
            tcp(&b, address(&at_b), |to| TcpStream::connect_timeout(&to, PATIENCE).expect("connected"));
        assert_eq!(from, node);
    });
}

#[test]
fn adding_a_pod_again_changes_nothing_also_after_a_restart() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().expect("a directory");
        let pod = NetNs::bare();
        let network = open(dir.path()).await;
        let first = network.add_pod("pod", &pod.path()).await.expect("added");
        let before = snapshot().await;
        assert_eq!(network.add_pod("pod", &pod.path()).await.expect("added again"), first);
        drop(network);
        let network = open(dir.path()).await;
        assert_eq!(network.add_pod("pod", &pod.path()).await.expect("added after a restart"), first);
        assert_eq!(snapshot().await, before);
        assert!(before.0.contains(&host_name("pod")));
    });
}

#[test]
fn a_pod_whose_namespace_was_made_anew_keeps_its_address() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().expect("a directory");
        let network = open(dir.path()).await;
        let (old, client) = (NetNs::bare(), NetNs::bare());
        let before = network.add_pod("pod", &old.path()).await.expect("added");
        network.add_pod("client", &client.path()).await.expect("added");
        let new = NetNs::bare();
        let after = network.add_pod("pod", &new.path()).await.expect("added to the new namespace");
        assert_eq!(after.addresses, before.addresses);
        tcp_between(&client, &new, address(&after));
    });
}

#[test]
fn adding_a_pod_can_be_cut_off_anywhere_and_repeated() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().expect("a directory");
        let network = open(dir.path()).await;
        let client = NetNs::bare();
        network.add_pod("client", &client.path()).await.expect("added");
        let mut finished = false;
        for polls in 1.. {
            let pod = NetNs::bare();
            let uid = format!("pod-{polls}");
            let cut_off = poll_at_most(polls, network.add_pod(&uid, &pod.path())).await;
            finished = cut_off.is_some();
            let attachment = network.add_pod(&uid, &pod.path()).await.expect("added after the cut");
            tcp_between(&client, &pod, address(&attachment));
            network.remove_pod(&uid).await.expect("removed");
            if finished {
                break;
            }
        }
        assert!(finished);
    });
}

#[test]
fn many_pods_leave_together_also_where_some_are_cut_off() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().expect("a directory");
        let network = open(dir.path()).await;
        let stays = NetNs::bare();
        network.add_pod("stays", &stays.path()).await.expect("added");
        let before = snapshot().await;
        for round in 0..4 {
            let pods: Vec<(String, NetNs)> =
                (0..24).map(|number| (format!("pod-{round}-{number}"), NetNs::bare())).collect();
            for (uid, netns) in &pods {
                network.add_pod(uid, &netns.path()).await.expect("added");
            }
            // The first are first in turn; each is cut off a little later than the one before.
            let leave = pods.iter().enumerate().map(|(number, (uid, _))| {
                let limit = if number < 12 { number + 3 * round } else { usize::MAX };
                poll_at_most(limit, network.remove_pod(uid))
            });
            for left in futures::future::join_all(leave).await.into_iter().skip(12) {
                left.expect("not cut off").expect("removed");
            }
            let again = pods.iter().map(|(uid, _)| network.remove_pod(uid));
            futures::future::try_join_all(again).await.expect("removed, or gone already");
            assert_eq!(snapshot().await, before, "round {round}");
        }
        assert_eq!(network.leases().len(), 1);
    });
}

/// Polls `future` at most `limit` times and drops it then.
async fn poll_at_most<F: Future>(limit: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut polls = 0;
    std::future::poll_fn(move |context| {
        if polls == limit {
            return std::task::Poll::Ready(None);
        }
        polls += 1;
        match future.as_mut().poll(context) {
            std::task::Poll::Pending if polls == limit => std::task::Poll::Ready(None),
            other => other.map(Some),
        }
    })
    .await
}

#[test]
fn removed_pods_leave_nothing_behind() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().expect("a directory");
        let network = open(dir.path()).await;
        let before = snapshot().await;
        let pods: Vec<(String, NetNs)> = (0..20).map(|pod| (format!("pod-{pod}"), NetNs::bare())).collect();
        let adding = pods.iter().map(|(uid, pod)| {
            let path = pod.path();
            let network = &network;
            async move { network.add_pod(uid, &path).await.expect("added") }
        });
        let attachments = futures::future::join_all(adding).await;
        let addresses: BTreeSet<IpAddr> = attachments.iter().map(address).collect();
        assert_eq!(addresses.len(), pods.len());
        for (uid, _) in &pods {
            network.remove_pod(uid).await.expect("removed");
            network.remove_pod(uid).await.expect("removed again");
        }
        assert_eq!(snapshot().await, before);
        assert!(network.leases().is_empty());
    });
}

#[test]
fn leftovers_of_unknown_pods_are_collected_and_others_kept() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().expect("a directory");
        let network = open(dir.path()).await;
        let (a, b) = (NetNs::bare(), NetNs::bare());
        network.add_pod("known", &a.path()).await.expect("added");
        network.add_pod("unknown", &b.path()).await.expect("added");
        uplink().await;
        let removed =
            network.collect_leftovers(&BTreeSet::from(["known".to_owned()])).await.expect("collected");
        assert_eq!(removed, [host_name("unknown")]);
        assert_eq!(network.leases().into_keys().collect::<Vec<_>>(), ["known"]);
        let (links, _) = snapshot().await;
        let rest: BTreeSet<String> =
            ["lo", "eth0", "weir0", &host_name("known")].into_iter().map(String::from).collect();
        assert_eq!(links, rest);
    });
}

/// Gives the node a link to others with address 10.31.0.11/24; the peer's name looks like ours, but is not.
async fn uplink() {
    let netlink = netlink();
    netlink.link().add(LinkVeth::new("eth0", "weir0").build()).execute().await.expect("a pair");
    for name in ["eth0", "weir0"] {
        netlink.link().set(LinkUnspec::new_with_name(name).up().build()).execute().await.expect("up");
    }
    let link =
        netlink.link().get().match_name("eth0").execute().try_next().await.expect("asked").expect("there");
    let node = "10.31.0.11".parse().expect("an address");
    netlink.address().add(link.header.index, node, 24).execute().await.expect("an address");
}

#[test]
fn routes_to_other_nodes_follow_the_list_and_others_are_left_alone() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().expect("a directory");
        let network = open(dir.path()).await;
        uplink().await;
        let foreign = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::new(10, 99, 0, 0), 16)
            .gateway(Ipv4Addr::new(10, 31, 0, 1))
            .build();
        netlink().route().add(foreign).execute().await.expect("a route of someone else");
        let before = snapshot().await;
        let route = |cidr: &str, via: &str| Route {
            cidr: cidr.parse().expect("a range"),
            via: via.parse().expect("an address"),
        };
        let gateways = |routes: &BTreeSet<String>| {
            routes.iter().filter(|text| text.contains("Other(119)") && text.contains("Gateway")).count()
        };
        let two = [route("10.32.2.0/24", "10.31.0.12"), route("10.32.3.0/24", "10.31.0.13")];
        network.set_routes(&two).await.expect("set");
        assert_eq!(gateways(&snapshot().await.1), 2);
        let moved = [route("10.32.2.0/24", "10.31.0.22")];
        network.set_routes(&moved).await.expect("changed");
        network.set_routes(&moved).await.expect("nothing to change");
        let (_, routes) = snapshot().await;
        assert_eq!(gateways(&routes), 1);
        assert!(routes.iter().any(|text| text.contains("10.31.0.22")));
        network.set_routes(&[]).await.expect("removed");
        assert_eq!(snapshot().await, before);
    });
}

#[test]
fn routes_and_leftovers_can_be_listed_at_once() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().expect("a directory");
        let network = open(dir.path()).await;
        let pods: Vec<NetNs> = (0..20).map(|_| NetNs::bare()).collect();
        for (index, pod) in pods.iter().enumerate() {
            network.add_pod(&format!("pod-{index}"), &pod.path()).await.expect("added");
        }
        let known = network.leases().into_keys().collect();
        for _ in 0..20 {
            let (routes, leftovers) =
                futures::join!(network.set_routes(&[]), network.collect_leftovers(&known));
            routes.expect("set");
            assert_eq!(leftovers.expect("collected"), [""; 0]);
        }
    });
}

#[test]
fn an_unreachable_node_keeps_no_other_route_from_being_set() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().expect("a directory");
        let network = open(dir.path()).await;
        uplink().await;
        let route = |cidr: &str, via: &str| Route {
            cidr: cidr.parse().expect("a range"),
            via: via.parse().expect("an address"),
        };
        let routes = [route("10.32.2.0/24", "192.0.2.1"), route("10.32.3.0/24", "10.31.0.13")];
        let error = network.set_routes(&routes).await.expect_err("one cannot be set");
        assert!(error.to_string().starts_with("cannot set route 10.32.2.0/24 via 192.0.2.1: "), "{error}");
        assert!(snapshot().await.1.iter().any(|text| text.contains("10.31.0.13")));
    });
}
