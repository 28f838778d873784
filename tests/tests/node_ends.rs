//! Pods that their node ends by itself lose nothing either: nobody is sent to a pod that was told to end.

#![expect(clippy::print_stdout, reason = "counts and times are what these tests are read for")]

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use weir_tests::cluster::{Cluster, PATIENCE, items};
use weir_tests::load::{Load, Rate};
use weir_tests::scrape::agent_count;
use weir_tests::{require, wait};
use xtask::cluster::{self, Layout, Store};

const NODE_PORT: u16 = 30080;
/// How long these nodes wait for the others' word.
const LIMIT: Duration = Duration::from_secs(4);

/// What every pod of the service runs; no preStop hook, no sleep.
fn spec(more: &str) -> String {
    format!(
        "{{ terminationGracePeriodSeconds: 20, {more} containers: [ {{
            name: web, image: 'weir.dev/echo:0.1.0', args: [serve],
            readinessProbe: {{ tcpSocket: {{ port: 8080 }}, periodSeconds: 1 }},
            env: [ {{ name: POD_NAME, valueFrom: {{ fieldRef: {{ fieldPath: metadata.name }} }} }},
                   {{ name: NODE_NAME, valueFrom: {{ fieldRef: {{ fieldPath: spec.nodeName }} }} }} ] }} ] }}"
    )
}

fn web() -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{ name: web }}
spec:
  replicas: 6
  selector: {{ matchLabels: {{ app: web, kind: lasting }} }}
  template:
    metadata: {{ labels: {{ app: web, kind: lasting }} }}
    spec: {}
---
apiVersion: v1
kind: Service
metadata: {{ name: web }}
spec:
  type: NodePort
  selector: {{ app: web }}
  ports: [{{ port: 80, targetPort: 8080, nodePort: {NODE_PORT} }}]
---
apiVersion: v1
kind: Pod
metadata: {{ name: asker }}
spec:
  nodeName: node-2
  containers:
  - {{ name: asker, image: 'weir.dev/echo:0.1.0', args: [serve] }}
",
        spec("")
    )
}

/// A pod of the service that may run for so many seconds.
fn passing(name: &str, node: &str, seconds: u8) -> String {
    let spec = spec(&format!("nodeName: {node}, activeDeadlineSeconds: {seconds},"));
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, labels: {{ app: web }} }}\nspec: {spec}\n---\n"
    )
}

/// A pod of the service on each node, of which the API sees mirrors.
fn of_file() -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: fixed, labels: {{ app: web }} }}\nspec: {}\n",
        spec("")
    )
}

fn events(cluster: &Cluster, reason: &str) -> Result<Vec<String>> {
    let events = cluster.get(&["events"])?;
    Ok(items(&events)
        .filter(|event| event["reason"] == reason)
        .map(|event| event["message"].to_string())
        .collect())
}

fn word(pod: &Value) -> Option<&Value> {
    let conditions = pod["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == "weir.dev/NoNewFlows")
}

#[test]
fn pods_that_their_node_ends_lose_no_request_and_wait_only_so_long_without_a_control_plane() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let mut layout = Layout::for_test(&format!("weir-nodeends-{}", std::process::id()), 2, Store::Embedded)?;
    let limit = format!("--end-acknowledgement-timeout={}s", LIMIT.as_secs());
    let manifests = layout.directory.join("manifests");
    let of_files = format!("--pod-manifest-path={}", manifests.display());
    layout.agent_flags.extend(["--shutdown-grace-period=30s".to_owned(), limit, of_files]);
    let cluster = Cluster { layout };
    cluster::up(&cluster.layout)?;
    fs::create_dir_all(&manifests)?;
    fs::write(manifests.join("fixed.yaml"), of_file())?;
    cluster.apply(&web())?;
    cluster.wait_for_rollout("web")?;
    cluster.weir(&["wait", "--for=condition=Ready", "pod/asker", "--timeout=60s"])?;
    let fixed = "fixed-node-1".to_owned();
    cluster.wait_for(&["pod", &fixed], |pod| pod["status"]["containerStatuses"][0]["ready"] == true)?;
    let cluster_ip =
        cluster.get(&["service", "web"])?["spec"]["clusterIP"].as_str().context("none")?.to_owned();
    let rate = Rate { per_second: 120, at_least: 500 };
    let node_port = format!("{}:{NODE_PORT}", cluster.layout.address_of("node-2"));
    let loads = [
        Load::from_pod(&cluster, "asker", &format!("{cluster_ip}:80"), rate)?,
        Load::from_machine(&cluster, "client", &node_port, rate)?,
    ];

    // Some reach their deadline.
    let short: Vec<String> = (0..4).map(|number| format!("short-{number}")).collect();
    let manifest: String = short
        .iter()
        .zip(["node-1", "node-2"].iter().cycle())
        .map(|(name, node)| passing(name, node, 4))
        .collect();
    cluster.apply(&manifest)?;
    for name in &short {
        let pod = cluster.wait_for(&["pod", name], |pod| pod["status"]["phase"] == "Failed")?;
        ensure!(pod["status"]["reason"] == "DeadlineExceeded", "{}", pod["status"]);
        ensure!(word(&pod).is_some_and(|word| word["status"] == "True"), "{}", pod["status"]);
    }
    // Then their node goes.
    let before = cluster.get(&["pods", "-l", "kind=lasting"])?;
    let on_node: Vec<String> = items(&before)
        .filter(|pod| pod["spec"]["nodeName"] == "node-1")
        .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
        .collect();
    ensure!(!on_node.is_empty(), "node-1 has no pod of the service");
    let on_node: Vec<String> = on_node.into_iter().chain([fixed]).collect();
    let agent = cluster.agent_of("node-1")?;
    let began = Instant::now();
    kill(agent, Signal::SIGPWR)?;
    wait::until("the end of the agent", PATIENCE, || {
        ensure!(cluster.agent_of("node-1").is_err(), "it is there");
        Ok(())
    })?;
    println!("{} pods were gone with their node in {:.1?}", on_node.len(), began.elapsed());
    for name in &on_node {
        let pod = cluster.get(&["pod", name])?;
        ensure!(pod["status"]["reason"] == "Terminated", "{}", pod["status"]);
        ensure!(word(&pod).is_some_and(|word| word["status"] == "True"), "{}", pod["status"]);
    }
    let mut answered = std::collections::BTreeSet::new();
    for load in loads {
        let (what, tally) = load.finish()?;
        println!("{what}: {} answered, {} failed {}", tally.answered(), tally.failed, tally.error);
        ensure!(tally.failed == 0, "{what}: {tally:?}");
        answered.extend(tally.answers.into_iter().map(|(pod, _, _)| pod));
    }
    for name in short.iter().chain(&on_node) {
        ensure!(answered.contains(name), "{name} was never asked: nothing was shown");
    }
    ensure!(events(&cluster, "EndUnacknowledged")?.is_empty(), "ended without the nodes' word");

    // Without a control plane there is no word: the wait is bounded, and counted.
    cluster.apply(&passing("late", "node-2", 8))?;
    cluster.weir(&["wait", "--for=condition=Ready", "pod/late", "--timeout=60s"])?;
    let late = cluster.get(&["pod", "late"])?;
    let uid = late["metadata"]["uid"].as_str().context("no uid")?;
    let count = || agent_count(&cluster, "node-2", "weir_pod_end_unacknowledged_total");
    ensure!(count()? == 0, "counted before");
    cluster.kill("weir-control")?;
    let began = Instant::now();
    wait::until("the end of its processes", PATIENCE, || {
        ensure!(cluster.processes_of_pod(uid)?.is_empty(), "they run");
        Ok(())
    })?;
    let took = began.elapsed();
    println!("without a control plane a pod of at most 8 s was gone after {took:.1?}");
    ensure!(took >= LIMIT, "it was not waited: {took:?}");
    ensure!(count()? == 1, "not counted");
    Ok(())
}
