//! The control plane is away: pods, their connections and the agents' own duties go on.

#![expect(clippy::print_stdout, reason = "counts and times are what these tests are read for")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use weir_tests::cluster::{Cluster, PATIENCE, items};
use weir_tests::connection::Connection;
use weir_tests::load::{Load, Rate};
use weir_tests::{require, wait};
use xtask::cluster::{self, Store};

/// How long it is dead; and how long it hears and says nothing, which is worse.
const DEAD: Duration = Duration::from_secs(20);
const MUTE: Duration = Duration::from_secs(25);

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
    restarted_once(&cluster, first)?;

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
    restarted_once(&cluster, second)?;
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

fn restarted_once(cluster: &Cluster, pod: &str) -> Result<()> {
    cluster.wait_for(&["pod", pod], |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        status["restartCount"] == 1 && status["ready"] == true
    })?;
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
    let ready =
        node["status"]["conditions"].as_array().into_iter().flatten().find(|one| one["type"] == "Ready");
    ensure!(ready.is_some_and(|ready| ready["status"] == "True"), "{node}");
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
