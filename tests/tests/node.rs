//! A node's own loops: pods from files without a control plane, what is let in, eviction, and the node's shutdown.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use weir_tests::cluster::{Cluster, PATIENCE, items};
use weir_tests::{require, wait};
use xtask::cluster::{self, Layout, Store};

/// A cluster of one node, whose agent has these flags.
fn cluster_with(name: &str, flags: impl FnOnce(&Layout) -> Vec<String>) -> Result<Cluster> {
    let mut layout = Layout::for_test(&format!("weir-{name}-{}", std::process::id()), 1, Store::Embedded)?;
    let flags = flags(&layout);
    if flags.iter().any(|flag| flag.starts_with("--eviction-hard")) {
        layout.agent_flags.retain(|flag| !flag.starts_with("--eviction-hard"));
    }
    layout.agent_flags.extend(flags);
    let cluster = Cluster { layout };
    cluster::up(&cluster.layout)?;
    Ok(cluster)
}

/// Kills a program of the cluster and waits until it is gone.
fn kill_all(layout: &Layout, program: &str) -> Result<()> {
    for pid in processes_of(layout, program)? {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    }
    gone(layout, program)
}

fn gone(layout: &Layout, program: &str) -> Result<()> {
    wait::until(&format!("the end of {program}"), PATIENCE, || {
        let left = processes_of(layout, program)?;
        if left.is_empty() { Ok(()) } else { bail!("{left:?}") }
    })
}

/// Processes in the cluster's cgroups that run this program; shims are not agents.
fn processes_of(layout: &Layout, program: &str) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let ours = read("cgroup").lines().any(|line| line.starts_with(&format!("0::/{}/", layout.name)));
        let command = read("cmdline");
        let mut words = command.split('\0');
        let name = words.next().and_then(|word| Path::new(word).file_name()?.to_str()).unwrap_or_default();
        if ours && words.next() != Some("shim") && name == program {
            found.push(pid);
        }
    }
    Ok(found)
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let all = object["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

/// The file appears whole, as careful writers have it.
fn put(dir: &Path, name: &str, text: &str) -> Result<()> {
    fs::create_dir_all(dir)?;
    let beside = dir.join(format!(".{name}"));
    fs::write(&beside, text)?;
    Ok(fs::rename(beside, dir.join(name))?)
}

fn echo(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, labels: {{ app: {name} }} }}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: weir.dev/echo:0.1.0\n    \
         args: [serve, --port, \"8080\"]\n    env:\n    - {{ name: POD_NAME, valueFrom: {{ fieldRef: {{ fieldPath: \
         metadata.name }} }} }}\n{more}"
    )
}

/// Addresses of the node's pods, from the agent's own file: there may be no API to ask.
fn addresses(layout: &Layout) -> Vec<String> {
    let path = layout.node_directory("node-1").join("network/addresses");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|word| *word != "next")
        .map(str::to_owned)
        .collect()
}

/// The pods that answer on this node, by name.
fn answering(cluster: &Cluster) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for address in addresses(&cluster.layout) {
        let flags = ["--count", "1", "--timeout-ms", "1000"];
        let tally = cluster.request_from("node-1", &format!("{address}:8080"), &flags);
        names.extend(tally.into_iter().flat_map(|tally| tally.answers).map(|(pod, _, _)| pod));
    }
    names.sort();
    Ok(names)
}

fn wait_for_answers(cluster: &Cluster, expected: &[&str]) -> Result<()> {
    wait::until(&format!("answers of {expected:?}"), PATIENCE, || {
        let names = answering(cluster)?;
        if names == expected { Ok(()) } else { bail!("{names:?} answer") }
    })
}

fn container_id(pod: &Value) -> String {
    pod["status"]["containerStatuses"][0]["containerID"].to_string()
}

#[test]
fn static_pods_run_without_a_control_plane_and_show_by_mirrors() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let manifests = |layout: &Layout| PathBuf::from(format!("{}-manifests", layout.directory.display()));
    let cluster = cluster_with("static", |layout| {
        vec![format!("--pod-manifest-path={}", manifests(layout).display())]
    })?;
    let layout = &cluster.layout;
    let dir = manifests(layout);
    let _removed = Removed(dir.clone());
    put(&dir, "web.yaml", &echo("web", ""))?;
    put(
        &dir,
        "bad.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: { name: bad }\nspec: { containers: [{}] }\n",
    )?;

    let running = |pod: &Value| condition(pod, "Ready")["status"] == "True";
    let mirror = cluster.wait_for(&["pod", "web-node-1"], running)?;
    let meta = &mirror["metadata"];
    ensure!(
        meta["ownerReferences"][0]["kind"] == "Node" && meta["ownerReferences"][0]["controller"] == true,
        "{meta}"
    );
    let hash = &meta["annotations"]["kubernetes.io/config.mirror"];
    ensure!(hash == &meta["annotations"]["kubernetes.io/config.hash"] && hash != &meta["uid"], "{meta}");
    ensure!(mirror["status"]["phase"] == "Running" && mirror["status"]["podIP"].is_string(), "{mirror}");
    // The other file is told of, and disturbs nobody.
    wait::until("the event about the bad file", PATIENCE, || {
        let events = cluster.get(&["events", "-A"])?;
        let told = items(&events).any(|event| {
            event["reason"] == "FailedStaticPod"
                && event["message"]
                    .as_str()
                    .is_some_and(|text| text.contains("bad.yaml: line 4: spec.containers[0].name"))
        });
        if told { Ok(()) } else { bail!("no such event") }
    })?;
    // What is asked of a mirror, its static pod answers.
    cluster.weir(&["logs", "web-node-1"])?;
    cluster.weir(&[
        "exec",
        "web-node-1",
        "--",
        "/echo",
        "request",
        "--target",
        "127.0.0.1:8080",
        "--count",
        "1",
    ])?;

    // Deleting the mirror ends nothing.
    cluster.weir(&["delete", "pod", "web-node-1", "--wait=false"])?;
    let again = cluster
        .wait_for(&["pod", "web-node-1"], |pod| running(pod) && pod["metadata"]["uid"] != meta["uid"])?;
    ensure!(container_id(&again) == container_id(&mirror), "the container was started anew");

    // No control plane, and an agent that starts then.
    kill_all(layout, "weir-control")?;
    kill_all(layout, "weir-agent")?;
    put(&dir, "late.yaml", &echo("late", ""))?;
    cluster::start_agent(layout, "node-1")?;
    wait_for_answers(&cluster, &["late-node-1", "web-node-1"])?;
    put(&dir, "late.yaml", &echo("later", ""))?;
    wait_for_answers(&cluster, &["later-node-1", "web-node-1"])?;
    // Half a file, or a bad one, is no reason to end what runs.
    fs::write(dir.join("late.yaml"), &echo("later", "")[..60])?;
    put(&dir, "more.yaml", &echo("more", ""))?;
    wait_for_answers(&cluster, &["later-node-1", "more-node-1", "web-node-1"])?;
    fs::remove_file(dir.join("more.yaml"))?;
    wait_for_answers(&cluster, &["later-node-1", "web-node-1"])?;
    // Its file goes while nobody looks.
    kill_all(layout, "weir-agent")?;
    fs::remove_file(dir.join("late.yaml"))?;
    cluster::start_agent(layout, "node-1")?;
    wait_for_answers(&cluster, &["web-node-1"])?;

    cluster::restart_control(layout)?;
    let back = cluster.wait_for(&["pod", "web-node-1"], running)?;
    ensure!(container_id(&back) == container_id(&mirror), "the container was started anew");
    wait::until("no mirror but one", PATIENCE, || {
        let pods = cluster.get(&["pods", "-A"])?;
        let names: Vec<&Value> = items(&pods).map(|pod| &pod["metadata"]["name"]).collect();
        if names == ["web-node-1"] { Ok(()) } else { bail!("{names:?}") }
    })?;
    fs::remove_file(dir.join("web.yaml"))?;
    wait::until("no mirror", PATIENCE, || {
        let pods = cluster.get(&["pods", "-A"])?;
        if items(&pods).next().is_none() { Ok(()) } else { bail!("{pods}") }
    })?;
    wait_for_answers(&cluster, &[])
}

/// Removes a directory when dropped.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn pods_that_do_not_fit_their_node_are_refused() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = cluster_with("refused", |_| vec!["--system-reserved=cpu=500m".to_owned()])?;
    let node = cluster.get(&["node", "node-1"])?;
    ensure!(node["status"]["capacity"]["cpu"] != node["status"]["allocatable"]["cpu"], "{node}");
    ensure!(condition(&node, "Ready")["reason"] == "KubeletReady", "{node}");
    ensure!(condition(&node, "MemoryPressure")["reason"] == "KubeletHasSufficientMemory", "{node}");
    let cases = [
        ("large", "    resources: { requests: { cpu: \"1000\" } }\n  nodeName: node-1\n", "OutOfcpu"),
        ("picky", "  nodeName: node-1\n  nodeSelector: { colour: blue }\n", "NodeAffinity"),
    ];
    for (name, more, reason) in cases {
        cluster.apply(&echo(name, more))?;
        let pod = cluster.wait_for(&["pod", name], |pod| pod["status"]["phase"] == "Failed")?;
        ensure!(pod["status"]["reason"] == reason, "{pod}");
        ensure!(
            pod["status"]["message"].as_str().is_some_and(|text| text.starts_with("Pod was rejected: ")),
            "{pod}"
        );
        wait::until("the event", PATIENCE, || {
            let events = cluster.get(&["events"])?;
            let told = items(&events)
                .any(|event| event["reason"] == reason && event["involvedObject"]["name"] == name);
            if told { Ok(()) } else { bail!("no event {reason}") }
        })?;
    }
    critical_pods_make_room(&cluster, &node)
}

/// On a node that is all but full: by the end of what matters least, and of no more than that.
fn critical_pods_make_room(cluster: &Cluster, node: &Value) -> Result<()> {
    let cpu = node["status"]["allocatable"]["cpu"].as_str().context("no cpu")?;
    let all: u32 = match cpu.strip_suffix('m') {
        Some(millis) => millis.parse()?,
        None => cpu.parse::<u32>()? * 1000,
    };
    let asking = |name: &str, cpu: u32, limits: &str, more: &str| {
        let amounts = format!("{{ cpu: {cpu}m, memory: 32Mi }}");
        let limits = limits.replace("SAME", &amounts);
        echo(name, &format!("    resources: {{ requests: {amounts}{limits} }}\n  nodeName: node-1\n{more}"))
    };
    cluster.apply(&asking("guaranteed", 100, ", limits: SAME", ""))?;
    cluster.apply(&asking("burstable", all - 200, "", ""))?;
    for name in ["guaranteed", "burstable"] {
        cluster.weir(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"])?;
    }
    let critical = "  priorityClassName: system-node-critical\n";
    cluster.apply(&asking("critical", 300, "", critical))?;
    cluster.weir(&["wait", "--for=condition=Ready", "pod/critical", "--timeout=60s"])?;
    let victim = cluster.get(&["pod", "burstable"])?;
    let status = &victim["status"];
    ensure!(status["phase"] == "Failed" && status["reason"] == "Preempting", "{status}");
    ensure!(status["message"] == "Preempted in order to admit critical pod", "{status}");
    ensure!(condition(&victim, "DisruptionTarget")["reason"] == "TerminationByKubelet", "{status}");
    let spared = cluster.get(&["pod", "guaranteed"])?;
    ensure!(spared["status"]["phase"] == "Running", "{spared}");
    // What all of them do not have is no reason to end anybody.
    cluster.apply(&asking("greedy", all, "", critical))?;
    let greedy = cluster.wait_for(&["pod", "greedy"], |pod| pod["status"]["phase"] == "Failed")?;
    ensure!(greedy["status"]["reason"] == "UnexpectedAdmissionError", "{greedy}");
    let spared = cluster.get(&["pod", "guaranteed"])?;
    ensure!(spared["status"]["phase"] == "Running", "{spared}");
    Ok(())
}

/// A pod whose shell keeps so many MiB in memory.
fn eater(name: &str, mebibytes: u32, resources: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - {{ name: busybox, hostPath: {{ path: /usr/bin/busybox, type: File }} }}
  - {{ name: memory, emptyDir: {{ medium: Memory }} }}
  containers:
  - name: main
    image: weir.dev/echo:0.1.0
    command: [/bin/busybox, sh, -c, \"/bin/busybox dd if=/dev/zero of=/memory/x bs=1M count={mebibytes}; \
         /bin/busybox sleep 100000\"]
    resources: {resources}
    volumeMounts: [{{ name: memory, mountPath: /memory }}, {{ name: busybox, mountPath: /bin/busybox, readOnly: true }}]
"
    )
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

#[test]
fn when_memory_runs_out_the_pod_furthest_above_its_request_goes_and_no_other() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = cluster_with("memory", |_| {
        vec![
            "--eviction-hard=memory.available<60Mi".to_owned(),
            "--eviction-pressure-transition-period=5s".to_owned(),
        ]
    })?;
    // The node's share of this machine, kept by a directory of its own while the node has no pod.
    let group = hierarchy("memory")?.join(cluster.layout.cgroup_of("node-1"));
    fs::create_dir_all(group.join("kept"))?;
    fs::write(group.join("memory.limit_in_bytes"), (200 << 20).to_string())?;

    cluster.apply(&eater(
        "guaranteed",
        20,
        "{ requests: { cpu: 10m, memory: 60Mi }, limits: { cpu: 10m, memory: 60Mi } }",
    ))?;
    cluster.apply(&eater("burstable", 50, "{ requests: { memory: 20Mi } }"))?;
    for name in ["guaranteed", "burstable"] {
        cluster.weir(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"])?;
    }
    cluster.apply(&eater("best-effort", 75, "{}"))?;
    let evicted = cluster.wait_for(&["pod", "best-effort"], |pod| pod["status"]["phase"] == "Failed")?;
    let status = &evicted["status"];
    ensure!(status["reason"] == "Evicted", "{status}");
    let message = status["message"].as_str().unwrap_or_default();
    ensure!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: 60Mi, available: ")
            && message.contains("Container main was using ")
            && message.contains("request is 0, has larger consumption of memory. "),
        "{message}"
    );
    ensure!(condition(&evicted, "DisruptionTarget")["reason"] == "TerminationByKubelet", "{status}");
    let pressed = |node: &Value| condition(node, "MemoryPressure")["status"] == "True";
    let relieved = |node: &Value| condition(node, "MemoryPressure")["status"] == "False";
    // It shows for a few seconds at least; who asks later finds the transition.
    let node = cluster.wait_for(&["node", "node-1"], |node| {
        pressed(node)
            || condition(node, "MemoryPressure")["lastTransitionTime"]
                != condition(node, "DiskPressure")["lastTransitionTime"]
    })?;
    ensure!(condition(&node, "DiskPressure")["status"] == "False", "{node}");
    cluster.wait_for(&["node", "node-1"], relieved)?;
    for name in ["guaranteed", "burstable"] {
        let pod = cluster.get(&["pod", name])?;
        ensure!(
            pod["status"]["phase"] == "Running" && pod["status"]["containerStatuses"][0]["restartCount"] == 0,
            "{pod}"
        );
    }
    Ok(())
}

#[test]
fn when_the_disk_fills_up_the_pod_that_fills_it_goes() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let mut cluster = cluster_with("disk", |_| Vec::new())?;
    // A small disk under the node's state, from the beginning.
    kill_all(&cluster.layout, "weir-agent")?;
    let state = cluster.layout.node_directory("node-1");
    mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=100m"))?;
    cluster.layout.agent_flags =
        ["--eviction-hard=nodefs.available<30%", "--eviction-pressure-transition-period=5s"]
            .map(str::to_owned)
            .into();
    cluster::restart_agent(&cluster.layout, "node-1")?;

    cluster.apply(&echo("small", ""))?;
    cluster.weir(&["wait", "--for=condition=Ready", "pod/small", "--timeout=60s"])?;
    let filler = eater("large", 70, "{}").replace("{ medium: Memory }", "{}");
    cluster.apply(&filler)?;
    let evicted = cluster.wait_for(&["pod", "large"], |pod| pod["status"]["phase"] == "Failed")?;
    let status = &evicted["status"];
    ensure!(status["reason"] == "Evicted", "{status}");
    let message = status["message"].as_str().unwrap_or_default();
    ensure!(
        message.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: "),
        "{message}"
    );
    let small = cluster.get(&["pod", "small"])?;
    ensure!(small["status"]["phase"] == "Running", "{small}");
    Ok(())
}

#[test]
fn a_node_that_shuts_down_ends_its_pods_the_critical_ones_last() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = cluster_with("shutdown", |_| {
        vec!["--shutdown-grace-period=20s".to_owned(), "--shutdown-grace-period-critical-pods=10s".to_owned()]
    })?;
    // Each takes two seconds to end, and says so with its exit code.
    let slow = |name: &str, more: &str| {
        eater(name, 1, "{}")
            .replace(
                "/bin/busybox sleep 100000",
                "trap '/bin/busybox sleep 2; exit 0' TERM; while :; do /bin/busybox sleep 1; done",
            )
            .replace(
                "  terminationGracePeriodSeconds: 0\n",
                &format!("  terminationGracePeriodSeconds: 30\n{more}"),
            )
    };
    cluster.apply(&slow("ordinary", ""))?;
    cluster.apply(&slow("critical", "  priorityClassName: system-node-critical\n"))?;
    for name in ["ordinary", "critical"] {
        cluster.weir(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"])?;
    }
    for pid in processes_of(&cluster.layout, "weir-agent")? {
        kill(Pid::from_raw(pid), Signal::SIGPWR)?;
    }
    let node = cluster.wait_for(&["node", "node-1"], |node| condition(node, "Ready")["status"] == "False")?;
    ensure!(condition(&node, "Ready")["message"] == "node is shutting down", "{node}");
    gone(&cluster.layout, "weir-agent")?;
    let mut finished = Vec::new();
    for name in ["ordinary", "critical"] {
        let pod = cluster.get(&["pod", name])?;
        let status = &pod["status"];
        ensure!(status["phase"] == "Failed" && status["reason"] == "Terminated", "{status}");
        ensure!(status["message"] == "Pod was terminated in response to imminent node shutdown.", "{status}");
        let ended = &status["containerStatuses"][0]["state"]["terminated"];
        ensure!(ended["exitCode"] == 0, "{name} was killed: {status}");
        finished.push(ended["finishedAt"].to_string());
    }
    ensure!(finished[0] < finished[1], "ordinary at {}, critical at {}", finished[0], finished[1]);
    Ok(())
}
