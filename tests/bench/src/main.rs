//! The loads that `cargo xtask bench` measures the control plane with, apart from it: what simulates a cluster's nodes
//! is a process of its own, so that its cost can be told from the control plane's.
//!
//! Each command puts one load on, waits for its end, and prints one line of JSON. Rounds, medians and bars are
//! `xtask`'s.

#![expect(clippy::print_stdout, reason = "prints its result")]

mod fleet;
mod objects;
mod placement;
mod process;
mod rollout;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "weir-bench",
    about = "Loads for the control plane, measured",
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    load: Load,
}

#[derive(Subcommand)]
enum Load {
    /// Simulated nodes, and a Deployment whose pods are placed on them by a running control plane
    Rollout(rollout::Options),
    /// Placement alone: the scheduler's decisions, without API server and store
    Placement(placement::Options),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let measured = match arguments.load {
        Load::Placement(options) => serde_json::to_string(&placement::run(&options)?)?,
        Load::Rollout(options) => {
            // Both ends of every connection use the same implementation; a second call changes nothing.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            serde_json::to_string(&runtime.block_on(rollout::run(options)).context("rollout")?)?
        }
    };
    println!("{measured}");
    Ok(())
}
