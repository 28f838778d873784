//! `weir-agent`: the whole life of the node agent.

use std::process::ExitCode;

use clap::Parser;
use nix::libc;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use weir_agent::{agent, config::Config, heap};

fn main() -> ExitCode {
    // Shims are this same program; they must never see a second thread.
    weir_runtime::shim::dispatch();
    heap::limit();
    let config = Config::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let told = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping; containers and dataplane stay");
            told.cancel();
        });
        let (power_fails, mut power) =
            (CancellationToken::new(), signal(SignalKind::from_raw(libc::SIGPWR))?);
        let failing = power_fails.clone();
        tokio::spawn(async move {
            power.recv().await;
            failing.cancel();
        });
        agent::run(config, shutdown, power_fails).await
    });
    // Threads that wait for a container's end need not be waited for.
    runtime.shutdown_background();
    outcome
}
