//! Simulated nodes. Each joins with the bootstrap token and gets a certificate of its own, has its own connection,
//! registers a Node, renews its Lease, and follows the pods that are bound to it by a watch of its own: to the control
//! plane it is an agent. It runs no containers; it may say that it does.
//!
//! Left out: the stream of compiled services, which no pod of these loads is part of.

mod node;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::stream::{self, StreamExt, TryStreamExt};
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::watch;
use tokio::task::JoinSet;
use weir_client::{Backoff, Client, Config};
use weir_proto::coordination::v1::Lease;
use weir_proto::weir::v1::JoinRequest;

use crate::objects;
use node::Node;

/// Nodes that join and register at a time.
const JOINING: usize = 32;

/// What all nodes have seen and done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    /// Pods that reached the watch of their node.
    pub(crate) bound: usize,
    /// Pods that were reported Ready, and the report accepted.
    pub(crate) ready: usize,
}

/// Dropping it ends all nodes.
#[derive(Debug)]
pub(crate) struct Fleet {
    progress: Arc<watch::Sender<Progress>>,
    running: JoinSet<()>,
}

/// Where nodes join, and with what.
struct Door {
    config: Config,
    client: Client,
}

impl Fleet {
    /// Registers `nodes` nodes with the control plane behind `server`, whose data directory is at hand.
    pub(crate) async fn start(server: &str, data_dir: &Path, nodes: usize, run_pods: bool) -> Result<Self> {
        let read = |name: &str| {
            let path = data_dir.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let config = Config::new(server).ca(read("pki/ca.crt")?);
        let token = read("bootstrap-token")?;
        let door = Door { client: Client::new(&config.clone().token(token.trim()))?, config };
        let progress = Arc::new(watch::Sender::new(Progress::default()));
        let registered = stream::iter(0..nodes)
            .map(async |index| {
                let node = Node::new(join(&door, index).await?, index, run_pods, progress.clone());
                let lease = node.register().await?;
                anyhow::Ok((index, node, lease))
            })
            .buffer_unordered(JOINING);
        let registered: Vec<(usize, Node, Lease)> = registered.try_collect().await?;
        let mut running = JoinSet::new();
        for (index, node, lease) in registered {
            // Spread over the interval, as those of machines that started at different times.
            let first = node::RENEW.mul_f64(index as f64 / nodes as f64);
            node.live(lease, first, &mut running);
        }
        Ok(Self { progress, running })
    }

    /// Waits until what the nodes have seen and done is enough. Ends early if a node breaks down.
    pub(crate) async fn until(&mut self, within: Duration, enough: impl Fn(&Progress) -> bool) -> Result<()> {
        let mut progress = self.progress.subscribe();
        tokio::select! {
            reached = tokio::time::timeout(within, progress.wait_for(|progress| enough(progress))) => {
                let reached = reached.is_ok();
                if !reached {
                    bail!("not done within {within:?}: {:?}", *self.progress.borrow());
                }
                Ok(())
            }
            ended = self.running.join_next() => bail!("a simulated node ended: {ended:?}"),
        }
    }
}

/// A certificate for the node, and a client that shows it. Who has no certificate yet may not ask as often as it likes;
/// then it waits.
async fn join(door: &Door, index: usize) -> Result<Client> {
    let node_name = objects::node_name(index);
    let addresses = vec![objects::address(index)];
    let key = KeyPair::generate()?;
    let csr_pem = CertificateParams::new(addresses.clone())?.serialize_request(&key)?.pem()?;
    let request = JoinRequest { node_name, csr_pem, addresses };
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let certificate = loop {
        match door.client.node_service().join(request.clone()).await {
            Ok(answer) => break answer.into_inner().certificate_pem,
            Err(status) => match door.client.error("join", status) {
                error if error.is_transient() => tokio::time::sleep(backoff.delay()).await,
                error => return Err(error.into()),
            },
        }
    };
    Ok(Client::new(&door.config.clone().identity(certificate, key.serialize_pem()))?)
}
