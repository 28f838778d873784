//! The Node object of this machine: registered once, reported when it changes, kept alive by a Lease.
//!
//! Left out: labels are added, never removed; taints and everything else in the spec are the control plane's.

mod lease;
mod machine;
mod report;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weir_client::{Backoff, Client, Informer, Modified, ObjectKey, informer};
use weir_proto::Resource;
use weir_proto::core::v1::{ContainerImage, Node, ObjectReference};
use weir_proto::meta::v1::Time;

use crate::config::Config;
use crate::eviction::signals::Pressure;

pub use lease::keep_lease;
pub use machine::Machine;
pub use report::resources;

/// How often the machine is looked at; what did not change is written only every [`SILENCE`].
const LOOK: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(300);

/// Whether the node can run pods, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not since this agent began: the kernel does not hold the cluster's services yet, as far as it knows. Of a node that
    /// was ready under an earlier agent nothing else is said, since its pods and its dataplane went on.
    Starting,
    Ready,
    NotReady(String),
}

/// Keeps the Node object true: registers it, then reports.
#[derive(Clone, Debug)]
pub struct Reporter {
    client: Client,
    config: Arc<Config>,
    readiness: watch::Receiver<Readiness>,
    images: watch::Receiver<Vec<ContainerImage>>,
    /// When the status was last written.
    spoke: Arc<Mutex<Option<Instant>>>,
    pressures: watch::Receiver<BTreeSet<Pressure>>,
}

impl Reporter {
    pub fn new(
        client: Client,
        config: Arc<Config>,
        readiness: watch::Receiver<Readiness>,
        images: watch::Receiver<Vec<ContainerImage>>,
        pressures: watch::Receiver<BTreeSet<Pressure>>,
    ) -> Self {
        Self { client, config, readiness, images, pressures, spoke: Arc::default() }
    }

    /// Makes the Node object, or takes up the present one; waits while the control plane is away.
    pub async fn register(&self) -> weir_client::Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut told = false;
        loop {
            match self.try_register().await {
                Err(error) if error.is_transient() || error.is_conflict() => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "cannot register the node yet; trying on");
                    }
                    tokio::time::sleep(backoff.delay()).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_register(&self) -> weir_client::Result<()> {
        let api = self.client.api::<Node>();
        let mut node = Node::default();
        node.meta_mut().name = self.config.node_name.clone();
        if let Some(range) = &self.config.pod_cidr {
            node.spec_mut().pod_cidr.clone_from(range);
            node.spec_mut().pod_cidrs = vec![range.clone()];
        }
        self.label(&mut node);
        self.describe(&mut node);
        match api.create(&node).await {
            Err(error) if error.is_already_exists() => {
                api.modify(&self.config.node_name, |node| self.label(node)).await?;
                self.report().await
            }
            Err(error) => Err(error),
            Ok(_) => self.report().await,
        }
    }

    /// Reports until told to stop.
    pub async fn run(self, shutdown: CancellationToken) {
        let (mut readiness, mut pressures) = (self.readiness.clone(), self.pressures.clone());
        let mut failing = false;
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
                changed = readiness.changed() => if changed.is_err() { return },
                changed = pressures.changed() => if changed.is_err() { return },
            }
            match self.report().await {
                Ok(()) => failing = false,
                // Once, however long the control plane is away.
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, "cannot report the node's status; trying on");
                }
                Err(error) => tracing::debug!(%error, "cannot report the node's status"),
            }
        }
    }

    async fn report(&self) -> weir_client::Result<()> {
        let name = &self.config.node_name;
        // Not by the heartbeats in the object: those are of a clock that may be set.
        let spoke_lately = self.spoke().is_some_and(|at| at.elapsed() < SILENCE);
        let change = |node: &mut Node| {
            let mut described = node.clone();
            self.describe(&mut described);
            if !(spoke_lately && report::same_but_for_heartbeats(node, &described)) {
                *node = described;
            }
        };
        if let Modified::Written(_) = self.client.api::<Node>().modify_status(name, change).await? {
            *self.spoke() = Some(Instant::now());
        }
        Ok(())
    }

    fn spoke(&self) -> MutexGuard<'_, Option<Instant>> {
        self.spoke.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn label(&self, node: &mut Node) {
        let machine = Machine::of(&self.config);
        let labels = &mut node.meta_mut().labels;
        let mut set = |key: &str, value: &str| labels.insert(key.to_owned(), value.to_owned());
        set("kubernetes.io/hostname", &self.config.node_name);
        set("kubernetes.io/os", "linux");
        set("kubernetes.io/arch", machine.architecture);
        for (key, value) in &self.config.labels {
            set(key, value);
        }
    }

    fn describe(&self, node: &mut Node) {
        let machine = Machine::of(&self.config);
        let (readiness, pressures) = (self.readiness.borrow().clone(), self.pressures.borrow().clone());
        report::describe(node, &self.config, &machine, &readiness, &pressures, Time::now());
        node.status_mut().images.clone_from(&self.images.borrow());
    }
}

/// The node as events refer to it: by name in the place of the uid, as the kubelet's.
pub fn reference(name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Node::KIND.api_version(),
        kind: Node::KIND.kind.to_owned(),
        name: name.to_owned(),
        uid: name.to_owned(),
        ..ObjectReference::default()
    }
}

/// A copy of this node's own object.
pub fn follow(client: &Client, name: &str) -> Informer<Node> {
    let options = informer::Options::default().fields(format!("metadata.name={name}"));
    Informer::start(client.api(), options)
}

/// Waits until the control plane has given the node its pod range.
pub async fn pod_cidr(nodes: &Informer<Node>, name: &str) -> String {
    let key = ObjectKey::new("", name);
    let assigned = |node: Option<&Node>| node.is_some_and(|node| !node.spec().pod_cidr.is_empty());
    loop {
        match nodes.wait_for(&key, Duration::from_secs(30), assigned).await {
            Ok(()) => {
                if let Some(node) = nodes.get_key(&key) {
                    return node.spec().pod_cidr.clone();
                }
            }
            Err(_) => {
                tracing::warn!("still waiting for the control plane to assign a pod range to this node")
            }
        }
    }
}
