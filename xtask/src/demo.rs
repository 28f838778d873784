//! `cargo xtask demo`: from a fresh machine to a cluster that serves, with every request counted.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cluster::{self, Layout, Store, weir};
use crate::shell::{output, workspace};
use crate::{build, doctor};

#[derive(Args, Debug)]
pub struct Requests {
    /// How many requests each of the three ways
    #[arg(long, default_value_t = 1000)]
    requests: u32,
}

/// What `echo request` prints.
#[derive(Deserialize)]
struct Tally {
    failed: u64,
    error: String,
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    pod: String,
    node: String,
    count: u64,
}

const NODES: u8 = 2;
const ROLLOUT: Duration = Duration::from_secs(120);

pub fn run(requests: &Requests) -> Result<ExitCode> {
    doctor::ensure(doctor::Purpose::Run)?;
    build::all()?;
    run_built(&Layout::workspace(NODES, Store::Embedded)?, requests.requests)
}

/// The demo itself, where everything is built.
pub fn run_built(layout: &Layout, requests: u32) -> Result<ExitCode> {
    cluster::up(layout)?;
    deploy(layout)?;
    let service = get(layout, "service/echo")?;
    let cluster_ip =
        service["spec"]["clusterIP"].as_str().context("the service has no clusterIP")?.to_owned();
    let node_port =
        service["spec"]["ports"][0]["nodePort"].as_u64().context("the service has no nodePort")?;

    let count = requests.to_string();
    let mut tallies = Vec::new();
    let by_cluster_ip = format!("{cluster_ip}:80");
    tallies
        .push((format!("ClusterIP {by_cluster_ip} from a pod"), from_a_pod(layout, &by_cluster_ip, &count)?));
    tallies.push((
        format!("ClusterIP {by_cluster_ip} from node-1"),
        from_machine(layout, "node-1", &by_cluster_ip, &count)?,
    ));
    let by_node_port = format!("{}:{node_port}", layout.address_of("node-1"));
    tallies.push((
        format!("NodePort {by_node_port} from outside"),
        from_machine(layout, "client", &by_node_port, &count)?,
    ));

    let failed = report(&tallies);
    println!("\n==> the eBPF map entries that did it (read from the kernel, node by node)");
    for view in ["services", "backends"] {
        println!("\n$ weir net {view}");
        print!("{}", output(&mut weir(layout, &["net", view]))?);
    }
    epilogue(layout);
    if failed > 0 {
        eprintln!("\nerror: {failed} requests failed");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Applies the example and waits until every replica is available.
fn deploy(layout: &Layout) -> Result<()> {
    println!("==> weir apply -f examples/echo.yaml");
    let manifest = workspace().join("examples/echo.yaml");
    let manifest = manifest.to_str().context("the workspace's path is not UTF-8")?;
    print!("{}", output(&mut weir(layout, &["apply", "-f", manifest]))?);
    let start = Instant::now();
    wait("the rollout of deployment/echo", || {
        let deployment = get(layout, "deployment/echo")?;
        let (spec, status) = (&deployment["spec"], &deployment["status"]);
        let all = spec["replicas"].as_u64().unwrap_or(1);
        let current = status["observedGeneration"] == deployment["metadata"]["generation"];
        let available = status["availableReplicas"].as_u64().unwrap_or(0);
        let updated = status["updatedReplicas"].as_u64().unwrap_or(0);
        let total = status["replicas"].as_u64().unwrap_or(0);
        Ok((current && available == all && updated == all && total == all)
            .then_some(())
            .ok_or_else(|| format!("{available} of {all} replicas are available")))
    })?;
    println!("    rolled out after {:.1} s", start.elapsed().as_secs_f64());
    // A dataplane that lags the rollout would be a lie found by the requests: wait until each node acknowledged a
    // revision that is at least the newest slice's.
    wait("the nodes' dataplanes", || dataplanes_hold_the_slices(layout))
}

/// Every node has acknowledged a revision in which the service's newest EndpointSlice is in its kernel maps.
fn dataplanes_hold_the_slices(layout: &Layout) -> Result<Result<(), String>> {
    let slices = get(layout, "endpointslices")?;
    let revision = |object: &Value| {
        object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse::<i64>().ok())
    };
    let newest =
        slices["items"].as_array().into_iter().flatten().filter_map(revision).max().unwrap_or_default();
    let nodes = get(layout, "dataplanenodes")?;
    let nodes = nodes["items"].as_array().cloned().unwrap_or_default();
    let behind: Vec<String> = nodes
        .iter()
        .filter(|node| node["status"]["revision"].as_i64().unwrap_or_default() < newest)
        .map(|node| format!("{} holds revision {}", node["metadata"]["name"], node["status"]["revision"]))
        .collect();
    if nodes.len() < usize::from(layout.nodes) {
        return Ok(Err(format!("{} of {} nodes have reported", nodes.len(), layout.nodes)));
    }
    Ok(if behind.is_empty() { Ok(()) } else { Err(format!("want revision {newest}: {}", behind.join(", "))) })
}

/// Runs the client as a pod of its own and reads what it printed from its log.
fn from_a_pod(layout: &Layout, target: &str, count: &str) -> Result<Tally> {
    println!("==> {count} requests to {target} from pod echo-client");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "echo-client" },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "client", "image": "weir.dev/echo:0.1.0", "args": ["request", "--target", target, "--count", count] }],
        },
    });
    let file = layout.directory.join("echo-client.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&pod)?)?;
    output(&mut weir(layout, &["delete", "pod", "echo-client", "--ignore-not-found"]))?;
    wait("the end of an earlier pod echo-client", || {
        let gone = output(&mut weir(layout, &["get", "pods", "-o", "name"]))?;
        Ok(if gone.lines().any(|name| name == "pod/echo-client") {
            Err("still there".to_owned())
        } else {
            Ok(())
        })
    })?;
    output(&mut weir(layout, &["apply", "-f", file.to_str().context("the path is not UTF-8")?]))?;
    wait("pod echo-client", || {
        let pod = get(layout, "pod/echo-client")?;
        Ok(match pod["status"]["phase"].as_str() {
            Some("Succeeded" | "Failed") => Ok(()),
            _ => Err(format!("{}", pod["status"])),
        })
    })?;
    let log = output(&mut weir(layout, &["logs", "echo-client"]))?;
    parse(&log)
}

/// Runs the client as a process of a node, or of the machine outside the nodes.
fn from_machine(layout: &Layout, machine: &str, target: &str, count: &str) -> Result<Tally> {
    println!("==> {count} requests to {target} from {machine}");
    let mut command: Command = cluster::command_in(layout, machine, &build::echo())?;
    command.args(["request", "--target", target, "--count", count]);
    // It exits 1 where requests failed, and says how many: that is for the report.
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("run {command:?}"))?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(text: &str) -> Result<Tally> {
    let line =
        text.lines().rfind(|line| line.starts_with('{')).with_context(|| format!("no tally in {text:?}"))?;
    serde_json::from_str(line).with_context(|| format!("read the tally {line}"))
}

/// The table of who answered how often. Returns how many requests failed.
fn report(tallies: &[(String, Tally)]) -> u64 {
    let mut failed = 0;
    println!();
    for (how, tally) in tallies {
        let answered: u64 = tally.answers.iter().map(|answer| answer.count).sum();
        println!("{how}: {answered} answered, {} failed {}", tally.failed, tally.error);
        let mut nodes: BTreeMap<&str, u64> = BTreeMap::new();
        for Answer { pod, node, count } in &tally.answers {
            println!("    {pod:<28} {node:<10} {count:>6}");
            *nodes.entry(node).or_default() += count;
        }
        let nodes: Vec<String> = nodes.iter().map(|(node, count)| format!("{node} {count}")).collect();
        println!("    {:<28} {}", "by node", nodes.join(", "));
        failed += tally.failed + u64::from(answered == 0);
    }
    failed
}

fn epilogue(layout: &Layout) {
    let kubeconfig = layout.kubeconfig();
    println!(
        "\nThe cluster stays up. Try next:
    export KUBECONFIG={}
    target/release/weir get pods -o wide
    target/release/weir scale deployment echo --replicas 8
    target/release/weir net services
    target/release/weir net maps
    target/release/weir logs deployment/echo
    kubectl get nodes -o wide
Stop it, without a trace:
    cargo xtask down",
        kubeconfig.display()
    );
}

fn get(layout: &Layout, what: &str) -> Result<Value> {
    Ok(serde_json::from_str(&output(&mut weir(layout, &["get", what, "-o", "json"]))?)?)
}

/// Asks until the inner result is `Ok`; the last reason is the error's.
fn wait(what: &str, ask: impl Fn() -> Result<Result<(), String>>) -> Result<()> {
    let deadline = Instant::now() + ROLLOUT;
    loop {
        match ask()? {
            Ok(()) => return Ok(()),
            Err(reason) if Instant::now() > deadline => bail!("{what}: not within {ROLLOUT:?}: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
