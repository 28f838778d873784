//! A node's own loops: pods from files without a control plane, what is let in, and the node's shutdown.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use weir_tests::cluster::{Cluster, PATIENCE, condition, items};
use weir_tests::forward::Forward;
use weir_tests::{images, require, wait};
use xtask::cluster::{self, Layout};

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
    let cluster = Cluster::with_flags("static", |layout| {
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
    its_static_pod_answers(&cluster)?;

    // Deleting the mirror ends nothing.
    cluster.weir(&["delete", "pod", "web-node-1", "--wait=false"])?;
    let again = cluster
        .wait_for(&["pod", "web-node-1"], |pod| running(pod) && pod["metadata"]["uid"] != meta["uid"])?;
    ensure!(container_id(&again) == container_id(&mirror), "the container was started anew");

    // No control plane, and an agent that starts then.
    cluster.kill("weir-control")?;
    cluster.kill("weir-agent")?;
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
    cluster.kill("weir-agent")?;
    fs::remove_file(dir.join("late.yaml"))?;
    cluster::start_agent(layout, "node-1")?;
    wait_for_answers(&cluster, &["web-node-1"])?;

    cluster::restart_control(layout)?;
    let back = cluster.wait_for(&["pod", "web-node-1"], running)?;
    ensure!(container_id(&back) == container_id(&mirror), "the container was started anew");
    its_static_pod_answers(&cluster)?;
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

/// What is asked of the mirror, its static pod answers: logs, commands, a terminal's input, and forwarded ports; and so to
/// kubectl.
fn its_static_pod_answers(cluster: &Cluster) -> Result<()> {
    const MIRROR: &str = "web-node-1";
    let kubectl = |arguments: &[&str]| {
        let mut command = Command::new("kubectl");
        xtask::shell::output(command.arg("--kubeconfig").arg(cluster.layout.kubeconfig()).args(arguments))
    };
    // An agent that has just found its control plane has yet to hear of the mirror.
    wait::until("the mirror's log", PATIENCE, || cluster.weir(&["logs", MIRROR]))?;
    let asks = ["exec", MIRROR, "--", "/echo", "request", "--target", "127.0.0.1:8080", "--count", "1"];
    for by in [&(|words: &[&str]| cluster.weir(words)) as &dyn Fn(&[&str]) -> Result<String>, &kubectl] {
        let log = by(&["logs", MIRROR])?;
        ensure!(log.starts_with("serving web-node-1 - on 8080/tcp"), "{log}");
        ensure!(by(&asks)?.contains("\"failed\":0"));
    }
    let code = cluster.weir_fed(&["exec", "-i", MIRROR, "--", "/echo", "exit", "7"], "")?.status.code();
    ensure!(code == Some(7), "{code:?}");
    // As somebody who reads on is shown what comes.
    let mut follow = cluster::weir(&cluster.layout, &["logs", "-f", MIRROR]);
    let mut follow = follow.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let line = BufReader::new(follow.stdout.take().context("no stdout")?).lines().next();
    follow.kill()?;
    follow.wait()?;
    ensure!(line.context("no line")??.starts_with("serving web-node-1"));
    let forward = Forward::start(cluster, MIRROR, ":8080")?;
    let answer = forward.request()?;
    ensure!(answer.contains("web-node-1"), "{answer}");
    let refused = Forward::start(cluster, MIRROR, ":9")?;
    ensure!(refused.request().unwrap_or_default().is_empty());
    let refused = refused.complaint()?;
    ensure!(refused.contains("refused"), "{refused}");
    Ok(())
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
    let cluster = Cluster::with_flags("refused", |_| vec!["--system-reserved=cpu=500m".to_owned()])?;
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

#[test]
fn a_node_that_shuts_down_ends_its_pods_the_critical_ones_last() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::with_flags("shutdown", |_| {
        vec!["--shutdown-grace-period=20s".to_owned(), "--shutdown-grace-period-critical-pods=10s".to_owned()]
    })?;
    images::add_busybox(&cluster)?;
    // Each takes two seconds to end, and says so with its exit code.
    let slow = |name: &str, more: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 30, {more} \
             containers: [{{name: main, image: 'weir.test/busybox:1', command: [sh, -c, \
             \"trap 'sleep 2; exit 0' TERM; while :; do sleep 0.2; done\"]}}]}}}}"
        )
    };
    cluster.apply(&slow("ordinary", ""))?;
    cluster.apply(&slow("critical", "priorityClassName: system-node-critical,"))?;
    for name in ["ordinary", "critical"] {
        cluster.weir(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"])?;
    }
    kill(cluster.agent_of("node-1")?, Signal::SIGPWR)?;
    let node = cluster.wait_for(&["node", "node-1"], |node| condition(node, "Ready")["status"] == "False")?;
    ensure!(condition(&node, "Ready")["message"] == "node is shutting down", "{node}");
    cluster.wait_for_end_of("weir-agent")?;
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
