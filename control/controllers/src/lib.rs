//! The controllers: loops that bring what is there closer to what is wanted, each concerned with one thing.
//!
//! Every loop is level-triggered: it is given the key of an object, reads what is there now, makes a plan (a pure
//! function) and performs it with writes that are refused if somebody else wrote first. It can be stopped at any
//! instruction and goes on from what it finds; what it keeps in memory are caches. After writing, a loop waits until
//! its own copy shows what it wrote, before it plans for the same key again: that is what keeps it from doing things
//! twice, where others count expectations.
//!
//! [`run`] runs them all, on the one instance that leads.
//!
//! Left out so far: StatefulSets, DaemonSets, Jobs, quotas, volumes; load balancers.

mod caches;
mod cidr;
mod claims;
mod deployment;
mod endpointslice;
mod error;
mod garbage;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod owners;
mod pod_collection;
mod pod_end;
mod pods;
mod replicaset;
mod runner;
mod selectors;

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weir_client::{Client, election};

pub use cidr::{Cidr, CidrError};
pub use error::Error;

use caches::Caches;
use runner::{Controller, Runner};

#[derive(Debug, Clone)]
pub struct Config {
    /// Where pods' addresses come from: "10.32.0.0/16".
    pub cluster_cidr: String,
    /// Each node gets a part of this prefix length.
    pub node_mask: u8,
    /// How long a node may be silent before its state counts as unknown.
    pub node_grace: Duration,
    /// Ended pods beyond this many are removed, oldest first.
    pub ended_pods: usize,
    /// Keys that each of the busier loops works on at a time.
    pub workers: usize,
    /// How one of several instances comes to lead; None: there is only this one.
    pub election: Option<election::Config>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            cluster_cidr: "10.32.0.0/16".to_owned(),
            node_mask: 24,
            node_grace: Duration::from_secs(40),
            ended_pods: 12_500,
            workers: 5,
            election: None,
        }
    }
}

/// Runs all controllers until `cancel`; what has been begun by then is finished. Returns early only where the
/// configuration cannot work.
pub async fn run(client: Client, config: Config, cancel: CancellationToken) -> Result<(), CidrError> {
    let cluster: Cidr = config.cluster_cidr.parse()?;
    cluster.parts(config.node_mask)?;
    let client = client.with_field_manager("weir-controllers");
    match &config.election {
        None => lead(client, &config, cluster, cancel).await,
        Some(election) => {
            election::run(&client, election, &cancel, |leadership| {
                lead(client.fenced(&leadership), &config, cluster, leadership.lost().clone())
            })
            .await;
        }
    }
    Ok(())
}

async fn lead(client: Client, config: &Config, cluster: Cidr, cancel: CancellationToken) {
    let caches = Caches::start(&client);
    tokio::select! {
        () = caches.synced() => {}
        () = cancel.cancelled() => return,
    }
    let workers = config.workers.max(1);
    let mut loops = Loops { running: JoinSet::new(), cancel };
    loops.add(deployment::runner(&client, &caches, workers));
    loops.add(replicaset::runner(&client, &caches, workers));
    loops.add(endpointslice::runner(&client, &caches, workers));
    loops.add(node_lifecycle::runner(&client, &caches, workers, config.node_grace));
    loops.add(node_ipam::runner(&client, &caches, cluster, config.node_mask));
    loops.add(namespace::runner(&client, &caches, workers));
    loops.add(garbage::runner(&client, workers));
    loops.add(pod_collection::runner(&client, &caches, config.ended_pods));
    loops.add(pod_end::runner(&client, &caches, workers));
    loops.join().await;
}

struct Loops {
    running: JoinSet<()>,
    cancel: CancellationToken,
}

impl Loops {
    fn add<C: Controller>(&mut self, runner: Runner<C>) {
        self.running.spawn(runner.run(self.cancel.clone()));
    }

    async fn join(mut self) {
        while let Some(ended) = self.running.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}
