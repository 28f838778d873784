//! `up`: namespaces, images, control plane, agents, in that order, each awaited before the next.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::layout::{AGENT_PORT, API_PORT, CLUSTER_CIDR, HUB_ADDRESS, Layout, Store};
use super::process::{command_in, start, tail};
use super::{cgroups, mounts, namespaces};
use crate::shell::output;
use crate::{build, image};

/// Present where `up` mounted the bpf file system, so that `down` unmounts it.
pub(super) const BPFFS_MARK: &str = "mounted-bpffs";
const IMAGE: &str = "weir.dev/echo:0.1.0";
const PATIENCE: Duration = Duration::from_secs(60);

/// Brings the cluster up; a cluster that answers already, with as many nodes, is left as it is.
pub fn up(layout: &Layout) -> Result<()> {
    if layout.directory.exists() {
        if let Ok(ready) = ready_nodes(layout)
            && ready == usize::from(layout.nodes)
        {
            println!("==> the cluster is up already, with {ready} nodes");
            return Ok(());
        }
        println!("==> removing what is left of an earlier cluster");
        super::remove(layout)?;
    }
    let start_of_all = Instant::now();
    prepare(layout)?;
    println!("==> namespaces: {}, {} and {} nodes", layout.hub(), layout.client(), layout.nodes);
    namespaces::connect(layout)?;
    image::write(&layout.images().join("echo"), IMAGE, &build::echo())?;
    if layout.store == Store::Etcd {
        println!("==> etcd");
        start_etcd(layout)?;
    }
    println!("==> control plane");
    let mut control = start_control(layout)?;
    let nobody = |_: &Layout| ready_nodes(layout).map(|_| ());
    wait(layout, "the control plane", "weir-control", &mut control, nobody)?;
    println!("==> agents");
    let mut agents = Vec::new();
    for node in layout.node_names() {
        agents.push((start_agent(layout, &node)?, format!("agent-{node}")));
    }
    for (agent, name) in &mut agents {
        wait(layout, "the nodes", name, agent, |layout| match ready_nodes(layout)? {
            ready if ready >= usize::from(layout.nodes) => Ok(()),
            ready => bail!("{ready} of {} nodes are ready", layout.nodes),
        })?;
    }
    lead_to_pods(layout)?;
    println!(
        "    {} nodes ready after {:.1} s; kubeconfig: {}",
        layout.nodes,
        start_of_all.elapsed().as_secs_f64(),
        layout.kubeconfig().display()
    );
    Ok(())
}

/// Pods speak to the control plane, whose machine is no node: it has to know where to answer.
fn lead_to_pods(layout: &Layout) -> Result<()> {
    let nodes: Value = serde_json::from_str(&output(&mut weir(layout, &["get", "nodes", "-o", "json"]))?)?;
    for node in nodes["items"].as_array().into_iter().flatten() {
        let (name, pods) = (node["metadata"]["name"].as_str(), node["spec"]["podCIDR"].as_str());
        if let Some((name, pods)) = name.zip(pods) {
            namespaces::lead(layout, pods, layout.address_of(name))?;
        }
    }
    Ok(())
}

/// Directories, the bpf file system, and a cgroup for every machine of the cluster.
fn prepare(layout: &Layout) -> Result<()> {
    for directory in ["control", "images", "logs", "nodes"] {
        let directory = layout.directory.join(directory);
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    }
    // The machine's own name servers are none of the cluster's: nothing of it may leave the machine.
    fs::write(layout.resolv_conf(), "# Names outside the cluster are not found: it has no way out.\n")?;
    // The mark first: a crash in between must not leave a mount that nobody removes.
    if !mounts::is_bpffs()? {
        fs::write(layout.directory.join(BPFFS_MARK), "")?;
        mounts::ensure_bpffs()?;
    }
    let unified = cgroups::hierarchies()?.unified;
    for machine in layout.node_names().chain(["hub".to_owned()]) {
        fs::create_dir_all(unified.join(layout.cgroup_of(&machine)))?;
    }
    Ok(())
}

fn start_etcd(layout: &Layout) -> Result<()> {
    let data = layout.directory.join("etcd");
    let mut command = command_in(layout, "hub", Path::new("/usr/bin/etcd"))?;
    command
        .arg("--data-dir")
        .arg(&data)
        .args([
            "--listen-client-urls",
            "http://127.0.0.1:2379",
            "--advertise-client-urls",
            "http://127.0.0.1:2379",
        ])
        .args([
            "--listen-peer-urls",
            "http://127.0.0.1:2380",
            "--initial-advertise-peer-urls",
            "http://127.0.0.1:2380",
        ])
        .args(["--initial-cluster", "default=http://127.0.0.1:2380"])
        // Debian's etcd tells watchers how far it is only by itself, and by default every ten minutes.
        .args(["--experimental-watch-progress-notify-interval", "1s"]);
    let mut child = start(layout, "etcd", command, None)?;
    wait(layout, "etcd", "etcd", &mut child, |layout| {
        let mut health = command_in(layout, "hub", Path::new("etcdctl"))?;
        health.env("ETCDCTL_API", "3").args(["--endpoints", "http://127.0.0.1:2379", "endpoint", "health"]);
        output(&mut health).map(drop)
    })
}

/// The control plane lives in the hub; the shell reaches it through a socket of the machine's own loopback, which it
/// inherits.
fn start_control(layout: &Layout) -> Result<Child> {
    let listener = (API_PORT..API_PORT + 100)
        .find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
        .context("no free port on 127.0.0.1 from 6443 on")?;
    let advertised = format!("https://{}", listener.local_addr()?);
    let mut command = command_in(layout, "hub", Path::new("/bin/sh"))?;
    // The protocol wants the process's own id in its environment.
    command
        .args(["-c", "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\""])
        .arg(build::binaries().join("weir-control"));
    command.arg("--data-dir").arg(layout.control_directory());
    command.args(["--listen", &format!("{HUB_ADDRESS}:{API_PORT}"), "--advertise", &advertised]);
    command.arg("--kubeconfig").arg(layout.kubeconfig());
    command.args(["--cluster-cidr", CLUSTER_CIDR, "--service-cidr", &layout.service_cidr]);
    match layout.store {
        Store::Embedded => command.args(["--store", "embedded"]),
        Store::Etcd => command.args(["--store", "etcd", "--etcd-endpoints", "http://127.0.0.1:2379"]),
    };
    start(layout, "weir-control", command, Some(listener))
}

/// Starts a node's agent, whether or not there is a control plane for it.
pub fn start_agent(layout: &Layout, node: &str) -> Result<Child> {
    start_agent_as(layout, node, &build::binaries().join("weir-agent"), &[])
}

fn start_agent_as(layout: &Layout, node: &str, program: &Path, flags: &[&str]) -> Result<Child> {
    let control = layout.control_directory();
    let address = layout.address_of(node);
    let mut command = command_in(layout, node, program)?;
    command.args(["--node-name", node, "--node-ip", &address.to_string()]);
    // A veth wakes its peer for frames that XDP redirects to it, not for those it sends by XDP_TX.
    command.args(["--uplink", "eth0", "--xdp", "native-redirect"]);
    command.args(["--server", &format!("https://{HUB_ADDRESS}:{API_PORT}")]);
    command.arg("--ca").arg(control.join("pki/ca.crt"));
    command.arg("--bootstrap-token-file").arg(control.join("bootstrap-token"));
    command.arg("--state-dir").arg(layout.node_directory(node));
    command.args(["--cgroup-parent", &layout.cgroup_of(node)]);
    command.arg("--bpffs").arg(layout.pins_of(node));
    command.arg("--image-source").arg(layout.images().join("echo"));
    // The machine's own configuration is none of a cluster's that comes and goes.
    command.arg("--registry-config-dir").arg(layout.directory.join("certs.d"));
    command.arg("--resolv-conf").arg(layout.resolv_conf());
    command.args(["--listen", &format!("{address}:{AGENT_PORT}")]);
    command.args(&layout.agent_flags).args(flags);
    start(layout, &format!("agent-{node}"), command, None)
}

/// Starts a node's agent again after its death, and waits until it reports.
pub fn restart_agent(layout: &Layout, node: &str) -> Result<()> {
    restart_agent_as(layout, node, &build::binaries().join("weir-agent"), &[])
}

/// The same with another program, and with further flags.
pub fn restart_agent_as(layout: &Layout, node: &str, program: &Path, flags: &[&str]) -> Result<()> {
    let mut agent = start_agent_as(layout, node, program, flags)?;
    wait(layout, "the node", &format!("agent-{node}"), &mut agent, |layout| match ready_nodes(layout)? {
        0 => bail!("no node is ready"),
        _ => Ok(()),
    })
}

/// Starts the control plane again after its death, and waits until it answers.
pub fn restart_control(layout: &Layout) -> Result<()> {
    let mut control = start_control(layout)?;
    wait(layout, "the control plane", "weir-control", &mut control, |layout| ready_nodes(layout).map(|_| ()))
}

/// Starts one more instance of the control plane over the same etcd; where agents reach it.
pub fn start_second_control(layout: &Layout) -> Result<String> {
    let server = format!("https://{HUB_ADDRESS}:{}", API_PORT + 1);
    let mut command = command_in(layout, "hub", &build::binaries().join("weir-control"))?;
    let data = layout.directory.join("control-2");
    command.arg("--data-dir").arg(&data).args(["--listen", &format!("{HUB_ADDRESS}:{}", API_PORT + 1)]);
    command.args(["--advertise", &server]).arg("--kubeconfig").arg(data.join("kubeconfig"));
    command.args(["--cluster-cidr", CLUSTER_CIDR, "--service-cidr", &layout.service_cidr]);
    command.args(["--store", "etcd", "--etcd-endpoints", "http://127.0.0.1:2379"]);
    let mut control = start(layout, "weir-control-2", command, None)?;
    wait(layout, "the second control plane", "weir-control-2", &mut control, |layout| {
        let mut ask = command_in(layout, "hub", &build::binaries().join("weir"))?;
        ask.arg("--kubeconfig").arg(data.join("kubeconfig")).args(["get", "nodes"]);
        output(&mut ask).map(drop)
    })?;
    Ok(server)
}

/// `weir` against this cluster.
pub fn weir(layout: &Layout, arguments: &[&str]) -> Command {
    let mut command = Command::new(build::binaries().join("weir"));
    command.arg("--kubeconfig").arg(layout.kubeconfig()).args(arguments);
    command
}

/// How many nodes take pods, by the API: they are Ready, and the control plane has seen it and lifted their taints.
fn ready_nodes(layout: &Layout) -> Result<usize> {
    let nodes: Value = serde_json::from_str(&output(&mut weir(layout, &["get", "nodes", "-o", "json"]))?)?;
    let takes_pods = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
            && node["spec"]["taints"].as_array().is_none_or(Vec::is_empty)
    };
    Ok(nodes["items"].as_array().map(|items| items.iter().filter(takes_pods).count()).unwrap_or_default())
}

/// Asks until it succeeds. A process that ends meanwhile, or a minute, is an error with the end of its log.
fn wait(
    layout: &Layout,
    what: &str,
    process: &str,
    child: &mut Child,
    ask: impl Fn(&Layout) -> Result<()>,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Err(error) = ask(layout) else { return Ok(()) };
        if let Some(status) = child.try_wait()? {
            bail!("{process} ended with {status}:\n{}", tail(layout, process));
        }
        if Instant::now() > deadline {
            bail!("{what} did not get ready within {PATIENCE:?}: {error:#}\n{}", tail(layout, process));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
