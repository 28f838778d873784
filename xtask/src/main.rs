//! `cargo xtask …`: everything that is done to this repository or with a cluster on this machine.

#![expect(clippy::print_stderr, reason = "a command line: it talks to the terminal")]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::cluster::{self, Layout, Store};
use xtask::{bench, build, ci, demo, doctor, fuzz};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, run and test Weir", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say which prerequisites and kernel features are there, which are missing, and how to get them
    Doctor {
        /// Install what is missing and can be installed
        #[arg(long)]
        fix: bool,
    },
    /// Build the eBPF programs
    Ebpf,
    /// Build the eBPF programs, the three binaries and the demo image's server
    Build,
    /// Start a cluster on this machine: a control plane, and a network namespace with an agent for each node
    Up {
        /// How many nodes
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=100))]
        nodes: u8,
        /// Where the control plane keeps its objects
        #[arg(long, value_enum, default_value_t = Store::Embedded)]
        store: Store,
    },
    /// Remove the cluster: processes, namespaces, links, mounts, cgroups, pins and files, also after a crash
    Down,
    /// From nothing to a cluster that serves requests, with proof
    Demo {
        #[command(flatten)]
        requests: demo::Requests,
    },
    /// Measure what Weir does in a second, against the bars it is held to
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
    /// Install what is missing and run all tests, the end-to-end ones included
    Test {
        /// Passed on to `cargo nextest run`, a test's name for instance
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Feed what parses strangers' input with input that nobody thought of: all targets of tests/fuzz, or one
    Fuzz(fuzz::Options),
    /// Exactly what CI runs: all tests, a minute of fuzzing each target, then formatting and lints
    Ci,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Doctor { fix } => return doctor::report(fix),
        Command::Ebpf => {
            doctor::ensure(doctor::Purpose::Build)?;
            build::ebpf()?;
        }
        Command::Build => {
            doctor::ensure(doctor::Purpose::Build)?;
            build::all()?;
        }
        Command::Up { nodes, store } => {
            doctor::ensure(doctor::Purpose::Run)?;
            if store == Store::Etcd {
                doctor::ensure(doctor::Purpose::Etcd)?;
            }
            build::all()?;
            cluster::up(&Layout::workspace(nodes, store)?)?;
        }
        Command::Down => cluster::down(&Layout::workspace(0, Store::Embedded)?)?,
        Command::Demo { requests } => return demo::run(&requests),
        Command::Bench { bench } => bench::run(&bench)?,
        Command::Test { arguments } => ci::test(&arguments)?,
        Command::Fuzz(options) => fuzz::run(&options)?,
        Command::Ci => ci::run()?,
    }
    Ok(ExitCode::SUCCESS)
}
