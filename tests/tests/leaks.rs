//! A node that has run a thousand pods is as it was: nothing of any of them is left, however they ended.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weir_tests::cluster::{Cluster, items};
use weir_tests::footprint::{Costs, Footprint};
use weir_tests::{require, wait};
use xtask::cluster::{self, Store};

const WAVES: usize = 10;
const PODS: usize = 100;
const NODE: &str = "node-1";
/// A wave on a busy machine; and for connections to be closed and idle threads to end.
const PATIENCE: Duration = Duration::from_secs(120);
/// Descriptors of a kind that may be more: connections of the moment.
const SLACK: usize = 8;
/// What agent and control plane may grow by from the second wave to the last: allocators keep some of what they got.
const GROWTH: u64 = 16 << 20;

/// What becomes of a wave.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Course {
    /// All get where they can, some are visited, some lose their shims; then they are deleted.
    Patient,
    /// Deleted while they start.
    Hasty,
    /// The agent dies while they start, and another takes over; then they are deleted.
    Orphaned,
}

#[test]
fn a_thousand_pods_leave_nothing_behind() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("leaks", 1, Store::Embedded)?;
    cluster
        .apply("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: settings }\ndata: { colour: blue }\n")?;
    let bare = Footprint::take(&cluster)?;
    // With the image unpacked and the first connections made.
    cluster.apply(&pod("first", 0))?;
    cluster.weir(&["wait", "--for=condition=Ready", "pod/first", "--timeout=60s"])?;
    all_kinds_show_it(&Footprint::take(&cluster)?.differences_from(&bare))?;
    cluster.weir(&["delete", "pod", "first"])?;
    // The first service of every cluster comes a moment after the first node.
    wait::until("the API server's own service", PATIENCE, || {
        let services = cluster.weir(&["net", "services", "--node", NODE])?;
        ensure!(services.contains("default/kubernetes"), "{services}");
        Ok(())
    })?;
    let before = Footprint::take(&cluster)?;
    let mut costs = Vec::new();
    for number in 0..WAVES {
        let course = match number {
            3 => Course::Orphaned,
            odd if odd % 2 == 1 => Course::Hasty,
            _ => Course::Patient,
        };
        wave(&cluster, number, course).with_context(|| format!("wave {number}, {course:?}"))?;
        // The first agent to be compared with is the one that took over.
        if number == 4 {
            costs = measure(&cluster)?;
        }
    }
    wait::until("a node as it was", PATIENCE, || {
        // The agent that took over is another process.
        let differences = Footprint::take(&cluster)?.differences_from(&before);
        let differences: Vec<_> =
            differences.iter().filter(|line| !line.contains("weir-agent --node")).collect();
        ensure!(differences.is_empty(), "{differences:#?}");
        Ok(())
    })?;
    wait::until("processes that need what they needed", PATIENCE, || {
        for ((name, then), (_, now)) in costs.iter().zip(measure(&cluster)?) {
            let more = now.descriptors_beyond(then, SLACK);
            ensure!(more.is_empty(), "{name}: {more:?}");
            ensure!(
                now.threads <= then.threads + 2,
                "{name}: {} threads became {}",
                then.threads,
                now.threads
            );
            let (then, now) = (then.private >> 10, now.private >> 10);
            ensure!(now <= then + (GROWTH >> 10), "{name}: {then} KiB became {now} KiB");
        }
        Ok(())
    })
}

/// What does not show a pod that is there would not show one that is left behind.
fn all_kinds_show_it(differences: &[String]) -> Result<()> {
    for kind in ["process", "mount", "cgroup", "link", "route", "neighbour", "address", "file", "pin", "map"]
    {
        let shown = differences.iter().any(|line| line.starts_with(&format!("new {kind}: ")));
        ensure!(shown, "no {kind} of a running pod shows in {differences:#?}");
    }
    Ok(())
}

fn measure(cluster: &Cluster) -> Result<Vec<(&'static str, Costs)>> {
    let programs = [(NODE, "weir-agent"), ("hub", "weir-control")];
    programs.into_iter().map(|(machine, name)| Ok((name, Costs::of(cluster, machine, name)?))).collect()
}

/// Of ten pods six serve, two crash, one completes and one cannot start.
fn pod(name: &str, index: usize) -> String {
    let (policy, command) = match index % 10 {
        0..=5 => ("Always", "args: [serve, --port, '8080']"),
        6 | 7 => ("Always", "args: [exit, '3']"),
        8 => ("Never", "args: [exit]"),
        _ => ("Always", "command: [/no/such/program]"),
    };
    let probe = if index % 10 < 6 {
        "readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1, timeoutSeconds: 10 }"
    } else {
        "stdin: false"
    };
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: leak }} }}
spec:
  restartPolicy: {policy}
  terminationGracePeriodSeconds: 1
  volumes:
  - {{ name: scratch, emptyDir: {{}} }}
  - {{ name: settings, configMap: {{ name: settings }} }}
  containers:
  - name: main
    image: weir.dev/echo:0.1.0
    {command}
    {probe}
    volumeMounts: [{{ name: scratch, mountPath: /scratch }}, {{ name: settings, mountPath: /settings }}]
---
"
    )
}

fn wave(cluster: &Cluster, number: usize, course: Course) -> Result<()> {
    let names: Vec<String> = (0..PODS).map(|index| format!("pod-{number}-{index}")).collect();
    let manifest: String = names.iter().enumerate().map(|(index, name)| pod(name, index)).collect();
    cluster.apply(&manifest)?;
    match course {
        Course::Hasty => {}
        Course::Orphaned => {
            cluster.kill("weir-agent")?;
            cluster::restart_agent(&cluster.layout, NODE)?;
        }
        Course::Patient => {
            settled(cluster)?;
            for name in names.iter().step_by(20) {
                cluster.weir(&["exec", name, "--", "/echo", "exit"])?;
            }
            for shim in shims(cluster)?.into_iter().step_by(12) {
                // One that ended by itself meanwhile is as good.
                let _ = kill(Pid::from_raw(shim), Signal::SIGKILL);
            }
        }
    }
    cluster.weir(&["delete", "pods", "-l", "app=leak"])?;
    Ok(())
}

/// Waits until each pod is where it can get.
fn settled(cluster: &Cluster) -> Result<()> {
    wait::until("a wave's pods", PATIENCE, || {
        let pods = cluster.get(&["pods", "-l", "app=leak"])?;
        for pod in items(&pods) {
            let (name, status) = (pod["metadata"]["name"].as_str().unwrap_or_default(), &pod["status"]);
            let index: usize =
                name.rsplit('-').next().and_then(|index| index.parse().ok()).context("a name")?;
            let container = &status["containerStatuses"][0];
            let there = match index % 10 {
                0..=5 => container["ready"] == true,
                6 | 7 => container["restartCount"].as_u64() >= Some(1),
                8 => status["phase"] == "Succeeded",
                _ => matches!(
                    container["state"]["waiting"]["reason"].as_str(),
                    Some("RunContainerError" | "CrashLoopBackOff")
                ),
            };
            ensure!(there, "{name} is {status}");
        }
        Ok(())
    })
}

fn shims(cluster: &Cluster) -> Result<Vec<i32>> {
    let pods = cluster.layout.node_directory(NODE).join("pods");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = command.split('\0').skip(1);
        if words.next() == Some("shim")
            && words.next().is_some_and(|directory| std::path::Path::new(directory).starts_with(&pods))
        {
            found.push(pid);
        }
    }
    Ok(found)
}
