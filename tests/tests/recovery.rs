//! What an agent makes of what it finds: damaged files, a machine that was rebooted, the work of another version.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use weir_tests::cluster::{Cluster, PATIENCE, condition, items, readiness};
use weir_tests::connection::Connection;
use weir_tests::scrape::agent_metrics;
use weir_tests::{images, require, wait};
use xtask::cluster::{self, Namespace, Store};

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  type: NodePort
  selector: { app: web }
  ports: [{ port: 80, targetPort: 8080, nodePort: 30080 }]
";

fn pod(name: &str, app: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: {app} }} }}
spec:
  terminationGracePeriodSeconds: 5
  volumes: [{{ name: scratch, emptyDir: {{}} }}]
  containers:
  - name: web
    image: weir.dev/echo:0.1.0
    args: [serve]
    volumeMounts: [{{ name: scratch, mountPath: /scratch }}]
    readinessProbe: {{ tcpSocket: {{ port: 8080 }}, periodSeconds: 1 }}
    env: [{{ name: POD_NAME, valueFrom: {{ fieldRef: {{ fieldPath: metadata.name }} }} }}]
---
"
    )
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")["status"] == "True"
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().unwrap_or_default()
}

/// Container and its restarts.
fn identity(pod: &Value) -> String {
    let status = &pod["status"]["containerStatuses"][0];
    format!("{} {}", status["containerID"], status["restartCount"])
}

fn pods(cluster: &Cluster) -> Result<BTreeMap<String, Value>> {
    let list = cluster.get(&["pods"])?;
    let named = items(&list)
        .map(|pod| (pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(), pod.clone()));
    Ok(named.collect())
}

/// Every pod is ready, by the API and by an answer from its own address, and no two have one address.
fn all_answer(cluster: &Cluster, count: usize) -> Result<BTreeMap<String, Value>> {
    wait::until("pods that answer", PATIENCE, || {
        let pods = pods(cluster)?;
        ensure!(pods.len() == count, "{} pods", pods.len());
        let mut addresses = std::collections::BTreeSet::new();
        for (name, pod) in &pods {
            ensure!(is_ready(pod), "{name} is not ready: {}", pod["status"]);
            let address = pod["status"]["podIP"].as_str().context("no podIP")?;
            ensure!(addresses.insert(address.to_owned()), "{address} twice");
            let tally = cluster.request_from("node-1", &format!("{address}:8080"), &["--count", "1"])?;
            let who: Vec<_> = tally.answers.iter().map(|(pod, _, _)| pod).collect();
            ensure!(tally.failed == 0 && who == [name], "{name} at {address}: {tally:?}");
        }
        Ok(pods)
    })
}

/// Of a node whose pods are gone.
fn nothing_is_left(cluster: &Cluster, node: &str) -> Result<()> {
    let directory = cluster.layout.node_directory(node);
    wait::until("a node without traces of pods", PATIENCE, || {
        let pods: Vec<_> =
            fs::read_dir(directory.join("pods"))?.flatten().map(|entry| entry.path()).collect();
        ensure!(pods.is_empty(), "{pods:?}");
        let addresses = fs::read_to_string(directory.join("network/addresses"))?;
        ensure!(addresses.lines().all(|line| line.starts_with("next ")), "{addresses}");
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let below = directory.join("pods");
        ensure!(!mounts.contains(below.to_str().context("path")?), "mounts below {}", below.display());
        let links = Namespace::named(cluster.layout.namespace_of(node)).run("ip", &["-o", "link"])?;
        let names = links.lines().filter_map(|line| line.split(": ").nth(1));
        let of_pods: Vec<_> = names.filter(|name| name.starts_with("weir")).collect();
        ensure!(of_pods.is_empty(), "{of_pods:?}");
        Ok(())
    })
}

fn restart_and_wait(cluster: &Cluster, node: &str) -> Result<()> {
    cluster::restart_agent(&cluster.layout, node)
}

#[test]
fn a_node_that_was_rebooted_runs_its_pods_again() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("reboot", 1, Store::Embedded)?;
    let names = ["one", "two", "three"];
    cluster.apply(&(names.map(|name| pod(name, "web")).concat() + SERVICE))?;
    let before = all_answer(&cluster, 3)?;
    cluster::power_off(&cluster.layout, "node-1")?;
    cluster::power_on(&cluster.layout, "node-1")?;
    restart_and_wait(&cluster, "node-1")?;
    wait::until("restarts", PATIENCE, || {
        for (name, pod) in pods(&cluster)? {
            ensure!(uid(&pod) == uid(&before[&name]), "{name} is another pod");
            let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
            ensure!(*restarts == 1, "{name} has {restarts} restarts");
        }
        Ok(())
    })?;
    let after = all_answer(&cluster, 3)?;
    for (name, pod) in &after {
        let address = |pod: &Value| pod["status"]["podIP"].clone();
        ensure!(address(pod) == address(&before[name]), "{name} had {}", address(&before[name]));
        let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
        ensure!(last["exitCode"] == 137, "{name}: {last}");
    }
    cluster.wait_for_dataplanes()?;
    let target = format!("{}:30080", cluster.layout.address_of("node-1"));
    let tally = cluster.request_from("client", &target, &["--count", "60"])?;
    ensure!(tally.failed == 0 && tally.answers.len() == 3, "{tally:?}");
    cluster.weir(&["delete", "pods", "--all"])?;
    nothing_is_left(&cluster, "node-1")
}

/// Half of it, or something else altogether.
fn damage(path: &Path, cut: bool) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let bytes = if cut { bytes[..bytes.len() / 2].to_vec() } else { b"\xff\x00 no json, no text\n".to_vec() };
    fs::write(path, bytes).with_context(|| format!("damage {}", path.display()))
}

#[test]
fn a_damaged_file_costs_at_most_its_own_pod() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("damage", 1, Store::Embedded)?;
    // Relative to the pod's directory.
    let kinds = [
        ("sandbox", ".sandbox/sandbox.json"),
        ("hosts", ".sandbox/hosts"),
        ("record", "web/0/container.json"),
        ("bundle", "web/0/config.json"),
        ("shim", "web/0/shim.json"),
        ("init", "web/0/init.json"),
    ];
    let mut manifest = pod("bystander", "web") + SERVICE + "---\n";
    let mut damaged = Vec::new();
    for (kind, file) in kinds {
        for (how, cut) in [("cut", true), ("junk", false)] {
            let name = format!("{kind}-{how}");
            manifest.push_str(&pod(&name, "damaged"));
            damaged.push((name, file, cut));
        }
    }
    cluster.apply(&manifest)?;
    let count = damaged.len() + 1;
    let before = all_answer(&cluster, count)?;
    cluster.wait_for_dataplanes()?;
    let target = format!("{}:30080", cluster.layout.address_of("node-1"));
    let mut connection = Connection::from_client(&cluster, &target)?;
    ensure!(connection.ask()?.starts_with("bystander "));

    cluster.kill_one(cluster.agent_of("node-1")?)?;
    let directory = cluster.layout.node_directory("node-1");
    for (name, file, cut) in &damaged {
        damage(&directory.join("pods").join(uid(&before[name])).join(file), *cut)?;
    }
    // And what all pods share.
    damage(&directory.join("network/addresses"), true)?;
    damage(&directory.join("pki/node.pem"), true)?;
    for record in fs::read_dir(directory.join("images/refs"))?.flatten() {
        damage(&record.path(), false)?;
    }
    restart_and_wait(&cluster, "node-1")?;
    cluster.apply(&pod("newcomer", "new"))?;
    let after = all_answer(&cluster, count + 1)?;
    for (name, pod) in &before {
        ensure!(uid(&after[name]) == uid(pod), "{name} is another pod");
    }
    ensure!(identity(&after["bystander"]) == identity(&before["bystander"]), "the bystander was touched");
    ensure!(connection.ask()?.starts_with("bystander "), "its connection was");
    // Once more, by hands that do not stop at one: garbage instead of half a file.
    cluster.kill_one(cluster.agent_of("node-1")?)?;
    damage(&directory.join("network/addresses"), false)?;
    damage(&directory.join("pki/node.pem"), false)?;
    restart_and_wait(&cluster, "node-1")?;
    let later = all_answer(&cluster, count + 1)?;
    for (name, pod) in &after {
        ensure!(identity(&later[name]) == identity(pod), "{name} was touched");
    }
    ensure!(connection.ask()?.starts_with("bystander "));
    cluster.weir(&["delete", "pods", "--all"])?;
    nothing_is_left(&cluster, "node-1")
}

/// Another build of the agent, installed elsewhere, as a package would be: the version that it was compiled with is another one, of
/// the same length. Answers with the program and both versions.
fn another_build(cluster: &Cluster) -> Result<(PathBuf, String, String)> {
    let version_of = |program: &Path| -> Result<String> {
        let said = xtask::shell::output(Command::new(program).arg("--version"))?;
        Ok(said.trim().rsplit(' ').next().context("no version")?.to_owned())
    };
    let first = xtask::build::binaries().join("weir-agent");
    let old = version_of(&first)?;
    let last = old.chars().last().and_then(|last| last.to_digit(10)).context("a version ends in a digit")?;
    let new = format!("{}{}", &old[..old.len() - 1], (last + 1) % 10);
    let program: PathBuf = cluster.layout.directory.join("next/weir-agent");
    fs::create_dir_all(program.parent().context("a parent")?)?;
    fs::copy(&first, &program)?;
    let replace = format!("s/{}/{new}/g", old.replace('.', "\\."));
    xtask::shell::output(Command::new("sed").env("LC_ALL", "C").args(["-i", &replace]).arg(&program))?;
    ensure!(version_of(&program)? == new, "the version lies in the program in another form");
    Ok((program, old, new))
}

#[test]
fn another_version_of_the_agent_takes_over_what_runs_and_so_does_the_old_one_again() -> Result<()> {
    if !require::cluster_and(&["/usr/bin/curl"]) {
        return Ok(());
    }
    let cluster = Cluster::up("upgrade", 1, Store::Embedded)?;
    let first = xtask::build::binaries().join("weir-agent");
    let (next, old, new) = another_build(&cluster)?;
    images::add_busybox(&cluster)?;
    // It is healthy only by a command, and its log must have every line.
    let talks = "{apiVersion: v1, kind: Pod, metadata: {name: talks}, spec: {terminationGracePeriodSeconds: 0, containers: \
                 [{name: main, image: 'weir.test/busybox:1', livenessProbe: {exec: {command: ['true']}, periodSeconds: 1, \
                 timeoutSeconds: 10}, command: [sh, -c, 'n=0; while :; do n=$((n+1)); echo line $n; sleep 0.1; done']}]}}";
    cluster.apply(talks)?;
    cluster.weir(&["wait", "--for=condition=Ready", "pod/talks", "--timeout=60s"])?;
    cluster.apply(&(pod("zero", "web") + SERVICE))?;
    cluster.wait_for(&["pod", "zero"], is_ready)?;
    cluster.wait_for_dataplanes()?;
    let target = format!("{}:30080", cluster.layout.address_of("node-1"));
    let mut connection = Connection::from_client(&cluster, &target)?;
    ensure!(connection.ask()?.starts_with("zero "));
    let ready = readiness(&cluster.get(&["node", "node-1"])?);
    let mut before = pods(&cluster)?;

    // Upgrade and downgrade, by a crash and in order.
    let steps = [
        ("one", &next, &new, Signal::SIGKILL),
        ("two", &first, &old, Signal::SIGTERM),
        ("three", &next, &new, Signal::SIGTERM),
        ("four", &first, &old, Signal::SIGKILL),
    ];
    for (name, program, version, signal) in steps {
        cluster.end_one(cluster.agent_of("node-1")?, signal)?;
        ensure!(connection.ask()?.starts_with("zero "), "{name}: no agent, and no connection");
        let tally = cluster.request_from("client", &target, &["--count", "20"])?;
        ensure!(tally.failed == 0, "{name}: no agent: {tally:?}");
        cluster::restart_agent_as(&cluster.layout, "node-1", program, &[])?;
        let node = cluster.wait_for(&["node", "node-1"], |node| {
            node["status"]["nodeInfo"]["kubeletVersion"] == format!("v{version}")
        })?;
        ensure!(
            node["status"]["nodeInfo"]["containerRuntimeVersion"] == format!("weir://{version}"),
            "{node}"
        );
        ensure!(readiness(&node) == ready, "{name}: {node}");
        ensure!(cluster.weir(&["get", "nodes"])?.contains(&format!("v{version}")));
        let build = format!("kubernetes_build_info{{git_version=\"v{version}\"");
        wait::until("metrics of this version", PATIENCE, || {
            let metrics = agent_metrics(&cluster, "node-1")?;
            ensure!(metrics.contains(&build), "{name}: {metrics}");
            Ok(())
        })?;

        cluster.apply(&pod(name, "web"))?;
        cluster.wait_for(&["pod", name], is_ready)?;
        let now = pods(&cluster)?;
        for (pod, was) in &before {
            ensure!(
                identity(&now[pod]) == identity(was),
                "{name}: {pod} was touched: {}",
                now[pod]["status"]
            );
            ensure!(is_ready(&now[pod]), "{name}: {pod} is not ready: {}", now[pod]["status"]);
        }
        ensure!(connection.ask()?.starts_with("zero "));
        // Whichever version started them, this one enters them.
        for pod in now.keys().filter(|pod| *pod != "talks") {
            let asks = ["exec", pod, "--", "/echo", "request", "--target", "127.0.0.1:8080", "--count", "1"];
            let said = cluster.weir(&asks)?;
            ensure!(said.contains("\"failed\":0"), "{name}: {pod}: {said}");
        }
        let logs = cluster.weir(&["logs", "talks"])?;
        let expected = (1..=logs.lines().count()).map(|number| format!("line {number}"));
        ensure!(logs.lines().eq(expected), "{name}: {logs}");
        before = now;
    }
    // Shims of both versions hear the agent, to the end.
    cluster.weir(&["delete", "pods", "--all"])?;
    nothing_is_left(&cluster, "node-1")
}
