//! `cargo xtask bench scheduler`: how fast pods come onto nodes, through everything that is between a Deployment and
//! its pods' agents, and by placement alone.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::control::ControlPlane;
use super::table::{Bar, Row, Table, median};
use super::{load, measure};
use crate::cluster::Store;
use crate::{build, doctor};

#[derive(Debug, Args)]
pub struct Options {
    /// Simulated nodes
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=8000))]
    nodes: u32,
    /// Replicas of the Deployment
    #[arg(long, default_value_t = 5000)]
    pods: u32,
    /// How often each measurement is made; medians are printed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Where the control plane keeps its objects
    #[arg(long, value_enum, default_value_t = Store::Embedded)]
    store: Store,
    /// Measure also with nodes that report their pods as running and ready
    #[arg(long)]
    run_pods: bool,
    /// Nodes for the measurement of placement alone
    #[arg(long, default_value_t = 5000)]
    placement_nodes: u32,
    /// Write everything that was measured, each round of it, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure the binaries as they are, without building them first
    #[arg(long)]
    no_build: bool,
}

/// What the table is about, and Kubernetes 1.20 (kube-apiserver, etcd, kube-scheduler, kube-controller-manager and
/// simulated nodes) on a machine like that, by the same measure.
const REFERENCE: &str = "Kubernetes 1.20 on 2 CPUs: 122–133 pods/s, 72–80 CPU-seconds";

/// As `weir-bench rollout` prints it.
#[derive(Debug, Serialize, Deserialize)]
struct Rollout {
    nodes: u32,
    pods: u32,
    bound_seconds: f64,
    pods_per_second: f64,
    control_cpu_seconds: f64,
    simulator_cpu_seconds: f64,
    memory: Memory,
    ready_seconds: Option<f64>,
    available_seconds: Option<f64>,
    registration_seconds: f64,
}

/// As `weir-bench placement` prints it.
#[derive(Debug, Serialize, Deserialize)]
struct Placement {
    nodes: u32,
    pods: u32,
    seconds: f64,
    pods_per_second: f64,
    memory: Memory,
}

/// Bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Memory {
    resident: u64,
    peak: u64,
}

#[derive(Debug, Serialize)]
struct Measured {
    cpus: usize,
    store: &'static str,
    rollouts: Vec<Rollout>,
    running: Vec<Rollout>,
    plain: Vec<Placement>,
    anti_affinity: Vec<Placement>,
    soft_spread: Vec<Placement>,
}

pub(super) fn run(options: &Options) -> Result<()> {
    if options.store == Store::Etcd {
        doctor::ensure(doctor::Purpose::Etcd)?;
    }
    if !options.no_build {
        build::bench()?;
    }
    let measured = measure_all(options)?;
    println!();
    print!("{}", table(options, &measured));
    println!("{REFERENCE}");
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&measured)?;
        fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn measure_all(options: &Options) -> Result<Measured> {
    let rounds = |what: &str, run_pods: bool| -> Result<Vec<Rollout>> {
        println!("==> {what}: {} pods over {} nodes", options.pods, options.nodes);
        (0..options.rounds).map(|_| rollout(options, run_pods)).collect()
    };
    let rollouts = rounds("rollout", false)?;
    let running = if options.run_pods { rounds("rollout until ready", true)? } else { Vec::new() };
    let placements = |wish: &str| -> Result<Vec<Placement>> {
        println!("==> placement, {wish}: {0} pods over {0} nodes", options.placement_nodes);
        (0..options.rounds).map(|_| placement(options.placement_nodes, wish)).collect()
    };
    Ok(Measured {
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
        store: match options.store {
            Store::Embedded => "embedded",
            Store::Etcd => "etcd",
        },
        rollouts,
        running,
        plain: placements("plain")?,
        anti_affinity: placements("anti-affinity")?,
        soft_spread: placements("soft-spread")?,
    })
}

/// One round on a fresh control plane.
fn rollout(options: &Options, run_pods: bool) -> Result<Rollout> {
    let control = ControlPlane::start(options.store).context("start the control plane")?;
    let mut rollout = load("rollout");
    rollout.arg("--kubeconfig").arg(control.kubeconfig());
    rollout.arg("--data-dir").arg(control.data_dir());
    rollout.args(["--control", &control.pid().to_string()]);
    rollout.args(["--nodes", &options.nodes.to_string(), "--pods", &options.pods.to_string()]);
    rollout.args(run_pods.then_some("--run-pods"));
    let measured: Rollout = measure(&mut rollout)
        .with_context(|| format!("the control plane's last words:\n{}", control.last_words()))?;
    println!(
        "    {:.0} pods/s, {:.1} s; CPU {:.1} s, simulator {:.1} s; {:.0} MB",
        measured.pods_per_second,
        measured.bound_seconds,
        measured.control_cpu_seconds,
        measured.simulator_cpu_seconds,
        megabytes(measured.memory.peak),
    );
    Ok(measured)
}

fn placement(nodes: u32, wish: &str) -> Result<Placement> {
    let nodes = nodes.to_string();
    let mut placement = load("placement");
    placement.args(["--wish", wish, "--nodes", &nodes, "--pods", &nodes]);
    let measured: Placement = measure(&mut placement)?;
    println!("    {:.0} pods/s, {:.0} MB", measured.pods_per_second, megabytes(measured.memory.peak));
    Ok(measured)
}

fn table(options: &Options, measured: &Measured) -> Table {
    let rollouts = |value: fn(&Rollout) -> f64| median(measured.rollouts.iter().map(value));
    let placement = |rounds: &[Placement]| median(rounds.iter().map(|round| round.pods_per_second));
    let mut table = Table::new(format!(
        "{} pods over {} nodes, {} store, {} CPUs, median of {}",
        options.pods, options.nodes, measured.store, measured.cpus, options.rounds
    ));
    let per_second = |what: &str, value, bar| Row::new(what, value, "pods/s", bar);
    table.push(per_second("to the last binding", rollouts(|r| r.pods_per_second), Bar::AtLeast(1500.0)));
    table.push(Row::new("  the control plane's CPU", rollouts(|r| r.control_cpu_seconds), "s", Bar::None));
    table.push(Row::new("  the simulated nodes' CPU", rollouts(|r| r.simulator_cpu_seconds), "s", Bar::None));
    let peak = rollouts(|r| megabytes(r.memory.peak));
    table.push(Row::new("  the control plane's memory, peak", peak, "MB", Bar::AtMost(300.0)));
    let at_end = rollouts(|r| megabytes(r.memory.resident));
    table.push(Row::new("  the control plane's memory at the end", at_end, "MB", Bar::None));
    if !measured.running.is_empty() {
        let running = |value: fn(&Rollout) -> f64| median(measured.running.iter().map(value));
        let ready = running(|r| r.ready_seconds.unwrap_or(f64::NAN));
        table.push(Row::new("with pods that run: last pod Ready", ready, "s", Bar::None));
        let available = running(|r| r.available_seconds.unwrap_or(f64::NAN));
        table.push(Row::new("  the Deployment available", available, "s", Bar::None));
    }
    let nodes = options.placement_nodes;
    let plain = placement(&measured.plain);
    table.push(per_second(&format!("placement alone, {nodes} nodes"), plain, Bar::AtLeast(10_000.0)));
    let anti = placement(&measured.anti_affinity);
    table.push(per_second("  required anti-affinity between pods", anti, Bar::AtLeast(3_000.0)));
    table.push(per_second("  soft topology spread", placement(&measured.soft_spread), Bar::None));
    table
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
