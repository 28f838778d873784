//! A manifest becomes containers on two nodes, and clients reach them through eBPF, by every way in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::cluster::{Cluster, PATIENCE, Tally, items};
use weir_tests::{require, wait};
use xtask::cluster::{Namespace, Store};

const REQUESTS: &str = "200";

#[test]
fn a_manifest_becomes_pods_that_answer_by_every_way_in() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("service", 2, Store::Embedded)?;
    serve(&cluster)
}

#[test]
fn the_same_manifest_runs_on_a_real_etcd() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("etcd", 2, Store::Etcd)?;
    serve(&cluster)
}

/// Applies the example and checks each way to the service, TCP and UDP.
fn serve(cluster: &Cluster) -> Result<()> {
    cluster.weir(&["apply", "-f", example().to_str().context("path")?])?;
    cluster.wait_for_rollout("echo")?;
    let service = cluster.get(&["service", "echo"])?;
    let cluster_ip = format!("{}:80", service["spec"]["clusterIP"].as_str().context("no clusterIP")?);
    for flags in [vec!["--count", REQUESTS], vec!["--count", REQUESTS, "--udp"]] {
        // By socket LB: a process of a node connects, and the backend is chosen before a packet exists.
        for node in ["node-1", "node-2"] {
            all_answer(
                &cluster.request_from(node, &cluster_ip, &flags)?,
                &format!("ClusterIP from {node} {flags:?}"),
            )?;
        }
        // By the uplink: from outside the nodes to each node's port.
        for node in ["node-1", "node-2"] {
            let target = format!("{}:30080", cluster.layout.address_of(node));
            all_answer(
                &cluster.request_from("client", &target, &flags)?,
                &format!("NodePort of {node} {flags:?}"),
            )?;
        }
        // What sockets miss: a process in a pod's namespace that no cgroup program sees.
        let namespace = a_pods_namespace(cluster)?;
        let mut missed = Command::new(xtask::build::echo());
        missed.args(["request", "--target", &cluster_ip]).args(&flags);
        let tally = Tally::of(xtask::cluster::enter(&mut missed, &namespace)?)?;
        all_answer(&tally, &format!("ClusterIP past the socket programs {flags:?}"))?;
    }
    from_a_pod(cluster, &cluster_ip)?;
    the_tables_name_what_the_api_says(cluster, &service)
}

fn example() -> PathBuf {
    xtask::shell::workspace().join("examples/echo.yaml")
}

/// Four pods on two nodes, all requests answered, the pods' shares of the same order.
fn all_answer(tally: &Tally, how: &str) -> Result<()> {
    let expected: u64 = REQUESTS.parse()?;
    ensure!(tally.failed == 0 && tally.answered() == expected, "{how}: {tally:?}");
    ensure!(tally.answers.len() == 4 && tally.nodes() == 2, "{how}: want 4 pods on 2 nodes: {tally:?}");
    Ok(())
}

/// The network namespace of some running pod of node-1, as the agent pinned it.
fn a_pods_namespace(cluster: &Cluster) -> Result<PathBuf> {
    let pods = cluster.get(&["pods", "-l", "app=echo"])?;
    let pod = items(&pods).find(|pod| pod["spec"]["nodeName"] == "node-1").context("no pod on node-1")?;
    let uid = pod["metadata"]["uid"].as_str().context("no uid")?;
    let directory = cluster.layout.node_directory("node-1");
    find(&directory, &|path| path.ends_with("ns/net") && path.to_string_lossy().contains(uid))
        .with_context(|| format!("no ns/net of pod {uid} below {}", directory.display()))
}

fn find(directory: &Path, matches: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let path = entry.path();
        if matches(&path) {
            return Some(path);
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Some(found) = find(&path, matches)
        {
            return Some(found);
        }
    }
    None
}

/// A pod is the client; its log tells who answered.
fn from_a_pod(cluster: &Cluster, cluster_ip: &str) -> Result<()> {
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: asker }}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: asker\n    \
         image: weir.dev/echo:0.1.0\n    args: [request, --target, '{cluster_ip}', --count, '{REQUESTS}']\n"
    ))?;
    cluster.wait_for(&["pod", "asker"], |pod| pod["status"]["phase"] == "Succeeded")?;
    all_answer(&Tally::parse(&cluster.weir(&["logs", "asker"])?)?, "ClusterIP from a pod")
}

/// `weir net` reads the kernel: the service's address and every pod's must be in the tables of both nodes.
fn the_tables_name_what_the_api_says(cluster: &Cluster, service: &Value) -> Result<()> {
    let services = cluster.weir(&["net", "services"])?;
    let address = service["spec"]["clusterIP"].as_str().context("no clusterIP")?;
    for node in ["node-1", "node-2"] {
        let rows = services.lines().filter(|line| line.contains(node) && line.contains(address));
        ensure!(rows.count() >= 1, "{node} does not hold {address}:\n{services}");
    }
    let backends = cluster.weir(&["net", "backends"])?;
    let pods = cluster.get(&["pods", "-l", "app=echo"])?;
    for pod in items(&pods) {
        let ip = pod["status"]["podIP"].as_str().context("no podIP")?;
        ensure!(backends.contains(ip), "no backend {ip}:\n{backends}");
    }
    let maps = cluster.weir(&["net", "maps"])?;
    ensure!(maps.contains("SERVICES") && maps.contains("SLOTS"), "{maps}");
    Ok(())
}

#[test]
fn scaling_moves_traffic_to_the_pods_there_are_and_loses_no_request() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("scale", 2, Store::Embedded)?;
    cluster.weir(&["apply", "-f", example().to_str().context("path")?])?;
    cluster.wait_for_rollout("echo")?;
    let service = cluster.get(&["service", "echo"])?;
    let target = format!("{}:80", service["spec"]["clusterIP"].as_str().context("no clusterIP")?);
    for replicas in ["6", "1"] {
        cluster.weir(&["scale", "deployment", "echo", "--replicas", replicas])?;
        cluster.wait_for_rollout("echo")?;
        // The API says so first; the pods that end leave the tables when their slices do.
        wait::until("the answers", PATIENCE, || {
            let tally = cluster.request_from("node-1", &target, &["--count", REQUESTS])?;
            ensure!(tally.failed == 0, "{tally:?}");
            ensure!(tally.answers.len().to_string() == replicas, "want {replicas} pods: {tally:?}");
            Ok(())
        })?;
    }
    // With nobody left, a clear refusal and not a time-out.
    cluster.weir(&["scale", "deployment", "echo", "--replicas", "0"])?;
    cluster.wait_for(&["pods", "-l", "app=echo"], |pods| items(pods).count() == 0)?;
    cluster.wait_for_dataplanes()?;
    let tally = cluster.request_from("node-1", &target, &["--count", "3", "--timeout-ms", "2000"])?;
    ensure!(tally.failed == 3, "a service without pods answered: {tally:?}");
    Ok(())
}

#[test]
fn no_namespace_of_a_cluster_has_a_way_out() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("sealed", 1, Store::Embedded)?;
    for name in [cluster.layout.hub(), cluster.layout.client(), cluster.layout.namespace_of("node-1")] {
        let routes = Namespace::named(&name).run("ip", &["route"])?;
        ensure!(!routes.contains("default"), "{name} has a default route:\n{routes}");
    }
    Ok(())
}
