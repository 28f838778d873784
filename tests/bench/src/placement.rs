//! Placement alone: pods go into the scheduler as its informer would hand them on, and decisions come out. No API
//! server, no store, nothing is written.

use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};
use weir_proto::core::v1::Pod;
use weir_scheduler::framework::Profile;
use weir_scheduler::scheduler::{Decision, Scheduler};

use crate::objects;
use crate::process::{Memory, Process};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long)]
    nodes: usize,
    #[arg(long)]
    pods: usize,
    /// What the pods ask for
    #[arg(long, value_enum)]
    wish: Wish,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wish {
    /// CPU and memory
    Plain,
    /// Not to share a node with one another, required
    AntiAffinity,
    /// To be spread over zones and nodes, where possible
    SoftSpread,
}

#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    nodes: usize,
    pods: usize,
    seconds: f64,
    pods_per_second: f64,
    memory: Memory,
}

pub(crate) fn run(options: &Options) -> Result<Measured> {
    let mut scheduler = Scheduler::new("default-scheduler", Profile::default());
    for index in 0..options.nodes {
        let mut node = objects::node(index)?;
        node.status = Some(objects::node_status(index)?);
        scheduler.node(&node);
    }
    let wishes = options.wish.specification();
    let pods: Vec<Pod> =
        (0..options.pods).map(|index| objects::pod(index, &wishes)).collect::<Result<_>>()?;

    let start = Instant::now();
    for pod in &pods {
        scheduler.pod(pod);
    }
    let mut placed = 0;
    while let Some(decision) = scheduler.decide(Instant::now()) {
        match decision {
            Decision::Bind { pod, .. } => {
                scheduler.bound(&pod.uid);
                placed += 1;
            }
            other => bail!("after {placed} pods: {other:?}"),
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    if placed != options.pods {
        bail!("{placed} of {} pods were placed", options.pods);
    }
    Ok(Measured {
        nodes: options.nodes,
        pods: options.pods,
        seconds,
        pods_per_second: options.pods as f64 / seconds,
        memory: Process::this().memory()?,
    })
}

impl Wish {
    fn specification(self) -> Value {
        let same = json!({"matchLabels": {"app": objects::APP}});
        match self {
            Wish::Plain => json!({}),
            Wish::AntiAffinity => json!({"affinity": {"podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution":
                    [{"labelSelector": same, "topologyKey": "kubernetes.io/hostname"}],
            }}}),
            Wish::SoftSpread => {
                let over = |key: &str, skew: i32| {
                    json!({
                        "maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": same,
                    })
                };
                let both = [over("topology.kubernetes.io/zone", 5), over("kubernetes.io/hostname", 3)];
                json!({"topologySpreadConstraints": both})
            }
        }
    }
}
