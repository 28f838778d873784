//! A Deployment's pods onto simulated nodes, by a running control plane: how long until the last binding has reached
//! its node, and what that cost.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use weir_client::{Client, Config, Informer, Notice, informer};
use weir_proto::apps::v1::Deployment;
use weir_proto::core::v1::{Namespace, Node};

use crate::fleet::Fleet;
use crate::objects;
use crate::process::{Memory, Process};

/// How long one part of it may take: registering, placing, starting.
const PATIENCE: Duration = Duration::from_secs(300);
/// The control plane has settled once it uses less than this share of one CPU for [`SETTLING`].
const IDLE: f64 = 0.3;
const SETTLING: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// An administrator's kubeconfig
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// The control plane's data directory, for its authority and its bootstrap token
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The control plane's process
    #[arg(long, value_name = "PID")]
    control: u32,
    #[arg(long)]
    nodes: usize,
    #[arg(long)]
    pods: usize,
    /// Nodes report their pods as running and ready
    #[arg(long)]
    run_pods: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    nodes: usize,
    pods: usize,
    /// From the Deployment's creation until its last pod, bound, has reached the watch of its node.
    bound_seconds: f64,
    pods_per_second: f64,
    /// CPU used in that time.
    control_cpu_seconds: f64,
    simulator_cpu_seconds: f64,
    /// Of the control plane, at the end.
    memory: Memory,
    /// From the Deployment's creation until the last report that a pod is Ready was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    ready_seconds: Option<f64>,
    /// Until the Deployment's status says that all are available.
    #[serde(skip_serializing_if = "Option::is_none")]
    available_seconds: Option<f64>,
    /// Before the Deployment: from nothing until all nodes took pods.
    registration_seconds: f64,
}

pub(crate) async fn run(options: Options) -> Result<Measured> {
    let config = Config::from_kubeconfig(&options.kubeconfig, None)?;
    let server = config.servers.first().context("the kubeconfig names no server")?.clone();
    let admin = Client::new(&config)?;
    let control = Process(options.control);
    answering(&admin).await?;

    let start = Instant::now();
    let mut fleet = Fleet::start(&server, &options.data_dir, options.nodes, options.run_pods).await?;
    take_pods(&admin, options.nodes).await?;
    let registration_seconds = start.elapsed().as_secs_f64();
    settle(control).await?;

    let available = Informer::<Deployment>::start(admin.api(), informer::Options::default());
    available.synced().await;
    let before = (control.cpu()?, Process::this().cpu()?);
    let start = Instant::now();
    admin.api::<Deployment>().create(&objects::deployment(options.pods)?).await?;
    fleet.until(PATIENCE, |progress| progress.bound >= options.pods).await?;
    let bound_seconds = start.elapsed().as_secs_f64();
    let after = (control.cpu()?, Process::this().cpu()?);

    let mut measured = Measured {
        nodes: options.nodes,
        pods: options.pods,
        bound_seconds,
        pods_per_second: options.pods as f64 / bound_seconds,
        control_cpu_seconds: after.0 - before.0,
        simulator_cpu_seconds: after.1 - before.1,
        memory: control.memory()?,
        ready_seconds: None,
        available_seconds: None,
        registration_seconds,
    };
    if options.run_pods {
        fleet.until(PATIENCE, |progress| progress.ready >= options.pods).await?;
        measured.ready_seconds = Some(start.elapsed().as_secs_f64());
        let wanted = i32::try_from(options.pods)?;
        let all = |found: Option<&Deployment>| {
            found.is_some_and(|deployment| deployment.status().available_replicas >= wanted)
        };
        let key = weir_client::ObjectKey::new(objects::NAMESPACE, objects::APP);
        available.wait_for(&key, PATIENCE, all).await?;
        measured.available_seconds = Some(start.elapsed().as_secs_f64());
        measured.memory = control.memory()?;
    }
    Ok(measured)
}

/// Waits until the API server answers, with the namespace that the pods go to.
async fn answering(admin: &Client) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match admin.api::<Namespace>().get_opt(objects::NAMESPACE).await {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => {}
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() > deadline {
            bail!("the control plane does not answer");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the control plane lets pods onto all nodes: they have their address ranges and no taints.
async fn take_pods(admin: &Client, nodes: usize) -> Result<()> {
    let takes_pods = |node: &Node| !node.spec().pod_cidr.is_empty() && node.spec().taints.is_empty();
    let informer = Informer::<Node>::start(admin.api(), informer::Options::default());
    let mut notices = informer.subscribe();
    let ready = || informer.list().iter().filter(|node| takes_pods(node)).count();
    let all = async {
        let mut left = nodes;
        while let Some(notice) = notices.next().await {
            left = match notice {
                Notice::Changed(change) => {
                    let took = |node: &Option<std::sync::Arc<Node>>| node.as_deref().is_some_and(takes_pods);
                    match (took(&change.old), took(&change.new)) {
                        (false, true) => left.saturating_sub(1),
                        (true, false) => left + 1,
                        _ => left,
                    }
                }
                Notice::Resync => nodes.saturating_sub(ready()),
            };
            if left == 0 && ready() >= nodes {
                return;
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, all).await;
    waited.map_err(|_| anyhow::anyhow!("{} of {nodes} nodes take pods after {PATIENCE:?}", ready()))
}

/// What registering the nodes set off is done.
async fn settle(control: Process) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut used = control.cpu()?;
    while Instant::now() < deadline {
        tokio::time::sleep(SETTLING).await;
        let now = control.cpu()?;
        if now - used < IDLE * SETTLING.as_secs_f64() {
            return Ok(());
        }
        used = now;
    }
    bail!("the control plane does not come to rest")
}
