//! Many pods at once.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::Crowd;
use crate::objects;
use crate::process::Process;

#[derive(Debug, Args)]
pub(super) struct Options {
    #[arg(long)]
    pods: usize,
    /// The agent's process
    #[arg(long, value_name = "PID")]
    agent: u32,
    /// The control plane's process
    #[arg(long, value_name = "PID")]
    control: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Measured {
    pods: usize,
    /// From the first request to the last pod seen Running, seen Ready.
    running_seconds: f64,
    ready_seconds: f64,
    /// From the first request to delete one to the last one gone.
    gone_seconds: f64,
    /// CPU used until the last was Ready; what containers and shims used is not in it.
    agent_cpu_seconds: f64,
    control_cpu_seconds: f64,
}

pub(super) async fn run(mut crowd: Crowd, options: &Options) -> Result<Measured> {
    let names = super::names("burst", options.pods);
    let pods: Vec<_> = names.iter().map(|name| objects::echo_pod(name, false)).collect::<Result<_>>()?;
    let (agent, control) = (Process(options.agent), Process(options.control));
    let before = (agent.cpu()?, control.cpu()?);
    let asked = Instant::now();
    crowd.create(&pods).await?;
    crowd.watched.until("ready", |seen| names.iter().all(|name| seen.ready.contains_key(name))).await?;
    let after = (agent.cpu()?, control.cpu()?);
    let last = |times: &std::collections::HashMap<String, Instant>| times.values().max().copied();
    let running = crowd.watched.look(|seen| last(&seen.running)).context("none was seen running")?;
    let ready = crowd.watched.look(|seen| last(&seen.ready)).context("none was seen ready")?;
    let ending = Instant::now();
    crowd.remove(&names).await?;
    Ok(Measured {
        pods: options.pods,
        running_seconds: running.duration_since(asked).as_secs_f64(),
        ready_seconds: ready.duration_since(asked).as_secs_f64(),
        gone_seconds: ending.elapsed().as_secs_f64(),
        agent_cpu_seconds: after.0 - before.0,
        control_cpu_seconds: after.1 - before.1,
    })
}
