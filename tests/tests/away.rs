//! The control plane is away: pods, their connections and the agents' own duties go on.

#![expect(clippy::print_stdout, reason = "counts and times are what these tests are read for")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use weir_tests::cluster::{Cluster, PATIENCE, Stopped, Tally, condition, items, readiness};
use weir_tests::connection::Connection;
use weir_tests::load::{Load, Rate};
use weir_tests::{images, require, wait};
use xtask::cluster::{self, Store};

/// How long it hears and says nothing.
const MUTE: Duration = Duration::from_secs(25);
/// How long it is dead: Leases have ended long before.
const DEAD: Duration = Duration::from_secs(120);

fn example() -> Result<String> {
    let path = xtask::shell::workspace().join("examples/echo.yaml");
    Ok(path.to_str().context("the workspace's path is not UTF-8")?.to_owned())
}

/// The containers' first processes of a pod: of its processes the one with the server's command line.
fn server_of(cluster: &Cluster, uid: &str) -> Result<i32> {
    for pid in cluster.processes_of_pod(uid)? {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if command.starts_with(b"/echo\0") {
            return Ok(pid);
        }
    }
    bail!("no server runs in pod {uid}")
}

/// Kills a pod's container, and waits until another runs in its place.
fn crash(cluster: &Cluster, uid: &str) -> Result<Duration> {
    let first = server_of(cluster, uid)?;
    kill(Pid::from_raw(first), Signal::SIGKILL)?;
    let began = Instant::now();
    wait::until("another run of the container", PATIENCE, || {
        ensure!(server_of(cluster, uid)? != first, "it is the same");
        Ok(())
    })?;
    Ok(began.elapsed())
}

/// A cluster of two nodes that serves the example.
struct Scene {
    cluster: Cluster,
    cluster_ip: String,
    node_port: String,
}

impl Scene {
    fn up(name: &str) -> Result<Self> {
        let cluster = Cluster::up(name, 2, Store::Embedded)?;
        images::add_busybox(&cluster)?;
        cluster.weir(&["apply", "-f", &example()?])?;
        cluster.wait_for_rollout("echo")?;
        let service = cluster.get(&["service", "echo"])?;
        let cluster_ip = format!("{}:80", service["spec"]["clusterIP"].as_str().context("no clusterIP")?);
        let node_port = format!("{}:30080", cluster.layout.address_of("node-1"));
        Ok(Self { cluster, cluster_ip, node_port })
    }

    fn control(&self) -> Result<Pid> {
        let [control] = self.cluster.processes(&["weir-control"])?[..] else {
            bail!("want one control plane")
        };
        Ok(Pid::from_raw(control))
    }

    /// New connections all the time, from a node and from outside.
    fn loads(&self) -> Result<[Load; 2]> {
        let rate = Rate { per_second: 40, at_least: 100 };
        Ok([
            Load::from_machine(&self.cluster, "node-2", &self.cluster_ip, rate)?,
            Load::from_machine(&self.cluster, "client", &self.node_port, rate)?,
        ])
    }

    /// Connections that are to stay.
    fn held(&self) -> Result<Held> {
        let namespace = self.cluster.layout.namespace_of("node-2");
        let connections = [
            Connection::from_client(&self.cluster, &self.node_port)?,
            Connection::from(&namespace, &self.node_port)?,
        ];
        let with_peer = |mut connection: Connection| Ok((connection.ask()?, connection));
        Ok(Held(connections.into_iter().map(with_peer).collect::<Result<_>>()?))
    }
}

/// Open connections, and who answered on each.
struct Held(Vec<(String, Connection)>);

impl Held {
    /// Data goes both ways, to the same pod as ever.
    fn ask(&mut self) -> Result<()> {
        for (who, connection) in &mut self.0 {
            let answer = connection.ask()?;
            ensure!(answer == *who, "{answer} answers on the connection to {who}");
        }
        Ok(())
    }

    /// Every second: the server closes what is idle for long.
    fn ask_until(&mut self, end: Instant) -> Result<()> {
        while Instant::now() < end {
            self.ask()?;
            std::thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    }
}

/// Nobody of all who came was turned away.
fn served(what: &str, loads: [Load; 2]) -> Result<()> {
    for load in loads {
        let (path, tally) = load.finish()?;
        println!("{what}: {path}: {} answered, {} failed", tally.answered(), tally.failed);
        ensure!(tally.failed == 0 && tally.answers.len() >= 4, "{what}: {path}: {tally:?}");
    }
    Ok(())
}

#[test]
fn a_mute_control_plane_and_a_silent_node_cost_no_connection_and_no_container() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let scene = Scene::up("away")?;
    let cluster = &scene.cluster;
    let mut held = scene.held()?;
    let pods = cluster.get(&["pods", "-l", "app=echo"])?;
    // One that no open connection leads to.
    let word = |pod: &Value, field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
    let free = |pod: &&Value| held.0.iter().all(|(who, _)| !who.starts_with(&word(pod, "name")));
    let pod = items(&pods).find(free).context("too few pods")?;
    let (name, uid) = (word(pod, "name"), word(pod, "uid"));

    let stopped = Stopped::stop(scene.control()?)?;
    println!("mute: {name} ran again after {:.1?}", crash(cluster, &uid)?);
    settle(cluster, &scene.cluster_ip)?;
    let loads = scene.loads()?;
    held.ask_until(Instant::now() + MUTE)?;
    served("mute", loads)?;
    drop(stopped);
    held.ask()?;
    restarted(cluster, &name, 1)?;

    // A node that is not heard of is avoided; one that is back within the tolerance of its pods is as it was.
    let (_, before) = lasting(cluster)?;
    let loads = scene.loads()?;
    let stopped = Stopped::stop(cluster.agent_of("node-2")?)?;
    let since = Instant::now();
    cluster.wait_for(&["node", "node-2"], |node| {
        let taints = node["spec"]["taints"].to_string();
        condition(node, "Ready")["status"] == "Unknown" && taints.contains("node.kubernetes.io/unreachable")
    })?;
    println!("silent: unreachable after {:.1?}", since.elapsed());
    held.ask()?;
    drop(stopped);
    cluster.wait_for(&["node", "node-2"], |node| {
        condition(node, "Ready")["status"] == "True" && node["spec"]["taints"].is_null()
    })?;
    // And everything goes on as before.
    cluster.weir(&["scale", "deployment", "echo", "--replicas", "6"])?;
    cluster.wait_for_rollout("echo")?;
    held.ask()?;
    served("silent", loads)?;
    untouched(&before, &lasting(cluster)?.1)
}

/// Waits until the new run listens too.
fn settle(cluster: &Cluster, target: &str) -> Result<()> {
    wait::until("four that answer", PATIENCE, || {
        let tally = cluster.request_from("node-1", target, &["--count", "60"])?;
        ensure!(tally.failed == 0 && tally.answers.len() == 4, "{tally:?}");
        Ok(())
    })
}

fn restarted(cluster: &Cluster, pod: &str, times: u32) -> Result<()> {
    cluster.wait_for(&["pod", pod], |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        status["restartCount"] == times && status["ready"] == true
    })?;
    Ok(())
}

/// Pods that need their node while nobody else is there: one crashes, one is found ill, one talks, one asks by name, and one
/// ends. What they share with the test is the directory `out`.
fn lone_pods(out: &Path, cluster_ip: &str) -> String {
    let busybox = |name: &str, script: &str, more: &str| {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
  terminationGracePeriodSeconds: 1
  nodeName: node-1
  volumes: [{{ name: out, hostPath: {{ path: '{out}', type: Directory }} }}]
  containers:
  - name: main
    image: weir.test/busybox:1
    command: [sh, -c, '{script}']
    volumeMounts: [{{ name: out, mountPath: /out }}]
{more}",
            out = out.display()
        )
    };
    let probe = "    livenessProbe:
      exec: { command: [test, -e, /out/well] }
      periodSeconds: 1
      failureThreshold: 2
      timeoutSeconds: 10
";
    let asks = "while :; do wget -q -O /dev/null http://echo/ && echo ok >> /out/asked || echo failed >> /out/asked; \
                sleep 0.2; done";
    let echo = |name: &str, arguments: &str| {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
  nodeName: node-2
  restartPolicy: {}
  containers: [{{ name: main, image: weir.dev/echo:0.1.0, args: [{arguments}] }}]
",
            if name == "ends" { "Never" } else { "Always" }
        )
    };
    [
        busybox("ill", "touch /out/well; while :; do sleep 1; done", probe),
        busybox("talks", "n=0; while :; do n=$((n+1)); echo line $n; sleep 1; done", ""),
        busybox("asks", asks, ""),
        echo("crashes", "serve"),
        echo("ends", &format!("request, --target, '{cluster_ip}', --rate, '20', --count, '1600'")),
    ]
    .concat()
}

/// Since when each node is Ready, and what each container of the Deployment is.
fn lasting(cluster: &Cluster) -> Result<(Vec<String>, BTreeMap<String, String>)> {
    let nodes = cluster.get(&["nodes"])?;
    let ready = items(&nodes)
        .map(|node| format!("{} {} {}", node["metadata"]["name"], readiness(node), node["spec"]["taints"]));
    let pods = cluster.get(&["pods", "-l", "app=echo"])?;
    let container = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        (pod["metadata"]["name"].to_string(), format!("{} {}", status["containerID"], status["restartCount"]))
    };
    Ok((ready.collect(), items(&pods).map(container).collect()))
}

#[test]
fn two_minutes_without_a_control_plane_are_nothing_to_a_node() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let scene = Scene::up("alone")?;
    let cluster = &scene.cluster;
    let out = cluster.layout.directory.join("out");
    fs::create_dir(&out)?;
    cluster.apply(&lone_pods(&out, &scene.cluster_ip))?;
    for pod in ["ill", "talks", "asks", "crashes", "ends"] {
        cluster.weir(&["wait", "--for=condition=Ready", "--timeout=60s", &format!("pod/{pod}")])?;
    }
    let crashes = cluster.get(&["pod", "crashes"])?["metadata"]["uid"].as_str().context("no uid")?.to_owned();
    let (nodes, containers) = lasting(cluster)?;
    let (mut held, loads) = (scene.held()?, scene.loads()?);

    cluster.kill_one(scene.control()?)?;
    let returns = Instant::now() + DEAD;
    let asked = || Ok::<_, anyhow::Error>(fs::read_to_string(out.join("asked"))?.lines().count());
    let asked_before = asked()?;
    // The first time it runs again at once, the second time after ten seconds.
    for time in ["first", "second"] {
        println!("{time} crash: runs again after {:.1?}", crash(cluster, &crashes)?);
    }
    fs::remove_file(out.join("well"))?;
    wait::until("another run of what was ill", PATIENCE, || Ok(fs::metadata(out.join("well"))?))?;
    held.ask_until(returns)?;
    let asked_alone = asked()? - asked_before;

    let since = Instant::now();
    cluster::restart_control(&cluster.layout)?;
    cluster.weir(&["scale", "deployment", "echo", "--replicas", "6"])?;
    cluster.wait_for_rollout("echo")?;
    restarted(cluster, "crashes", 2)?;
    restarted(cluster, "ill", 1)?;
    cluster.wait_for(&["pod", "ends"], |pod| pod["status"]["phase"] == "Succeeded")?;
    println!("everything is told after {:.1?}", since.elapsed());
    held.ask()?;
    served("dead", loads)?;
    let tally = Tally::parse(&cluster.weir(&["logs", "ends"])?)?;
    ensure!(tally.failed == 0 && tally.answered() == 1600, "{tally:?}");

    // By name, all the time.
    let said = fs::read_to_string(out.join("asked"))?;
    println!("by name: {} asked, {asked_alone} of them alone", said.lines().count());
    ensure!(asked_alone > 100 && said.lines().all(|line| line == "ok"), "{said}");
    // Not a line is missing.
    let lines = cluster.weir(&["logs", "talks"])?;
    ensure!(lines.lines().count() > 100, "{lines}");
    ensure!(lines.lines().eq((1..=lines.lines().count()).map(|number| format!("line {number}"))), "{lines}");
    // Nobody took the silence for a death.
    let after = lasting(cluster)?;
    ensure!(after.0 == nodes, "{nodes:?} became {:?}", after.0);
    untouched(&containers, &after.1)
}

/// What ran before runs now, as the same container.
fn untouched(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Result<()> {
    for (pod, container) in before {
        ensure!(after.get(pod) == Some(container), "{pod} was {container}, is {:?}", after.get(pod));
    }
    Ok(())
}

#[test]
fn an_agent_turns_to_another_server_when_its_own_dies() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("turn", 1, Store::Etcd)?;
    cluster.weir(&["apply", "-f", &example()?])?;
    cluster.wait_for_rollout("echo")?;
    let second = cluster::start_second_control(&cluster.layout)?;
    cluster.kill_one(cluster.agent_of("node-1")?)?;
    let program = xtask::build::binaries().join("weir-agent");
    cluster::restart_agent_as(&cluster.layout, "node-1", &program, &["--server", &second])?;
    let kubeconfig = cluster.layout.directory.join("control-2/kubeconfig");
    let ask = |arguments: &[&str]| -> Result<Value> {
        let mut weir: Command = cluster.command_in("hub", &xtask::build::binaries().join("weir"))?;
        weir.arg("--kubeconfig").arg(&kubeconfig).args(arguments).args(["-o", "json"]);
        Ok(serde_json::from_str(&xtask::shell::output(&mut weir)?)?)
    };
    let renewed = || -> Result<String> {
        let lease = ask(&["get", "lease", "node-1", "-n", "kube-node-lease"])?;
        Ok(lease["spec"]["renewTime"].as_str().context("never renewed")?.to_owned())
    };
    let first = first_control(&cluster)?;
    cluster.kill_one(first)?;
    let before = renewed()?;
    wait::until("a renewed lease", PATIENCE, || {
        ensure!(renewed()? > before, "still {before}");
        Ok(())
    })?;
    // Status of pods and the dataplane's acknowledgements come by the other one as well.
    let mut scale = cluster.command_in("hub", &xtask::build::binaries().join("weir"))?;
    scale.arg("--kubeconfig").arg(&kubeconfig).args(["scale", "deployment", "echo", "--replicas", "6"]);
    xtask::shell::output(&mut scale)?;
    wait::until("six ready pods and their acknowledgement", PATIENCE, || {
        let deployment = ask(&["get", "deployment", "echo"])?;
        ensure!(deployment["status"]["readyReplicas"] == 6, "{}", deployment["status"]);
        let slices = ask(&["get", "endpointslices", "-l", "kubernetes.io/service-name=echo"])?;
        let newest = items(&slices)
            .filter_map(|slice| slice["metadata"]["resourceVersion"].as_str()?.parse::<i64>().ok())
            .max();
        let node = ask(&["get", "dataplanenode", "node-1"])?;
        ensure!(node["status"]["revision"].as_i64() >= newest, "{node}");
        Ok(())
    })?;
    let node = ask(&["get", "node", "node-1"])?;
    ensure!(condition(&node, "Ready")["status"] == "True", "{node}");
    Ok(())
}

/// The instance that `up` started, by its data directory.
fn first_control(cluster: &Cluster) -> Result<Pid> {
    let own = cluster.layout.control_directory();
    let is_first = |pid: &i32| {
        let command =
            fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
        command.split('\0').any(|word| Path::new(word) == own)
    };
    let all = cluster.processes(&["weir-control"])?;
    let first = all.iter().copied().find(is_first).context("the first control plane does not run")?;
    Ok(Pid::from_raw(first))
}
