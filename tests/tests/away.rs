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
use weir_tests::cluster::{Cluster, PATIENCE, Tally, condition, items, readiness};
use weir_tests::connection::Connection;
use weir_tests::load::{Load, Rate};
use weir_tests::{images, require, wait};
use xtask::cluster::{self, Store};

/// How long it is dead; and how long it hears and says nothing, which is worse.
const DEAD: Duration = Duration::from_secs(20);
const MUTE: Duration = Duration::from_secs(25);
/// How long it is away when a node's whole life is looked at: Leases have ended long before, and most back-offs.
const AWAY: Duration = Duration::from_secs(120);

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

#[test]
fn without_a_control_plane_connections_go_on_and_what_crashes_runs_again() -> Result<()> {
    if !require::cluster() {
        return Ok(());
    }
    let cluster = Cluster::up("away", 2, Store::Embedded)?;
    cluster.weir(&["apply", "-f", &example()?])?;
    cluster.wait_for_rollout("echo")?;
    let service = cluster.get(&["service", "echo"])?;
    let cluster_ip = format!("{}:80", service["spec"]["clusterIP"].as_str().context("no clusterIP")?);
    let node_port = format!("{}:30080", cluster.layout.address_of("node-1"));
    let pods = cluster.get(&["pods", "-l", "app=echo"])?;
    let mut by_name: Vec<(String, String)> = items(&pods)
        .map(|pod| {
            let word = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
            (word("name"), word("uid"))
        })
        .collect();
    let mut connection = Connection::from_client(&cluster, &node_port)?;
    let who = connection.ask()?;
    // The one that the open connection leads to is left alone.
    by_name.retain(|(name, _)| !who.starts_with(name.as_str()));
    let [(first, first_uid), (second, second_uid), ..] = &by_name[..] else { bail!("too few pods") };

    let [control] = cluster.processes(&["weir-control"])?[..] else { bail!("want one control plane") };
    cluster.kill_one(Pid::from_raw(control))?;
    let rate = Rate { per_second: 40, at_least: 100 };
    let loads = |what: &str, time: Duration, connection: &mut Connection| -> Result<()> {
        let loads = [
            Load::from_machine(&cluster, "node-2", &cluster_ip, rate)?,
            Load::from_machine(&cluster, "client", &node_port, rate)?,
        ];
        // The server closes what is idle for long.
        let end = Instant::now() + time;
        while Instant::now() < end {
            ensure!(connection.ask()? == who, "another pod answered on the same connection");
            std::thread::sleep(Duration::from_secs(1));
        }
        for load in loads {
            let (path, tally) = load.finish()?;
            println!("{what}: {path}: {} answered, {} failed", tally.answered(), tally.failed);
            ensure!(tally.failed == 0 && tally.answers.len() == 4, "{what}: {path}: {tally:?}");
        }
        Ok(())
    };
    println!("dead: {first} ran again after {:.1?}", crash(&cluster, first_uid)?);
    settle(&cluster, &cluster_ip)?;
    loads("dead", DEAD, &mut connection)?;
    cluster::restart_control(&cluster.layout)?;
    restarted(&cluster, first, 1)?;

    let [control] = cluster.processes(&["weir-control"])?[..] else { bail!("want one control plane") };
    let control = Pid::from_raw(control);
    kill(control, Signal::SIGSTOP)?;
    let outcome = (|| {
        println!("mute: {second} ran again after {:.1?}", crash(&cluster, second_uid)?);
        settle(&cluster, &cluster_ip)?;
        loads("mute", MUTE, &mut connection)
    })();
    kill(control, Signal::SIGCONT)?;
    outcome?;
    ensure!(connection.ask()? == who);
    restarted(&cluster, second, 1)?;
    // And everything goes on as before.
    cluster.weir(&["scale", "deployment", "echo", "--replicas", "6"])?;
    cluster.wait_for_rollout("echo")?;
    ensure!(connection.ask()? == who);
    Ok(())
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
    let cluster = Cluster::up("alone", 2, Store::Embedded)?;
    images::add_busybox(&cluster)?;
    cluster.weir(&["apply", "-f", &example()?])?;
    cluster.wait_for_rollout("echo")?;
    let service = cluster.get(&["service", "echo"])?;
    let cluster_ip = format!("{}:80", service["spec"]["clusterIP"].as_str().context("no clusterIP")?);
    let node_port = format!("{}:30080", cluster.layout.address_of("node-1"));
    let out = cluster.layout.directory.join("out");
    fs::create_dir(&out)?;
    cluster.apply(&lone_pods(&out, &cluster_ip))?;
    let all = ["ill", "talks", "asks", "crashes", "ends"].map(|name| format!("pod/{name}"));
    let wait = [&["wait", "--for=condition=Ready", "--timeout=60s"], &all.each_ref().map(String::as_str)[..]];
    cluster.weir(&wait.concat())?;
    let crashes = cluster.get(&["pod", "crashes"])?["metadata"]["uid"].as_str().context("no uid")?.to_owned();
    let before = lasting(&cluster)?;
    let mut connections = [
        Connection::from_client(&cluster, &node_port)?,
        Connection::from(&cluster.layout.namespace_of("node-2"), &node_port)?,
    ];
    let who = connections.each_mut().map(Connection::ask);
    let rate = Rate { per_second: 40, at_least: 100 };
    let loads = [
        Load::from_machine(&cluster, "node-2", &cluster_ip, rate)?,
        Load::from_machine(&cluster, "client", &node_port, rate)?,
    ];

    let [control] = cluster.processes(&["weir-control"])?[..] else { bail!("want one control plane") };
    cluster.kill_one(Pid::from_raw(control))?;
    let returns = Instant::now() + AWAY;
    let asked = || Ok::<_, anyhow::Error>(fs::read_to_string(out.join("asked"))?.lines().count());
    let asked_before = asked()?;
    // The first time it runs again at once, the second time after ten seconds.
    for time in ["first", "second"] {
        println!("{time} crash: runs again after {:.1?}", crash(&cluster, &crashes)?);
    }
    fs::remove_file(out.join("well"))?;
    wait::until("another run of what was ill", PATIENCE, || Ok(fs::metadata(out.join("well"))?))?;
    while Instant::now() < returns {
        for (connection, who) in connections.iter_mut().zip(&who) {
            let answer = connection.ask()?;
            ensure!(who.as_ref().is_ok_and(|who| *who == answer), "{answer} answers, {who:?} did");
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    let asked_alone = asked()? - asked_before;

    let since = Instant::now();
    cluster::restart_control(&cluster.layout)?;
    cluster.weir(&["scale", "deployment", "echo", "--replicas", "6"])?;
    cluster.wait_for_rollout("echo")?;
    restarted(&cluster, "crashes", 2)?;
    restarted(&cluster, "ill", 1)?;
    cluster.wait_for(&["pod", "ends"], |pod| pod["status"]["phase"] == "Succeeded")?;
    println!("everything is told after {:.1?}", since.elapsed());
    for (connection, who) in connections.iter_mut().zip(&who) {
        ensure!(
            who.as_ref().is_ok_and(|who| connection.ask().is_ok_and(|now| *who == now)),
            "{who:?} is gone"
        );
    }
    for load in loads {
        let (path, tally) = load.finish()?;
        println!("{path}: {} answered, {} failed", tally.answered(), tally.failed);
        ensure!(tally.failed == 0, "{path}: {tally:?}");
    }
    let tally = Tally::parse(&cluster.weir(&["logs", "ends"])?)?;
    ensure!(tally.failed == 0 && tally.answered() == 1600, "{tally:?}");

    // By name, all the time.
    let said = fs::read_to_string(out.join("asked"))?;
    println!("by name: {} asked, {asked_alone} of them alone", said.lines().count());
    ensure!(asked_alone > 100 && said.lines().all(|line| line == "ok"), "{said}");
    // Not a line is missing.
    let lines = cluster.weir(&["logs", "talks"])?;
    ensure!(lines.lines().count() > 100, "{lines}");
    for (number, line) in lines.lines().enumerate() {
        ensure!(line == format!("line {}", number + 1), "line {}: {line}", number + 1);
    }
    // Nobody took the silence for a death.
    let after = lasting(&cluster)?;
    ensure!(after.0 == before.0, "{:?} became {:?}", before.0, after.0);
    for (pod, container) in &before.1 {
        ensure!(after.1.get(pod) == Some(container), "{pod} was {container}, is {:?}", after.1.get(pod));
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
