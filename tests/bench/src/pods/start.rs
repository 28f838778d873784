//! One pod at a time.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::Crowd;
use crate::objects;

#[derive(Debug, Args)]
pub(super) struct Options {
    #[arg(long)]
    pods: usize,
}

/// Milliseconds: of each pod from the request to create it, the last from the request to delete it.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    running: Vec<f64>,
    ready: Vec<f64>,
    gone: Vec<f64>,
}

pub(super) async fn run(mut crowd: Crowd, options: &Options) -> Result<Measured> {
    let mut measured = Measured { running: Vec::new(), ready: Vec::new(), gone: Vec::new() };
    // The first one makes sure that connections are open and the image is there.
    for name in super::names("start", options.pods + 1) {
        let pod = objects::echo_pod(&name, false)?;
        let asked = Instant::now();
        crowd.api.create(&pod).await?;
        crowd.watched.until("ready", |seen| seen.ready.contains_key(&name)).await?;
        let since = |at: Option<Instant>| at.map(|at| at.duration_since(asked).as_secs_f64() * 1e3);
        let (running, ready) =
            crowd.watched.look(|seen| (seen.running.get(&name).copied(), seen.ready.get(&name).copied()));
        measured.running.push(since(running).context("it was never seen running")?);
        measured.ready.push(since(ready).context("it was never seen ready")?);
        let asked = Instant::now();
        crowd.remove(std::slice::from_ref(&name)).await?;
        measured.gone.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    for times in [&mut measured.running, &mut measured.ready, &mut measured.gone] {
        times.remove(0);
    }
    Ok(measured)
}
