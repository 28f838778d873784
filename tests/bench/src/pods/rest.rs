//! Pods that do nothing: what the agent, its shims and the control plane need for them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use super::Crowd;
use crate::objects;
use crate::process::{Mapped, Process};

/// After the last pod is Ready: events are written, statuses read back.
const SETTLING: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(super) struct Options {
    #[arg(long)]
    pods: usize,
    /// Each with a readiness probe by TCP every ten seconds
    #[arg(long)]
    probes: bool,
    /// How long the CPU is measured
    #[arg(long)]
    seconds: u64,
    /// The agent's process
    #[arg(long, value_name = "PID")]
    agent: u32,
    /// The control plane's process
    #[arg(long, value_name = "PID")]
    control: u32,
    /// The directory with the pods' state: shims are told by it
    #[arg(long, value_name = "DIR")]
    pods_dir: PathBuf,
}

#[derive(Debug, Serialize)]
pub(super) struct Measured {
    pods: usize,
    probes: bool,
    /// The agent before there was any pod, with them, and after they were removed.
    agent_before: Mapped,
    agent: Mapped,
    agent_after: Mapped,
    shims: Vec<Mapped>,
    /// Shares of one core.
    agent_cpu: f64,
    shims_cpu: f64,
    control_cpu: f64,
}

pub(super) async fn run(mut crowd: Crowd, options: &Options) -> Result<Measured> {
    let (agent, control) = (Process(options.agent), Process(options.control));
    let agent_before = agent.mapped()?;
    let names = super::names("rest", options.pods);
    let make = |name: &String| objects::echo_pod(name, options.probes);
    let pods: Vec<_> = names.iter().map(make).collect::<Result<_>>()?;
    crowd.create(&pods).await?;
    crowd.watched.until("ready", |seen| names.iter().all(|name| seen.ready.contains_key(name))).await?;
    tokio::time::sleep(SETTLING).await;

    let shims = shims(&options.pods_dir)?;
    ensure!(shims.len() == options.pods, "{} pods have {} shims", options.pods, shims.len());
    let used = || -> Result<[f64; 3]> {
        let of_shims: f64 = shims.iter().map(|shim| shim.cpu()).sum::<Result<f64>>()?;
        Ok([agent.cpu()?, of_shims, control.cpu()?])
    };
    let (began, before) = (Instant::now(), used()?);
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    let (took, after) = (began.elapsed().as_secs_f64(), used()?);
    let share = |index: usize| (after[index] - before[index]) / took;

    let with_pods = agent.mapped()?;
    let of_shims = shims.iter().map(|shim| shim.mapped()).collect::<Result<_>>()?;
    crowd.remove(&names).await?;
    tokio::time::sleep(SETTLING).await;
    Ok(Measured {
        pods: options.pods,
        probes: options.probes,
        agent_before,
        agent: with_pods,
        agent_after: agent.mapped()?,
        shims: of_shims,
        agent_cpu: share(0),
        shims_cpu: share(1),
        control_cpu: share(2),
    })
}

/// Processes that were started as `weir shim DIRECTORY` for a container below `pods`.
fn shims(pods: &Path) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
        let is_shim = words.get(1) == Some(&b"shim".as_slice())
            && words
                .get(2)
                .is_some_and(|directory| directory.starts_with(pods.as_os_str().as_encoded_bytes()));
        if is_shim {
            found.push(Process(pid));
        }
    }
    Ok(found)
}
