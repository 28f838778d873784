//! `cargo xtask bench …`: what Weir does in a second, and what that costs, against the bars it is held to.
//!
//! Each bench starts the release binaries as an operator would, lets `weir-bench` (`tests/bench/`) put the load on, takes
//! medians over rounds, and prints a table. A missed bar is shown, and is no failure of the command: machines differ.

mod control;
mod interrupt;
mod pods;
mod scheduler;
mod table;

use std::process::Command;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::de::DeserializeOwned;

use crate::build;
use crate::shell::output;

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Pods onto nodes: a Deployment through API server, controllers, scheduler and store, and placement alone
    Scheduler(scheduler::Options),
    /// Containers on one node: starting them, executing in them, and what they need at rest; beside runc
    Pods(pods::Options),
}

pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Scheduler(options) => scheduler::run(options),
        Bench::Pods(options) => pods::run(options),
    }
}

/// A load that `weir-bench` knows by this name.
fn load(name: &str) -> Command {
    let mut command = Command::new(build::binaries().join("weir-bench"));
    command.arg(name);
    command
}

/// Puts the load on, and reads what it measured.
fn measure<T: DeserializeOwned>(command: &mut Command) -> Result<T> {
    let printed = output(command)?;
    serde_json::from_str(&printed).with_context(|| format!("{command:?} printed {printed:?}"))
}
