//! A pod's end loses nothing: nobody is sent to a pod that was told to end.

#![expect(clippy::print_stdout, reason = "counts and times are what these tests are read for")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Pid;
use serde_json::Value;
use weir_tests::cluster::{Cluster, PATIENCE, Stopped, items};
use weir_tests::load::{Load, Rate};
use weir_tests::scrape::agent_count;
use weir_tests::{require, wait};
use xtask::cluster::{self, Store};

const ROLLOUTS: usize = 20;
const REQUESTS: u64 = 20_000;
const NODE_PORT: u16 = 30080;

/// No preStop hook, no sleep: what is lost is the cluster's fault. The probe says when a new pod listens.
fn web(replicas: u8, grace: u8, node: &str) -> String {
    let selector = if node.is_empty() {
        String::new()
    } else {
        format!("nodeSelector: {{ kubernetes.io/hostname: {node} }}")
    };
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{ name: web }}
spec:
  replicas: {replicas}
  selector: {{ matchLabels: {{ app: web }} }}
  template:
    metadata: {{ labels: {{ app: web }} }}
    spec:
      terminationGracePeriodSeconds: {grace}
      {selector}
      containers:
      - name: web
        image: weir.dev/echo:0.1.0
        args: [serve]
        ports: [{{ containerPort: 8080 }}]
        readinessProbe: {{ tcpSocket: {{ port: 8080 }}, periodSeconds: 1 }}
        env:
        - {{ name: POD_NAME, valueFrom: {{ fieldRef: {{ fieldPath: metadata.name }} }} }}
        - {{ name: NODE_NAME, valueFrom: {{ fieldRef: {{ fieldPath: spec.nodeName }} }} }}
---
apiVersion: v1
kind: Service
metadata: {{ name: web }}
spec:
  type: NodePort
  selector: {{ app: web }}
  ports: [{{ port: 80, targetPort: 8080, nodePort: {NODE_PORT} }}]
"
    )
}

const ASKER: &str = "apiVersion: v1
kind: Pod
metadata: { name: asker }
spec:
  containers:
  - { name: asker, image: weir.dev/echo:0.1.0, args: [serve] }
";

#[test]
fn twenty_rolling_updates_under_constant_new_connections_lose_no_request() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("rollouts", 2, Store::Embedded)?;
    cluster.apply(&web(10, 30, ""))?;
    cluster.apply(ASKER)?;
    cluster.wait_for_rollout("web")?;
    cluster.wait_for(&["pod", "asker"], |pod| pod["status"]["phase"] == "Running")?;
    let service = cluster.get(&["service", "web"])?;
    let cluster_ip = format!("{}:80", service["spec"]["clusterIP"].as_str().context("no clusterIP")?);
    let node_port = format!("{}:{NODE_PORT}", cluster.layout.address_of("node-1"));
    // Bounded: the machine is the cluster's too.
    let rate = Rate { per_second: 120, at_least: 7_000 };
    let loads = [
        Load::from_pod(&cluster, "asker", &cluster_ip, rate)?,
        Load::from_machine(&cluster, "node-2", &cluster_ip, rate)?,
        Load::from_machine(&cluster, "client", &node_port, rate)?,
    ];
    let began = Instant::now();
    for number in 1..=ROLLOUTS {
        // Not `rollout restart`: its mark is a time in whole seconds, and a rollout may take less.
        let change =
            format!(r#"{{"spec":{{"template":{{"metadata":{{"annotations":{{"round":"{number}"}}}}}}}}}}"#);
        cluster.weir(&["patch", "deployment", "web", "--patch", &change])?;
        cluster
            .weir(&["rollout", "status", "deployment", "web", "--timeout", "120s"])
            .with_context(|| format!("rollout {number}"))?;
    }
    let took = began.elapsed();
    let (mut answered, mut failed) = (0, 0);
    let mut report = format!("{ROLLOUTS} rolling updates of 10 replicas in {took:.1?}");
    let mut pods = std::collections::BTreeSet::new();
    for load in loads {
        let (what, tally) = load.finish()?;
        report.push_str(&format!(
            "\n  {what}: {} answered by {} pods, {} failed {}",
            tally.answered(),
            tally.answers.len(),
            tally.failed,
            tally.error
        ));
        answered += tally.answered();
        failed += tally.failed;
        pods.extend(tally.answers.into_iter().map(|(pod, _, _)| pod));
    }
    println!("{report}");
    ensure!(failed == 0, "{report}");
    ensure!(answered >= REQUESTS, "too few to say anything: {report}");
    ensure!(pods.len() >= ROLLOUTS * 10, "only {} pods answered at all: {report}", pods.len());
    let events = events(&cluster, "EndUnacknowledged")?;
    ensure!(events.is_empty(), "ended without the nodes' word: {events:?}");
    Ok(())
}

/// Messages of the events of this reason.
fn events(cluster: &Cluster, reason: &str) -> Result<Vec<String>> {
    let events = cluster.get(&["events"])?;
    let of_reason = items(&events).filter(|event| event["reason"] == reason);
    Ok(of_reason.map(|event| event["message"].to_string()).collect())
}

/// Name and uid of a pod of the Deployment that is not on its way out.
fn a_pod(cluster: &Cluster) -> Result<(String, String)> {
    let pods = cluster.get(&["pods", "-l", "app=web"])?;
    let pod = items(&pods).find(|pod| pod["metadata"]["deletionTimestamp"].is_null()).context("no pod")?;
    let word = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
    Ok((word("name"), word("uid")))
}

fn no_new_flows(pod: &Value) -> Option<&Value> {
    pod["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == "weir.dev/NoNewFlows")
}

fn delete(cluster: &Cluster, pod: &str, grace: &str) -> Result<()> {
    cluster.weir(&["delete", "pod", pod, "--wait=false", "--grace-period", grace]).map(drop)
}

fn wait_until_gone(cluster: &Cluster, uid: &str) -> Result<()> {
    wait::until(&format!("the end of pod {uid}"), PATIENCE, || {
        let pods = cluster.get(&["pods", "-l", "app=web"])?;
        ensure!(items(&pods).all(|pod| pod["metadata"]["uid"] != uid), "it is there");
        Ok(())
    })
}

#[test]
fn a_pods_end_waits_for_a_node_that_is_late_but_not_for_ever() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("late", 2, Store::Embedded)?;
    cluster.apply(&web(3, 30, "node-1"))?;
    cluster.wait_for_rollout("web")?;
    let stopped = Stopped::stop(cluster.agent_of("node-2")?)?;
    let (name, uid) = a_pod(&cluster)?;
    delete(&cluster, &name, "20")?;
    // It is left alone, and says for whom it waits.
    let waiting = cluster.wait_for(&["pod", &name], |pod| {
        no_new_flows(pod).is_some_and(|word| word["message"].as_str().unwrap_or_default().contains("node-2"))
    })?;
    ensure!(no_new_flows(&waiting).is_some_and(|word| word["status"] == "False"), "{waiting}");
    ensure!(!cluster.processes_of_pod(&uid)?.is_empty(), "it was stopped before node-2 knew");
    ensure!(events(&cluster, "Killing")?.is_empty(), "told to end before node-2 knew");
    wait_until_gone(&cluster, &uid)?;
    let told = wait::until("the event", PATIENCE, || {
        let told = events(&cluster, "EndUnacknowledged")?;
        if told.is_empty() { bail!("there is none") } else { Ok(told) }
    })?;
    ensure!(told.len() == 1 && told[0].contains("not yet acknowledged by node-2"), "{told:?}");
    ensure!(unacknowledged(&cluster, "node-1")? == 1, "not counted");
    drop(stopped);
    // The next one ends as it should, and so does one that is in no service, and one that nobody waits for.
    cluster.wait_for_rollout("web")?;
    let (name, uid) = a_pod(&cluster)?;
    let began = Instant::now();
    delete(&cluster, &name, "30")?;
    wait_until_gone(&cluster, &uid)?;
    println!("with all nodes there a pod ended in {:.1?}", began.elapsed());
    let stopped = Stopped::stop(cluster.agent_of("node-2")?)?;
    cluster.wait_for_rollout_on_paper("web")?;
    let (name, uid) = a_pod(&cluster)?;
    let began = Instant::now();
    cluster.weir(&["delete", "pod", &name, "--wait=false", "--force", "--grace-period", "0"])?;
    wait::until("its processes' end", PATIENCE, || {
        let left = cluster.processes_of_pod(&uid)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    ensure!(began.elapsed() < Duration::from_secs(5), "a forced deletion waited: {:?}", began.elapsed());
    drop(stopped);
    ensure!(unacknowledged(&cluster, "node-1")? == 1, "counted again");
    Ok(())
}

#[test]
fn deaths_of_agent_and_control_plane_in_the_middle_of_a_pods_end_lose_nothing() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("midway", 2, Store::Embedded)?;
    cluster.apply(&web(3, 60, "node-1"))?;
    cluster.wait_for_rollout("web")?;
    let target = format!("{}:{NODE_PORT}", cluster.layout.address_of("node-2"));
    let load = Load::from_machine(&cluster, "client", &target, Rate { per_second: 50, at_least: 100 })?;
    let late = cluster.agent_of("node-2")?;
    let stopped = Stopped::stop(late)?;
    let (name, uid) = a_pod(&cluster)?;
    delete(&cluster, &name, "60")?;
    cluster
        .wait_for(&["pod", &name], |pod| no_new_flows(pod).is_some_and(|word| word["status"] == "False"))?;
    let turned = wait::until("node-1's acknowledgement", PATIENCE, || {
        let slices = cluster.get(&["endpointslices", "-l", "kubernetes.io/service-name=web"])?;
        let mut newest = 0;
        for slice in items(&slices) {
            let going = slice["endpoints"].as_array().into_iter().flatten().any(|endpoint| {
                endpoint["targetRef"]["uid"] == uid.as_str() && endpoint["conditions"]["ready"] == true
            });
            ensure!(!going, "the slice has not turned away");
            newest = newest.max(slice["metadata"]["resourceVersion"].as_str().unwrap_or("0").parse::<i64>()?);
        }
        let node = cluster.get(&["dataplanenode", "node-1"])?;
        ensure!(node["status"]["revision"].as_i64() >= Some(newest), "not yet");
        Ok(newest)
    })?;
    // The pod's own agent dies while the word is still out, and then the control plane.
    cluster.kill_one(cluster.agent_of("node-1")?)?;
    let control = cluster.processes(&["weir-control"])?;
    let [control] = control[..] else { bail!("control planes: {control:?}") };
    cluster.kill_one(Pid::from_raw(control))?;
    cluster::restart_control(&cluster.layout)?;
    drop(stopped);
    cluster
        .wait_for(&["dataplanenode", "node-2"], |node| node["status"]["revision"].as_i64() >= Some(turned))?;
    cluster
        .wait_for(&["pod", &name], |pod| no_new_flows(pod).is_some_and(|word| word["status"] == "True"))?;
    ensure!(!cluster.processes_of_pod(&uid)?.is_empty(), "nobody was there to stop it");
    cluster::restart_agent(&cluster.layout, "node-1")?;
    wait_until_gone(&cluster, &uid)?;
    ensure!(cluster.processes_of_pod(&uid)?.is_empty(), "something is left of it");
    let (what, tally) = load.finish()?;
    println!("{what}: {} answered, {} failed {}", tally.answered(), tally.failed, tally.error);
    ensure!(tally.failed == 0, "{tally:?}");
    ensure!(events(&cluster, "EndUnacknowledged")?.is_empty(), "ended without the nodes' word");
    Ok(())
}

fn unacknowledged(cluster: &Cluster, node: &str) -> Result<u64> {
    agent_count(cluster, node, "weir_pod_end_unacknowledged_total")
}
