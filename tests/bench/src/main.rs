//! The loads that `cargo xtask bench` measures with, apart from what is measured: what simulates a cluster's nodes or its
//! users is a process of its own, so that its cost can be told from the product's.
//!
//! Each command puts one load on, waits for its end, and prints one line of JSON. Rounds, medians and bars are
//! `xtask`'s.

#![expect(clippy::print_stdout, reason = "prints its result")]

mod fleet;
mod objects;
mod placement;
mod pods;
mod process;
mod rollout;
mod runtime;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "weir-bench", about = "Loads for a cluster, measured", disable_help_subcommand = true)]
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
    /// Real pods on the node of a running cluster
    Pods(pods::Options),
    /// The container runtime by itself, and runc
    Runtime(runtime::Options),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let measured = match arguments.load {
        Load::Placement(options) => serde_json::to_string(&placement::run(&options)?)?,
        Load::Rollout(options) => {
            let measured = asynchronous()?.block_on(rollout::run(options)).context("rollout")?;
            serde_json::to_string(&measured)?
        }
        Load::Pods(options) => asynchronous()?.block_on(pods::run(options)).context("pods")?,
        Load::Runtime(options) => serde_json::to_string(&runtime::run(&options).context("runtime")?)?,
    };
    println!("{measured}");
    Ok(())
}

fn asynchronous() -> Result<tokio::runtime::Runtime> {
    // Both ends of every connection use the same implementation; a second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
