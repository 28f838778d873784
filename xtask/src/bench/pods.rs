//! `cargo xtask bench pods`: what one node does in a second, and what it needs at rest, with everything that is between a
//! user and a container's process: API server, scheduler, agent, network, runtime.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::table::{Bar, Row, Table, median};
use super::{interrupt, load, measure};
use crate::cluster::{self, Layout, Store};
use crate::shell::{find, workspace};
use crate::{build, doctor};

/// All names on the machine begin with it.
const NAME: &str = "weir-bench";
const NODE: &str = "node-1";

#[derive(Debug, Args)]
pub struct Options {
    /// Pods started one after another, and rounds of the runtime alone
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    single: u32,
    /// Pods started at once
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=110))]
    burst: u32,
    /// How often they are
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Pods at rest
    #[arg(long, default_value_t = 110, value_parser = clap::value_parser!(u32).range(1..=110))]
    resting: u32,
    /// Seconds over which CPU at rest is measured
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Commands executed in a pod
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    execs: u32,
    /// Write everything that was measured, each round of it, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure the binaries as they are, without building them first
    #[arg(long)]
    no_build: bool,
}

/// As `weir-bench pods start` prints it: milliseconds.
#[derive(Debug, Serialize, Deserialize)]
struct Start {
    running: Vec<f64>,
    ready: Vec<f64>,
    gone: Vec<f64>,
}

/// As `weir-bench pods burst` prints it.
#[derive(Debug, Serialize, Deserialize)]
struct Burst {
    pods: u32,
    running_seconds: f64,
    ready_seconds: f64,
    gone_seconds: f64,
    agent_cpu_seconds: f64,
    control_cpu_seconds: f64,
}

/// As `weir-bench pods exec` prints it.
#[derive(Debug, Serialize, Deserialize)]
struct Exec {
    milliseconds: Vec<f64>,
}

/// As `weir-bench pods rest` prints it: CPU as shares of one core.
#[derive(Debug, Serialize, Deserialize)]
struct Rest {
    pods: u32,
    probes: bool,
    agent_before: Mapped,
    agent: Mapped,
    agent_after: Mapped,
    shims: Vec<Mapped>,
    agent_cpu: f64,
    shims_cpu: f64,
    control_cpu: f64,
}

/// Bytes of a process's memory.
#[derive(Debug, Serialize, Deserialize)]
struct Mapped {
    resident: u64,
    proportional: u64,
    private: u64,
    private_dirty: u64,
}

/// As `weir-bench runtime` prints it.
#[derive(Debug, Serialize, Deserialize)]
struct Runtimes {
    weir: Vec<Round>,
    runc: Vec<Round>,
}

/// Milliseconds.
#[derive(Debug, Serialize, Deserialize)]
struct Round {
    create_and_start: f64,
    exec: f64,
    delete: f64,
}

#[derive(Debug, Serialize)]
struct Measured {
    cpus: usize,
    rest: Rest,
    rest_with_probes: Rest,
    start: Start,
    bursts: Vec<Burst>,
    exec: Exec,
    runtimes: Runtimes,
}

pub(super) fn run(options: &Options) -> Result<()> {
    doctor::ensure(doctor::Purpose::Bench)?;
    if !options.no_build {
        build::all()?;
        build::bench()?;
    }
    interrupt::defer()?;
    let measured = measure_all(options)?;
    println!();
    print!("{}", table(options, &measured));
    println!(
        "resident: all of a process's pages, those shared with others included; private: those nobody else has"
    );
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&measured)?;
        fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// A cluster of one node; dropping it takes it down.
struct Cluster {
    layout: Layout,
    agent: u32,
    control: u32,
}

impl Cluster {
    fn up() -> Result<Self> {
        // On the disk that the workspace is on, where a temporary directory may be memory.
        let directory = workspace().join("target/bench").join(NAME);
        let layout = Layout { directory, ..Layout::for_test(NAME, 1, Store::Embedded)? };
        // What a killed one left.
        cluster::remove(&layout)?;
        let mut cluster = Self { layout, agent: 0, control: 0 };
        cluster::up(&cluster.layout)?;
        cluster.agent = cluster::process(&cluster.layout, NODE, "weir-agent")?;
        cluster.control = cluster::process(&cluster.layout, "hub", "weir-control")?;
        Ok(cluster)
    }

    fn pods(&self, what: &str) -> Command {
        let mut command = load("pods");
        command.arg("--kubeconfig").arg(self.layout.kubeconfig()).arg(what);
        command
    }

    fn measured_from_outside(&self, command: &mut Command) {
        command.args(["--agent", &self.agent.to_string(), "--control", &self.control.to_string()]);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = cluster::remove(&self.layout) {
            eprintln!("the bench's cluster was not removed: {error:#}");
        }
    }
}

fn measure_all(options: &Options) -> Result<Measured> {
    let cluster = Cluster::up()?;
    // At rest first: an agent that has not done anything yet.
    let rest = rest(&cluster, options, false)?;
    let start = start(&cluster, options)?;
    println!("==> {} pods at once", options.burst);
    let bursts = (0..options.rounds).map(|_| burst(&cluster, options)).collect::<Result<_>>()?;
    let exec = exec(&cluster, options)?;
    let rest_with_probes = self::rest(&cluster, options, true)?;
    let runtimes = runtimes(&cluster, options)?;
    interrupt::check()?;
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    Ok(Measured { cpus, rest, rest_with_probes, start, bursts, exec, runtimes })
}

fn rest(cluster: &Cluster, options: &Options, probes: bool) -> Result<Rest> {
    interrupt::check()?;
    let with = if probes { ", each probed by TCP every 10 s" } else { "" };
    println!("==> {} pods at rest{with}", options.resting);
    let mut command = cluster.pods("rest");
    cluster.measured_from_outside(&mut command);
    command.arg("--pods-dir").arg(cluster.layout.node_directory(NODE).join("pods"));
    command.args(["--pods", &options.resting.to_string(), "--seconds", &options.seconds.to_string()]);
    command.args(probes.then_some("--probes"));
    let measured: Rest = measure(&mut command)?;
    println!(
        "    agent {:.1} MB, {:.2} % of a core; shims {:.2} MB private each, {:.2} %",
        megabytes(measured.agent.resident),
        measured.agent_cpu * 100.0,
        median(measured.shims.iter().map(|shim| megabytes(shim.private))),
        measured.shims_cpu * 100.0,
    );
    Ok(measured)
}

fn start(cluster: &Cluster, options: &Options) -> Result<Start> {
    interrupt::check()?;
    println!("==> {} pods, one after another", options.single);
    let measured: Start = measure(cluster.pods("start").args(["--pods", &options.single.to_string()]))?;
    println!(
        "    {:.1} ms to Running, {:.1} ms to Ready",
        median(measured.running.iter().copied()),
        median(measured.ready.iter().copied()),
    );
    Ok(measured)
}

fn burst(cluster: &Cluster, options: &Options) -> Result<Burst> {
    interrupt::check()?;
    let mut command = cluster.pods("burst");
    cluster.measured_from_outside(&mut command);
    let measured: Burst = measure(command.args(["--pods", &options.burst.to_string()]))?;
    println!(
        "    {:.2} s to Running, {:.2} s to Ready, {:.2} s to gone; CPU of the agent {:.2} s, of the control plane {:.2} s",
        measured.running_seconds,
        measured.ready_seconds,
        measured.gone_seconds,
        measured.agent_cpu_seconds,
        measured.control_cpu_seconds,
    );
    Ok(measured)
}

fn exec(cluster: &Cluster, options: &Options) -> Result<Exec> {
    interrupt::check()?;
    println!("==> {} commands in a pod", options.execs);
    let measured: Exec = measure(cluster.pods("exec").args(["--count", &options.execs.to_string()]))?;
    println!("    {:.1} ms", median(measured.milliseconds.iter().copied()));
    Ok(measured)
}

fn runtimes(cluster: &Cluster, options: &Options) -> Result<Runtimes> {
    interrupt::check()?;
    println!("==> the runtime alone, and runc on the same bundle");
    let mut command = load("runtime");
    command.arg("--agent").arg(build::binaries().join("weir-agent"));
    command.arg("--image-source").arg(cluster.layout.images().join("echo"));
    // Within the cluster's, so that it goes with it, whatever happens.
    command.arg("--directory").arg(cluster.layout.directory.join("runtime"));
    command.args(["--cgroup", &cluster.layout.cgroup_of("runtime")]);
    command.arg("--runc").arg(find("runc").context("no program runc")?);
    let measured: Runtimes = measure(command.args(["--rounds", &options.single.to_string()]))?;
    let started = |rounds: &[Round]| median(rounds.iter().map(|round| round.create_and_start));
    println!(
        "    create and start: {:.1} ms, runc {:.1} ms",
        started(&measured.weir),
        started(&measured.runc)
    );
    Ok(measured)
}

fn table(options: &Options, measured: &Measured) -> Table {
    let Measured { rest, rest_with_probes, start, bursts, exec, runtimes, .. } = measured;
    let mut table = Table::new(format!("one node, {} CPUs, medians", measured.cpus));
    let mut row = |what: &str, value, unit, bar| table.push(Row::new(what, value, unit, bar));
    let of = |times: &[f64]| median(times.iter().copied());
    row("one pod, from create to Running", of(&start.running), "ms", Bar::AtMost(100.0));
    row("  to Ready", of(&start.ready), "ms", Bar::None);
    row("  from delete to gone, 1 s of grace in it", of(&start.gone), "ms", Bar::None);
    let burst = |value: fn(&Burst) -> f64| median(bursts.iter().map(value));
    let what = format!("{} pods at once, to the last Running", options.burst);
    row(&what, burst(|b| b.running_seconds), "s", Bar::AtMost(5.0));
    row("  to the last Ready", burst(|b| b.ready_seconds), "s", Bar::None);
    row("  from delete to the last gone", burst(|b| b.gone_seconds), "s", Bar::None);
    row("  the agent's CPU until Ready", burst(|b| b.agent_cpu_seconds), "s", Bar::None);
    row("  the control plane's", burst(|b| b.control_cpu_seconds), "s", Bar::None);
    row("agent without pods, resident", megabytes(rest.agent_before.resident), "MB", Bar::AtMost(30.0));
    row("  private", megabytes(rest.agent_before.private), "MB", Bar::None);
    let what = format!("agent with {} pods, resident", options.resting);
    row(&what, megabytes(rest.agent.resident), "MB", Bar::AtMost(60.0));
    row("  private", megabytes(rest.agent.private), "MB", Bar::None);
    row(
        "  probed, after all the rest, resident",
        megabytes(rest_with_probes.agent.resident),
        "MB",
        Bar::None,
    );
    let shims = |value: fn(&Mapped) -> u64| rest.shims.iter().map(move |shim| megabytes(value(shim)));
    row("each shim, private", median(shims(|shim| shim.private)), "MB", Bar::AtMost(1.0));
    row("  the largest of them", shims(|shim| shim.private).fold(0.0, f64::max), "MB", Bar::None);
    row("  proportional", median(shims(|shim| shim.proportional)), "MB", Bar::None);
    let what = format!("CPU at rest, {} pods: agent and shims", options.resting);
    row(&what, (rest.agent_cpu + rest.shims_cpu) * 100.0, "%", Bar::AtMost(2.0));
    row("  the control plane", rest.control_cpu * 100.0, "%", Bar::None);
    let probed = (rest_with_probes.agent_cpu + rest_with_probes.shims_cpu) * 100.0;
    row("  agent and shims, each pod probed by TCP", probed, "%", Bar::AtMost(2.0));
    row("exec round trip", of(&exec.milliseconds), "ms", Bar::AtMost(20.0));
    let (weir, runc) = (&runtimes.weir, &runtimes.runc);
    for (what, value) in [
        ("create and start", (|r| r.create_and_start) as fn(&Round) -> f64),
        ("exec", |r| r.exec),
        ("kill and delete", |r| r.delete),
    ] {
        let runc = median(runc.iter().map(value));
        row(&format!("runtime alone: {what}"), median(weir.iter().map(value)), "ms", Bar::AtMost(runc));
    }
    table
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
