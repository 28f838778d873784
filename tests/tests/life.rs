//! What outlives what: an agent's death is no pod's and no connection's, and a control plane's is nobody's.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use weir_tests::cluster::{Cluster, PATIENCE, items, processes_of};
use weir_tests::connection::Connection;
use weir_tests::machine::Picture;
use weir_tests::{require, wait};
use xtask::cluster::{self, Layout, Store};

#[test]
fn down_leaves_the_machine_as_it_was() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let layout = Layout::for_test(&format!("weir-trace-{}", std::process::id()), 2, Store::Embedded)?;
    let before = Picture::take(&layout.directory)?;
    let cluster = Cluster { layout: layout.clone() };
    cluster::up(&layout)?;
    cluster.weir(&["apply", "-f", example()?.as_str()])?;
    cluster.wait_for_rollout("echo")?;
    cluster::remove(&layout)?;
    assert_same(&before, &layout)?;
    // And after a crash of everything at once, with pods running.
    cluster::up(&layout)?;
    cluster.weir(&["apply", "-f", example()?.as_str()])?;
    cluster.wait_for_rollout("echo")?;
    for pid in processes_of(&layout, &["weir-control", "weir-agent"])? {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    }
    cluster::remove(&layout)?;
    assert_same(&before, &layout)
}

/// The kernel dismantles namespaces and their links in the background: wait for equality.
fn assert_same(before: &Picture, layout: &Layout) -> Result<()> {
    wait::until("a machine as it was", PATIENCE, || {
        let differences = Picture::take(&layout.directory)?.differences_from(before);
        if differences.is_empty() { Ok(()) } else { bail!("{}", differences.join("\n")) }
    })
}

#[test]
fn killing_an_agent_touches_no_container_and_no_connection() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("outlive", 2, Store::Embedded)?;
    cluster.weir(&["apply", "-f", example()?.as_str()])?;
    cluster.wait_for_rollout("echo")?;
    let before = identities(&cluster)?;

    let target = format!("{}:30080", cluster.layout.address_of("node-1"));
    let mut connection = Connection::from_client(&cluster, &target)?;
    let first = connection.ask()?;
    cluster.kill("weir-agent")?;
    // No agent is left; the kernel still serves old connections and new ones.
    ensure!(connection.ask()? == first, "another pod answered on the same connection");
    let service = cluster.get(&["service", "echo"])?;
    let cluster_ip = format!("{}:80", service["spec"]["clusterIP"].as_str().context("no clusterIP")?);
    for (machine, target) in [("node-1", &cluster_ip), ("client", &target)] {
        let tally = cluster.request_from(machine, target, &["--count", "100"])?;
        ensure!(tally.failed == 0 && tally.answers.len() == 4, "from {machine} with no agent: {tally:?}");
    }
    // New agents find everything again and restart nothing.
    for node in ["node-1", "node-2"] {
        cluster::restart_agent(&cluster.layout, node)?;
    }
    cluster.weir(&["scale", "deployment", "echo", "--replicas", "6"])?;
    cluster.wait_for_rollout("echo")?;
    ensure!(connection.ask()? == first, "another pod answered on the same connection");
    let after = identities(&cluster)?;
    for (pod, identity) in &before {
        let now = after.iter().find(|(name, _)| name == pod).map(|(_, identity)| identity);
        ensure!(now == Some(identity), "{pod} was {identity}, is {now:?}");
    }
    Ok(())
}

/// Name → container id and restart count, of each pod.
fn identities(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let pods = cluster.get(&["pods", "-l", "app=echo"])?;
    let identity = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        (pod["metadata"]["name"].to_string(), format!("{} {}", status["containerID"], status["restartCount"]))
    };
    Ok(items(&pods).map(identity).collect())
}

fn example() -> Result<String> {
    let path = xtask::shell::workspace().join("examples/echo.yaml");
    Ok(path.to_str().context("the workspace's path is not UTF-8")?.to_owned())
}

#[test]
fn kubectl_reads_and_writes_the_same_objects() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("kubectl", 1, Store::Embedded)?;
    let kubectl = |arguments: &[&str]| {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(cluster.layout.kubeconfig()).args(arguments);
        xtask::shell::output(&mut command)
    };
    let manifest = cluster.layout.directory.join("settings.yaml");
    fs::write(
        &manifest,
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: blue}\n",
    )?;
    kubectl(&["create", "-f", manifest.to_str().context("path")?])?;
    ensure!(cluster.get(&["configmap", "settings"])?["data"]["colour"] == "blue");
    let nodes = kubectl(&["get", "nodes"])?;
    ensure!(nodes.contains("node-1") && nodes.contains("Ready"), "{nodes}");
    kubectl(&["delete", "configmap", "settings"])?;
    ensure!(cluster.weir(&["get", "configmap", "settings"]).is_err());
    Ok(())
}
