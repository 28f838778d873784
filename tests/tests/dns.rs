//! Cluster DNS, asked by programs in pods as everybody asks: by their resolv.conf.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use weir_tests::cluster::{Cluster, PATIENCE, items};
use weir_tests::{require, wait};
use xtask::cluster::{self, CLUSTER_DNS, Layout, Namespace, Store};

/// Services of every sort, and pods that look for them: one of its own network, one of the node's, one with settings.
const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: shop }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: shop }
spec:
  replicas: 3
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: weir.dev/echo:0.1.0
        args: [serve, --port, \"8080\"]
        ports: [{ name: http, containerPort: 8080 }]
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec:
  selector: { app: web }
  ports: [{ name: http, port: 80, targetPort: http }]
---
apiVersion: v1
kind: Service
metadata: { name: peers, namespace: shop }
spec:
  clusterIP: None
  selector: { app: web }
  ports: [{ name: http, port: 8080 }]
---
apiVersion: v1
kind: Service
metadata: { name: named, namespace: shop }
spec: { clusterIP: None, selector: { app: named } }
---
apiVersion: v1
kind: Service
metadata: { name: alias, namespace: shop }
spec: { type: ExternalName, externalName: web.shop.svc.cluster.local }
---
apiVersion: v1
kind: Service
metadata: { name: outside, namespace: shop }
spec: { type: ExternalName, externalName: www.example.com }
";

/// A pod with a shell in namespace shop.
fn with_shell(name: &str, more: &str) -> String {
    let mounts: Vec<String> = ["sh", "nslookup", "wget", "cat"]
        .iter()
        .map(|program| format!("{{ name: busybox, mountPath: /bin/{program}, readOnly: true }}"))
        .collect();
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: shop, labels: {{ app: {name} }} }}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{{ name: busybox, hostPath: {{ path: /usr/bin/busybox, type: File }} }}]
  containers:
  - name: main
    image: weir.dev/echo:0.1.0
    args: [serve, --port, \"8090\"]
    volumeMounts: [{mounts}]
{more}
",
        mounts = mounts.join(", ")
    )
}

fn shop(name: &str, nodes: u8) -> Result<Cluster> {
    let cluster = Cluster::up(name, nodes, Store::Embedded)?;
    let more = "  nodeName: node-1\n  hostname: first\n  subdomain: named\n";
    let pods = [
        with_shell("client", "  nodeName: node-1"),
        with_shell("named", more),
        with_shell(
            "in-node",
            "  nodeName: node-1\n  hostNetwork: true\n  dnsPolicy: ClusterFirstWithHostNet",
        ),
        with_shell(
            "settings",
            "  nodeName: node-1\n  dnsConfig: { searches: [svc.cluster.local], options: [{ name: ndots, value: \"1\" }] }",
        ),
    ];
    cluster.apply(&format!("{SHOP}{}", pods.concat()))?;
    let pods = ["pod/client", "pod/named", "pod/in-node", "pod/settings"];
    cluster.weir(&[&["wait", "-n", "shop", "--for=condition=Ready", "--timeout=60s"], &pods[..]].concat())?;
    cluster.weir(&["rollout", "status", "-n", "shop", "deployment/web", "--timeout=60s"])?;
    cluster.wait_for_dataplanes()?;
    Ok(cluster)
}

/// What a program says in a pod.
fn exec(cluster: &Cluster, pod: &str, command: &[&str]) -> Result<String> {
    cluster.weir(&[&["exec", "-n", "shop", pod, "--"], command].concat())
}

/// Waits until a program in a pod says all of this.
fn says(cluster: &Cluster, pod: &str, command: &[&str], expected: &[&str]) -> Result<()> {
    wait::until(&format!("{pod}: {command:?}"), PATIENCE, || {
        let said = exec(cluster, pod, command)?;
        match expected.iter().find(|expected| !said.contains(**expected)) {
            None => Ok(()),
            Some(missing) => bail!("no {missing:?} in {said:?}"),
        }
    })
}

#[test]
fn pods_find_services_and_each_other_by_name() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = shop("names", 2)?;
    let get = |what: &[&str]| cluster.get(&[what, &["-n", "shop"]].concat());
    let web = get(&["service", "web"])?["spec"]["clusterIP"].as_str().context("no address")?.to_owned();
    let pods = get(&["pods", "-l", "app=web"])?;
    let peers: Vec<String> =
        items(&pods).filter_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned)).collect();
    ensure!(peers.len() == 3, "{peers:?}");
    let named = get(&["pod", "named"])?["status"]["podIP"].as_str().context("no address")?.to_owned();

    // The search domains, and a connection to what was found.
    for name in ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local", "alias", "peers:8080"] {
        says(&cluster, "client", &["/bin/wget", "-qO-", &format!("http://{name}/")], &["web-"])?;
    }
    says(&cluster, "in-node", &["/bin/wget", "-qO-", "http://web/"], &["web-"])?;
    // A pod in the node's network has the node's name, too.
    let machine = fs::read_to_string("/proc/sys/kernel/hostname")?;
    for file in ["/etc/hostname", "/proc/sys/kernel/hostname"] {
        ensure!(exec(&cluster, "in-node", &["/bin/cat", file])? == machine, "{file}");
    }
    says(&cluster, "settings", &["/bin/wget", "-qO-", "http://web.shop/"], &["web-"])?;
    says(&cluster, "settings", &["/bin/cat", "/etc/resolv.conf"], &["options ndots:1\n"])?;

    let lookup = |kind: &str, name: &str, expected: &[&str]| {
        says(&cluster, "client", &["/bin/nslookup", &format!("-type={kind}"), name], expected)
    };
    let all: Vec<&str> = peers.iter().map(String::as_str).collect();
    lookup("a", "web.shop.svc.cluster.local", &[&web])?;
    lookup("a", "peers.shop.svc.cluster.local", &all)?;
    lookup("a", "first.named.shop.svc.cluster.local", &[&named])?;
    lookup("a", &format!("{}.shop.pod.cluster.local", named.replace('.', "-")), &[&named])?;
    lookup("srv", "_http._tcp.web.shop.svc.cluster.local", &["0 100 80 web.shop.svc.cluster.local"])?;
    let target = format!("8080 {}.peers.shop.svc.cluster.local", peers[0].replace('.', "-"));
    lookup("srv", "_http._tcp.peers.shop.svc.cluster.local", &[&target])?;
    lookup("ptr", &arpa(&web)?, &["web.shop.svc.cluster.local"])?;
    lookup("ptr", &arpa(&named)?, &["first.named.shop.svc.cluster.local"])?;
    lookup("txt", "dns-version.cluster.local", &["1.1.0"])?;
    lookup("a", "kube-dns.kube-system.svc.cluster.local", &[&CLUSTER_DNS.to_string()])?;
    lookup("a", "kubernetes.default.svc.cluster.local", &["10.96.0.1"])?;

    names_outside_are_asked_of_the_nodes_name_servers(&cluster)?;
    what_was_asked_is_counted(&cluster)
}

/// `7.0.96.10.in-addr.arpa`
#[test]
fn cluster_dns_is_where_the_control_plane_says_it_is() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let mut layout = Layout::for_test(&format!("weir-range-{}", std::process::id()), 1, Store::Embedded)?;
    layout.service_cidr = "10.112.0.0/20".to_owned();
    // A pod that waits for its node must not come before what the node is told.
    let early = with_shell("client", "  nodeName: node-1");
    let cluster = Cluster { layout };
    cluster::up(&cluster.layout)?;
    cluster.weir(&["create", "namespace", "shop"])?;
    cluster.kill_one(cluster.agent_of("node-1")?)?;
    cluster.apply(&early)?;
    fs::remove_dir_all(cluster.layout.node_directory("node-1").join("dns"))?;
    cluster::restart_agent(&cluster.layout, "node-1")?;
    cluster.weir(&["wait", "-n", "shop", "--for=condition=Ready", "--timeout=60s", "pod/client"])?;
    says(&cluster, "client", &["/bin/cat", "/etc/resolv.conf"], &["nameserver 10.112.0.10\n"])?;
    says(&cluster, "client", &["/bin/nslookup", "kubernetes.default.svc.cluster.local"], &["10.112.0.1"])
}

fn arpa(address: &str) -> Result<String> {
    let [a, b, c, d] = address.parse::<Ipv4Addr>()?.octets();
    Ok(format!("{d}.{c}.{b}.{a}.in-addr.arpa"))
}

fn names_outside_are_asked_of_the_nodes_name_servers(cluster: &Cluster) -> Result<()> {
    // Nobody yet: a clear failure, at once.
    let code = ask_in(&cluster.layout, "node-1", "www.example.com", PATIENCE)?.code;
    ensure!(code == SERVFAIL, "code {code}");
    // One in the client's namespace, which the nodes' resolv.conf names.
    let upstream = within(&Namespace::named(cluster.layout.client()), || {
        let address = ("10.31.0.200", 53);
        Ok((UdpSocket::bind(address)?, TcpListener::bind(address)?))
    })?;
    std::thread::spawn(move || answer_datagrams(&upstream.0));
    std::thread::spawn(move || answer_connections(&upstream.1));
    fs::write(cluster.layout.resolv_conf(), "nameserver 10.31.0.200\n")?;
    let lookup = |kind: &str, name: &str, expected: &[&str]| {
        says(cluster, "client", &["/bin/nslookup", &format!("-type={kind}"), name], expected)
    };
    lookup("a", "www.example.com", &["192.0.2.1"])?;
    lookup("a", "outside.shop.svc.cluster.local", &["www.example.com", "192.0.2.1"])?;
    // Cut off in a datagram: asked again by TCP.
    let answer = ask_in(&cluster.layout, "node-1", "large.example.com", PATIENCE)?;
    ensure!(answer.addresses.len() == 30, "{answer:?}");
    Ok(())
}

/// On the agent's own page, which is for administrators: their certificate is in the kubeconfig.
fn what_was_asked_is_counted(cluster: &Cluster) -> Result<()> {
    let mut curl = cluster.command_in("hub", Path::new("/usr/bin/curl"))?;
    // Who the agent is does not matter here; who we are does.
    curl.args(["--silent", "--show-error", "--insecure"]);
    for (flag, field) in [("--cert", "client-certificate-data"), ("--key", "client-key-data")] {
        let mut view = Command::new("kubectl");
        view.arg("--kubeconfig").arg(cluster.layout.kubeconfig());
        view.args(["config", "view", "--raw", "-o", &format!("jsonpath={{.users[0].user.{field}}}")]);
        let file = cluster.layout.directory.join(field);
        fs::write(&file, xtask::shell::output(&mut view)?)?;
        let decoded = xtask::shell::output(Command::new("base64").arg("--decode").arg(&file))?;
        fs::write(&file, decoded)?;
        curl.arg(flag).arg(&file);
    }
    let page = format!("https://{}:10250/metrics", cluster.layout.address_of("node-1"));
    let metrics = xtask::shell::output(curl.arg(page))?;
    for name in [
        "coredns_dns_requests_total{family=\"1\",proto=\"udp\",type=\"A\",zone=\"cluster.local.\"}",
        "coredns_dns_responses_total{plugin=\"kubernetes\",rcode=\"NXDOMAIN\",zone=\"cluster.local.\"}",
        "coredns_dns_responses_total{plugin=\"forward\",rcode=\"NOERROR\",zone=\".\"}",
        "coredns_dns_request_duration_seconds_count{zone=\"cluster.local.\"}",
        "coredns_cache_misses_total",
        "weir_dns_listening{server=\"10.96.0.10:53\"} 1",
    ] {
        ensure!(metrics.contains(name), "no {name} in {metrics}");
    }
    Ok(())
}

const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const TYPE_A: u16 = 1;

#[derive(Debug)]
struct Answer {
    code: u8,
    addresses: BTreeSet<Ipv4Addr>,
}

/// Runs `action` on a thread in a namespace; sockets that it makes stay there.
fn within<T: Send + 'static>(
    namespace: &Namespace,
    action: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let file = File::open(namespace.path())?;
    let thread = std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        action()
    });
    thread.join().map_err(|_| anyhow::anyhow!("the thread in the namespace panicked"))?
}

/// Asks cluster DNS from a node for the addresses of a name, again while nobody answers.
fn ask_in(layout: &Layout, node: &str, name: &str, patience: Duration) -> Result<Answer> {
    let deadline = Instant::now() + patience;
    // There is no way to the address before the agent has heard of it.
    let socket = wait::until("a way to cluster DNS", patience, || {
        within(&Namespace::named(layout.namespace_of(node)), || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect((CLUSTER_DNS, 53))?;
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
            Ok(socket)
        })
    })?;
    let query = query(name);
    let mut buffer = [0; 4096];
    loop {
        let received = socket.send(&query).and_then(|_| socket.recv(&mut buffer));
        match received {
            Ok(length) if buffer[..2] == query[..2] => return read_answer(&buffer[..length]),
            _ if Instant::now() < deadline => {}
            other => bail!("no answer about {name}: {other:?}"),
        }
    }
}

/// With EDNS, so that answers may be longer.
fn query(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or_default());
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn read_answer(bytes: &[u8]) -> Result<Answer> {
    let number = |at: usize| -> Result<u16> {
        let pair = bytes.get(at..at + 2).context("cut off")?;
        Ok(u16::from_be_bytes([pair[0], pair[1]]))
    };
    let mut at = question_end(bytes)?;
    let mut addresses = BTreeSet::new();
    for _ in 0..number(6)? {
        // A name is a pointer, or is written out.
        while *bytes.get(at).context("cut off")? & 0xc0 != 0xc0 && bytes[at] != 0 {
            at += usize::from(bytes[at]) + 1;
        }
        at += if bytes[at] == 0 { 1 } else { 2 };
        let (kind, length) = (number(at)?, usize::from(number(at + 8)?));
        let data = bytes.get(at + 10..at + 10 + length).context("cut off")?;
        if let (TYPE_A, Ok(octets)) = (kind, <[u8; 4]>::try_from(data)) {
            addresses.insert(Ipv4Addr::from(octets));
        }
        at += 10 + length;
    }
    Ok(Answer { code: bytes[3] & 0xf, addresses })
}

fn question_end(bytes: &[u8]) -> Result<usize> {
    let mut at = 12;
    while *bytes.get(at).context("cut off")? != 0 {
        at += usize::from(bytes[at]) + 1;
    }
    Ok(at + 5)
}

/// A name server of somebody else's: every name has an address; those that begin with `large` have thirty, which do not
/// fit its datagrams.
fn upstream_answer(query: &[u8], is_datagram: bool) -> Option<Vec<u8>> {
    let end = question_end(query).ok()?;
    let question = query.get(12..end)?;
    let is_large = question.get(1..6)?.eq_ignore_ascii_case(b"large");
    let is_address = question[question.len() - 4..] == [0, 1, 0, 1];
    let cut = is_large && is_datagram;
    let count = match (is_address, is_large) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 30,
    };
    let answers = if cut { 0 } else { count };
    let mut bytes = query[..2].to_vec();
    bytes.extend([if cut { 0x83 } else { 0x81 }, 0x80, 0, 1, 0, answers, 0, 0, 0, 0]);
    bytes.extend(question);
    for last in 1..=answers {
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, last]);
    }
    Some(bytes)
}

fn answer_datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 4096];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        if let Some(answer) = upstream_answer(&buffer[..length], true) {
            // A node that has gone needs no answer.
            let _ = socket.send_to(&answer, peer);
        }
    }
}

fn answer_connections(listener: &TcpListener) {
    while let Ok((mut stream, _)) = listener.accept() {
        std::thread::spawn(move || {
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                let Some(answer) =
                    stream.read_exact(&mut query).ok().and_then(|()| upstream_answer(&query, false))
                else {
                    return;
                };
                let length = u16::try_from(answer.len()).unwrap_or_default().to_be_bytes();
                if stream.write_all(&[&length[..], &answer].concat()).is_err() {
                    return;
                }
            }
        });
    }
}

/// A headless service with the endpoints that the test gives it.
fn endpoints(addresses: &[&str]) -> String {
    let endpoints: Vec<String> =
        addresses.iter().map(|address| format!("{{ addresses: [{address}] }}")).collect();
    format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: manual }}
spec: {{ clusterIP: None, ports: [{{ name: http, port: 80 }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: manual-1, labels: {{ kubernetes.io/service-name: manual }} }}
addressType: IPv4
ports: [{{ name: http, port: 80 }}]
endpoints: [{}]
",
        endpoints.join(", ")
    )
}

const MANUAL: &str = "manual.default.svc.cluster.local";

fn finds(cluster: &Cluster, node: &str, expected: &[&str]) -> Result<()> {
    let expected =
        expected.iter().map(|address| Ok(address.parse()?)).collect::<Result<BTreeSet<Ipv4Addr>>>()?;
    wait::until(&format!("{MANUAL} on {node}"), PATIENCE, || {
        let found = ask_in(&cluster.layout, node, MANUAL, PATIENCE)?;
        if found.addresses == expected { Ok(()) } else { bail!("{found:?}") }
    })
}

#[test]
fn answers_follow_changes_and_outlive_the_control_plane_and_the_agent() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("answers", 2, Store::Embedded)?;
    ensure!(ask_in(&cluster.layout, "node-1", MANUAL, PATIENCE)?.code == NXDOMAIN);
    // From the end of the change to the first right answer. A machine that others use may be late now and then.
    let mut took = Vec::new();
    for round in 0..7 {
        let last: Vec<String> = (0..=round).map(|last| format!("10.32.9.{last}")).collect();
        let addresses: Vec<&str> = last.iter().map(String::as_str).collect();
        cluster.apply(&endpoints(&addresses))?;
        let began = Instant::now();
        finds(&cluster, "node-1", &addresses)?;
        took.push(began.elapsed());
        finds(&cluster, "node-2", &addresses)?;
    }
    took.sort_unstable();
    ensure!(took[3] < Duration::from_secs(1), "the median of {took:?}");

    somebody_else_has_the_port(&cluster)?;

    // The last word, which must outlive those who know it.
    let last = ["10.32.9.77"];
    cluster.apply(&endpoints(&last))?;
    for node in ["node-1", "node-2"] {
        finds(&cluster, node, &last)?;
    }
    wait::until("the last word on disk", PATIENCE, || {
        let kept = cluster.layout.node_directory("node-1").join("dns/services.json");
        ensure!(fs::read_to_string(kept)?.contains("10.32.9.77"));
        Ok(())
    })?;
    cluster.kill("weir-control")?;
    for node in ["node-1", "node-2"] {
        finds(&cluster, node, &last)?;
    }
    cluster.kill("weir-agent")?;
    cluster::start_agent(&cluster.layout, "node-1")?;
    finds(&cluster, "node-1", &last)
}

/// A node whose DNS port is taken says so, works, and answers as soon as it can.
fn somebody_else_has_the_port(cluster: &Cluster) -> Result<()> {
    cluster.kill("weir-agent")?;
    let namespace = Namespace::named(cluster.layout.namespace_of("node-1"));
    // The kernel may still be closing what the agent had open.
    let address = SocketAddr::new(IpAddr::V4(CLUSTER_DNS), 53);
    let squatter =
        wait::until("the port", PATIENCE, || within(&namespace, move || Ok(UdpSocket::bind(address)?)))?;
    for node in ["node-1", "node-2"] {
        cluster::restart_agent(&cluster.layout, node)?;
    }
    cluster.wait_for(&["events", "-A"], |events| {
        items(events).any(|event| {
            event["reason"] == "ClusterDNSFailed"
                && event["involvedObject"]["name"] == "node-1"
                && event["message"].as_str().is_some_and(|message| {
                    message.contains("cannot listen on UDP 10.96.0.10:53: Address already in use")
                })
        })
    })?;
    drop(squatter);
    wait::until("an answer", PATIENCE, || {
        ask_in(&cluster.layout, "node-1", "kubernetes.default.svc.cluster.local", Duration::from_secs(1))
            .map(drop)
    })
}
