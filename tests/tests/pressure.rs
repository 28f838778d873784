//! A node that runs out of memory, disk or process ids: who goes, when, in which words, and how the node is again itself.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use serde_json::Value;
use weir_tests::cluster::{Cluster, PATIENCE, condition, items};
use weir_tests::scrape::agent_metrics;
use weir_tests::{images, require, wait};
use xtask::cluster;

const PRIORITY: &str = "
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: { name: important }
value: 1000
";

/// A pod of a shell that does something and then waits; told to end, it takes two seconds and says when in `/out`.
fn pod(cluster: &Cluster, name: &str, deed: &str, more: &str, resources: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
  terminationGracePeriodSeconds: 10
{more}
  volumes:
  - {{ name: memory, emptyDir: {{ medium: Memory }} }}
  - {{ name: disk, emptyDir: {{}} }}
  - {{ name: out, hostPath: {{ path: '{out}', type: DirectoryOrCreate }} }}
  containers:
  - name: main
    image: weir.test/busybox:1
    command:
    - sh
    - -c
    - |
      now() {{ read at rest < /proc/uptime; echo $at > /out/{name}-$1; }}
      trap 'now told; sleep 2; exit 0' TERM
      {deed}
      now done
      while :; do sleep 0.1; done
    resources: {resources}
    readinessProbe: {{ exec: {{ command: [test, -e, /out/{name}-done] }}, periodSeconds: 1, timeoutSeconds: 10 }}
    volumeMounts:
    - {{ name: memory, mountPath: /memory }}
    - {{ name: disk, mountPath: /disk }}
    - {{ name: out, mountPath: /out }}
",
        out = cluster.layout.directory.join("out").display()
    )
}

/// Fills so many MiB.
fn fills(volume: &str, mebibytes: u32) -> String {
    format!("dd if=/dev/zero of=/{volume}/x bs=1M count={mebibytes}")
}

/// Has so many processes.
fn crowd(processes: u32) -> String {
    format!("n=0; while [ $n -lt {processes} ]; do sleep 100000 & n=$((n+1)); done")
}

/// When a pod's shell said so, in seconds of the machine's life.
fn moment(cluster: &Cluster, pod: &str, what: &str) -> Result<f64> {
    let path = cluster.layout.directory.join("out").join(format!("{pod}-{what}"));
    let text = fs::read_to_string(&path).with_context(|| format!("{pod} did not say {what}"))?;
    Ok(text.trim().parse()?)
}

fn ready(cluster: &Cluster, pods: &[&str]) -> Result<()> {
    for pod in pods {
        cluster.weir(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"])?;
    }
    Ok(())
}

/// Waits until the pod was evicted in these words, and returns it.
fn evicted(cluster: &Cluster, pod: &str, words: &str) -> Result<Value> {
    let evicted = cluster.wait_for(&["pod", pod], |pod| pod["status"]["phase"] == "Failed")?;
    let status = &evicted["status"];
    ensure!(status["reason"] == "Evicted", "{status}");
    ensure!(status["message"].as_str().is_some_and(|message| message.starts_with(words)), "{status}");
    ensure!(condition(&evicted, "DisruptionTarget")["reason"] == "TerminationByKubelet", "{status}");
    wait::until("the event of the eviction", PATIENCE, || {
        let events = cluster.get(&["events"])?;
        let told = items(&events)
            .any(|event| event["reason"] == "Evicted" && event["involvedObject"]["name"] == pod);
        if told { Ok(()) } else { bail!("there is none") }
    })?;
    Ok(evicted)
}

/// They run, and did so all the time.
fn untouched(cluster: &Cluster, pods: &[&str]) -> Result<()> {
    for name in pods {
        let pod = cluster.get(&["pod", name])?;
        let status = &pod["status"];
        ensure!(status["phase"] == "Running" && status["containerStatuses"][0]["restartCount"] == 0, "{pod}");
    }
    Ok(())
}

/// Waits until the node says so of a pressure, and is tainted or no more, accordingly.
fn pressure(cluster: &Cluster, kind: &str, taint: &str, there: bool) -> Result<Value> {
    cluster.wait_for(&["node", "node-1"], |node| {
        let taints = node["spec"]["taints"].as_array().map_or(&[][..], Vec::as_slice);
        let tainted = taints.iter().any(|one| one["key"] == taint && one["effect"] == "NoSchedule");
        let status = if there { "True" } else { "False" };
        condition(node, kind)["status"] == status && tainted == there
    })
}

/// The node's share of this machine, kept by a directory of its own while the node has no pod.
fn limit(cluster: &Cluster, controller: &str, file: &str, value: u64) -> Result<()> {
    let group = hierarchy(controller)?.join(cluster.layout.cgroup_of("node-1"));
    fs::create_dir_all(group.join("kept"))?;
    Ok(fs::write(group.join(file), value.to_string())?)
}

/// Where a controller's groups are on this machine.
fn hierarchy(controller: &str) -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let of_controller = |fields: &Vec<&str>| {
        fields[2] == "cgroup"
            && fields[3].split(',').any(|option| option == controller)
            && fields[1].starts_with("/sys/fs/cgroup")
    };
    let found =
        fields.find(of_controller).with_context(|| format!("no hierarchy of version 1 with {controller}"))?;
    Ok(PathBuf::from(found[1]))
}

fn flags(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|flag| (*flag).to_owned()).collect()
}

#[test]
fn when_memory_runs_out_the_pod_furthest_above_its_request_goes_and_no_other() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let set = ["--eviction-hard=memory.available<60Mi", "--eviction-pressure-transition-period=5s"];
    let cluster = Cluster::with_flags("memory", |_| flags(&set))?;
    images::add_busybox(&cluster)?;
    limit(&cluster, "memory", "memory.limit_in_bytes", 200 << 20)?;
    let guaranteed = "{ requests: { cpu: 10m, memory: 60Mi }, limits: { cpu: 10m, memory: 60Mi } }";
    cluster.apply(&pod(&cluster, "guaranteed", &fills("memory", 20), "", guaranteed))?;
    cluster.apply(&pod(&cluster, "burstable", &fills("memory", 50), "", "{ requests: { memory: 20Mi } }"))?;
    ready(&cluster, &["guaranteed", "burstable"])?;
    cluster.apply(&pod(&cluster, "best-effort", &fills("memory", 75), "", "{}"))?;
    let words = "The node was low on resource: memory. Threshold quantity: 60Mi, available: ";
    let status = &evicted(&cluster, "best-effort", words)?["status"];
    let message = status["message"].as_str().unwrap_or_default();
    ensure!(
        message.contains("Container main was using ")
            && message.contains("request is 0, has larger consumption of memory. "),
        "{message}"
    );
    // It shows for a few seconds at least; who asks later finds the transition.
    let node = cluster.wait_for(&["node", "node-1"], |node| {
        condition(node, "MemoryPressure")["status"] == "True"
            || condition(node, "MemoryPressure")["lastTransitionTime"]
                != condition(node, "DiskPressure")["lastTransitionTime"]
    })?;
    ensure!(condition(&node, "DiskPressure")["status"] == "False", "{node}");
    pressure(&cluster, "MemoryPressure", "node.kubernetes.io/memory-pressure", false)?;
    untouched(&cluster, &["guaranteed", "burstable"])
}

#[test]
fn a_soft_threshold_gives_time_first_to_the_node_and_then_to_the_pod() -> Result<()> {
    if !require::cluster_and(&["/usr/bin/curl"]) {
        return Ok(());
    }
    let set = [
        "--eviction-soft=memory.available<60Mi",
        "--eviction-soft-grace-period=memory.available=4s",
        "--eviction-max-pod-grace-period=20",
        "--eviction-pressure-transition-period=10s",
    ];
    let cluster = Cluster::with_flags("soft", |_| flags(&set))?;
    images::add_busybox(&cluster)?;
    limit(&cluster, "memory", "memory.limit_in_bytes", 200 << 20)?;
    let guaranteed = "{ requests: { cpu: 10m, memory: 60Mi }, limits: { cpu: 10m, memory: 60Mi } }";
    let important = "  priorityClassName: important";
    cluster.apply(
        &[
            PRIORITY,
            &pod(&cluster, "guaranteed", &fills("memory", 20), "", guaranteed),
            &pod(&cluster, "within", &fills("memory", 40), "", "{ requests: { memory: 60Mi } }"),
            &pod(&cluster, "important", &fills("memory", 50), important, "{}"),
        ]
        .concat(),
    )?;
    let bystanders = ["guaranteed", "within", "important"];
    ready(&cluster, &bystanders)?;
    ensure!(condition(&cluster.get(&["node", "node-1"])?, "MemoryPressure")["status"] == "False");

    // The important one uses more, and neither has asked for any: priority decides.
    cluster.apply(&pod(&cluster, "minor", &fills("memory", 42), "", "{}"))?;
    let taint = "node.kubernetes.io/memory-pressure";
    pressure(&cluster, "MemoryPressure", taint, true)?;
    // Meanwhile nobody comes who says nothing of how much memory he wants.
    cluster.apply(&pod(&cluster, "late", ":", "", "{}"))?;
    cluster.apply(&pod(&cluster, "modest", ":", "", "{ requests: { memory: 1Mi } }"))?;
    let late = cluster.wait_for(&["pod", "late"], |pod| !condition(pod, "PodScheduled").is_null())?;
    let word = condition(&late, "PodScheduled");
    ensure!(word["status"] == "False" && word["message"].to_string().contains(taint), "{late}");

    let words = "The node was low on resource: memory. Threshold quantity: 60Mi, available: ";
    let pod = evicted(&cluster, "minor", words)?;
    let end = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    ensure!(end["exitCode"] == 0, "it was not given the time to end: {pod}");
    let stood = moment(&cluster, "minor", "told")? - moment(&cluster, "minor", "done")?;
    ensure!((3.9..30.0).contains(&stood), "told to end after {stood} s");
    let told = cluster.get(&["events", "-A"])?;
    let told =
        items(&told).find(|event| event["reason"] == "EvictionThresholdMet").context("no such event")?;
    ensure!(told["message"] == "Attempting to reclaim memory", "{told}");
    let counted = agent_metrics(&cluster, "node-1")?;
    ensure!(counted.contains("kubelet_evictions{eviction_signal=\"memory.available\"} 1"), "{counted}");

    pressure(&cluster, "MemoryPressure", taint, false)?;
    ready(&cluster, &["late", "modest"])?;
    untouched(&cluster, &bystanders)
}

#[test]
fn when_process_ids_run_out_the_least_important_pod_with_the_most_goes() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let set = ["--eviction-hard=pid.available<100", "--eviction-pressure-transition-period=5s"];
    let cluster = Cluster::with_flags("pids", |_| flags(&set))?;
    images::add_busybox(&cluster)?;
    limit(&cluster, "pids", "pids.max", 250)?;
    let important = "  priorityClassName: important";
    cluster.apply(
        &[
            PRIORITY,
            &pod(&cluster, "important", &crowd(100), important, "{}"),
            &pod(&cluster, "quiet", ":", "", "{}"),
        ]
        .concat(),
    )?;
    ready(&cluster, &["important", "quiet"])?;
    cluster.apply(&pod(&cluster, "many", &crowd(60), "", "{}"))?;
    let taint = "node.kubernetes.io/pid-pressure";
    pressure(&cluster, "PIDPressure", taint, true)?;
    evicted(&cluster, "many", "The node was low on resource: pids. Threshold quantity: 100, available: ")?;
    let node = pressure(&cluster, "PIDPressure", taint, false)?;
    ensure!(condition(&node, "PIDPressure")["reason"] == "KubeletHasSufficientPID", "{node}");
    untouched(&cluster, &["important", "quiet"])?;
    // And there is room again.
    cluster.apply(&pod(&cluster, "some", &crowd(20), "", "{}"))?;
    ready(&cluster, &["some"])
}

#[test]
fn when_the_disk_fills_up_the_pod_that_fills_it_goes() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let mut cluster = Cluster::with_flags("disk", |_| Vec::new())?;
    images::add_busybox(&cluster)?;
    // A small disk under the node's state, from the beginning.
    cluster.kill("weir-agent")?;
    let state = cluster.layout.node_directory("node-1");
    mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=100m"))?;
    cluster.layout.agent_flags =
        flags(&["--eviction-hard=nodefs.available<30%", "--eviction-pressure-transition-period=5s"]);
    cluster::restart_agent(&cluster.layout, "node-1")?;
    cluster.apply(&pod(&cluster, "small", ":", "", "{}"))?;
    ready(&cluster, &["small"])?;
    cluster.apply(&pod(&cluster, "large", &fills("disk", 70), "", "{}"))?;
    evicted(&cluster, "large", "The node was low on resource: ephemeral-storage. Threshold quantity: ")?;
    untouched(&cluster, &["small"])
}
