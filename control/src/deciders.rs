//! Scheduler and controllers in this process. Where other instances may run, one of each is active at a time.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use weir_api::{Server, User};
use weir_client::{Client, election};

use crate::config::{Component, Config};

/// Time to finish what was begun.
const DRAIN: Duration = Duration::from_secs(10);
/// The Leases that instances compete for.
const SCHEDULER_LEASE: &str = "weir-scheduler";
const CONTROLLERS_LEASE: &str = "weir-controllers";

pub(crate) struct Deciders {
    running: JoinSet<Result<()>>,
}

pub(crate) fn start(config: &Config, server: Option<&Server>, stop: &CancellationToken) -> Result<Deciders> {
    let mut running = JoinSet::new();
    let identity = config.may_have_rivals().then(identity);
    if config.runs(Component::Scheduler) {
        let client = client(config, server, "system:weir-scheduler")?;
        let election = identity.as_ref().map(|identity| config.election(SCHEDULER_LEASE, identity));
        running.spawn(schedule(client, config.scheduler()?, election, stop.clone()));
    }
    if config.runs(Component::Controllers) {
        let client = client(config, server, "system:weir-controllers")?;
        let controllers = weir_controllers::Config {
            cluster_cidr: config.cluster_cidr.clone(),
            election: identity.as_ref().map(|identity| config.election(CONTROLLERS_LEASE, identity)),
            ..weir_controllers::Config::default()
        };
        let stop = stop.clone();
        running.spawn(async move {
            weir_controllers::run(client, controllers, stop).await.context("--cluster-cidr")
        });
    }
    Ok(Deciders { running })
}

async fn schedule(
    client: Client,
    config: weir_scheduler::Config,
    election: Option<election::Config>,
    stop: CancellationToken,
) -> Result<()> {
    let Some(election) = election else {
        weir_scheduler::run(client, config, stop).await;
        return Ok(());
    };
    election::run(&client, &election, &stop, |leadership| {
        weir_scheduler::run(client.fenced(&leadership), config.clone(), leadership.lost().clone())
    })
    .await;
    Ok(())
}

/// Without a socket where the server is here.
fn client(config: &Config, server: Option<&Server>, user: &str) -> Result<Client> {
    if let Some(server) = server {
        return Ok(Client::in_process(server.in_process(User::system(user))));
    }
    let path = config.kubeconfig.as_deref().context("--kubeconfig")?;
    let config = weir_client::Config::from_kubeconfig(path, None)?;
    Ok(Client::new(&config)?)
}

/// Who we are among the instances: machine, process, and a moment.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}-{:x}", host.trim(), std::process::id(), now.as_millis())
}

impl Deciders {
    /// Ends when one of them does, which none should before it is told to. Safe to cancel.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        match self.running.join_next().await {
            // There is nobody to wait for.
            None => std::future::pending().await,
            Some(Ok(Ok(()))) => Err(anyhow!("the scheduler or the controllers ended by themselves")),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(error)) => Err(anyhow!("the scheduler or a controller broke down: {error}")),
        }
    }

    pub(crate) async fn drain(&mut self) {
        let ended = timeout(DRAIN, async { while self.running.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::warn!("the scheduler or the controllers did not finish within {DRAIN:?}");
            self.running.abort_all();
        }
    }
}
