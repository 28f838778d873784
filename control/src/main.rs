//! The control plane's process: reads its configuration, builds, announces, serves, drains.
//!
//! API server, scheduler and controllers all run here, or any of them ([`config::Component`]). Scheduler and
//! controllers speak to the API server in the same process without a socket, and over TLS where it is elsewhere.
//! On SIGTERM or SIGINT the deciders finish what they have begun, then the server lets its requests finish; a
//! second signal ends everything at once.

#![expect(
    clippy::print_stderr,
    reason = "what keeps the process from starting is said to whoever started it"
)]

mod config;
mod deciders;
mod kubeconfig;
mod limits;
mod server;
mod sockets;
mod store;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use config::{Component, Config, LogFormat};

/// What cannot be tried again without changing it.
const BAD_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    if let Some(command) = store::asked_for() {
        return store::main(command);
    }
    let config = Config::parse();
    if let Err(error) = config.check() {
        eprintln!("weir-control: {error:#}");
        return ExitCode::from(BAD_CONFIGURATION);
    }
    let inherited = match sockets::inherited() {
        Ok(inherited) => inherited,
        Err(error) => {
            eprintln!("weir-control: {error:#}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    start_logging(&config);
    config.limits.raise_open_files();
    // Both ends of every connection use the same implementation; a second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.context("start the runtime").and_then(|runtime| {
        let ended = runtime.block_on(run(config, inherited));
        // Blocking reads of a dead disk or network must not keep the process.
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_logging(config: &Config) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().init(),
    }
}

async fn run(config: Config, inherited: Vec<std::net::TcpListener>) -> Result<()> {
    let stop = CancellationToken::new();
    listen_to_signals(stop.clone())?;
    let server =
        if config.runs(Component::Api) { Some(server::start(&config, inherited).await?) } else { None };
    if let Some(running) = &server {
        // There is nothing to decide, and no lease to hold, before.
        tokio::select! {
            () = stop.cancelled() => {}
            () = running.server.ready() => {}
        }
    }
    let mut deciders =
        deciders::start(&config, server.as_ref().map(|running| running.server.as_ref()), &stop)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), components = ?config.components, "started");
    let mut broken = None;
    match server {
        // Asked first: told to stop, the deciders end by themselves.
        None => tokio::select! {
            biased;
            () = stop.cancelled() => {}
            ended = deciders.ended() => broken = ended.err(),
        },
        Some(mut running) => {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                ended = deciders.ended() => broken = ended.err(),
                ended = running.ended() => broken = ended.err(),
            }
            stop.cancel();
            deciders.drain().await;
            running.drain().await?;
        }
    }
    stop.cancel();
    deciders.drain().await;
    tracing::info!("stopped");
    broken.map_or(Ok(()), Err)
}

fn listen_to_signals(stop: CancellationToken) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    tokio::spawn(async move {
        for last in [false, true] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if last {
                tracing::warn!(signal = name, "stopping at once");
                std::process::exit(1);
            }
            tracing::info!(signal = name, "stopping");
            stop.cancel();
        }
    });
    Ok(())
}
