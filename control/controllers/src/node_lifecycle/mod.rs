//! Nodes that are not heard from: their state becomes Unknown, their pods not ready, and after a while the pods are
//! driven off. Also the taints that follow from what nodes say about themselves.

mod eviction;
mod heartbeats;
mod plan;
#[cfg(test)]
mod tests;
mod zones;

use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_client::{Change, Client, DeleteOptions, ObjectKey, Recorder};
use weir_proto::coordination::v1::Lease;
use weir_proto::core::v1::{Node, Pod};
use weir_proto::meta::v1::Time;

use crate::caches::{Caches, NODE, NODE_LEASES};
use crate::runner::{Controller, Next, Runner};
use crate::{Error, pods};
use heartbeats::Heartbeats;

/// How long the local copy may take to show what was written.
const VISIBLE: Duration = Duration::from_secs(10);

pub(crate) struct NodeLifecycleController {
    client: Client,
    caches: Caches,
    events: Recorder,
    heartbeats: Heartbeats,
    grace: Duration,
}

/// The loop: every node, whenever it or its lease changes, and a pod appears on one that drives pods off.
pub(crate) fn runner(
    client: &Client,
    caches: &Caches,
    workers: usize,
    grace: Duration,
) -> Runner<impl Controller> {
    let controller = NodeLifecycleController {
        client: client.clone(),
        caches: caches.clone(),
        events: Recorder::new(client, "node-controller", ""),
        heartbeats: Heartbeats::default(),
        grace,
    };
    let (of_pod, of_node) = (caches.clone(), caches.clone());
    Runner::new(controller, workers)
        .on(&caches.nodes, move |change| nodes_of_node(&of_node, change))
        .on(&caches.node_leases, node_of_lease)
        .on(&caches.pods, move |change| node_of_pod(&of_pod, change).into_iter().collect())
}

fn all_nodes(caches: &Caches) -> Vec<ObjectKey> {
    caches.nodes.list().iter().map(|node| ObjectKey::of(node.as_ref())).collect()
}

/// The node itself; and all that are down, if it goes down or comes back: that changes what may be done to them.
fn nodes_of_node(caches: &Caches, change: &Change<Node>) -> Vec<ObjectKey> {
    let mut keys: Vec<_> = change.states().take(1).map(|node| ObjectKey::of(node.as_ref())).collect();
    if has_turned(change) {
        let nodes = caches.nodes.list();
        keys.extend(
            nodes.iter().filter(|node| zones::is_down(node)).map(|node| ObjectKey::of(node.as_ref())),
        );
    }
    keys
}

fn has_turned(change: &Change<Node>) -> bool {
    let up = |node: &Option<Arc<Node>>| node.as_ref().is_some_and(|node| !zones::is_down(node));
    change.new.is_some() && up(&change.old) != up(&change.new)
}

fn node_of_lease(change: &Change<Lease>) -> Vec<ObjectKey> {
    change.states().take(1).map(|lease| ObjectKey::new("", &lease.meta().name)).collect()
}

/// A pod concerns a node only if that node has something against it.
fn node_of_pod(caches: &Caches, change: &Change<Pod>) -> Option<ObjectKey> {
    let pod = change.new.as_ref()?;
    let node = caches.nodes.get("", &pod.spec().node_name)?;
    let concerned = zones::is_down(&node) || node.spec().taints.iter().any(|t| t.effect == plan::NO_EXECUTE);
    concerned.then(|| ObjectKey::of(node.as_ref()))
}

impl Controller for NodeLifecycleController {
    fn name(&self) -> &'static str {
        "node-lifecycle"
    }

    fn keys(&self) -> Vec<ObjectKey> {
        all_nodes(&self.caches)
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(node) = self.caches.nodes.get_key(key) else {
            self.heartbeats.forget(&key.name);
            return Ok(Next::Change);
        };
        let lease = self.caches.node_leases.get(NODE_LEASES, &key.name);
        let now = Time::now();
        let silent_for = self.heartbeats.silent_for(&node, lease.as_deref(), Instant::now());
        // Most nodes are up, at most times: the others need not be looked at.
        let down = zones::is_down(&node) || silent_for >= self.grace;
        let evict_from = down.then(|| zones::evict_from(&node, &self.caches.nodes.list())).flatten();
        let observed = plan::Observed { node: &node, silent_for, grace: self.grace, evict_from };
        let plan = plan::plan(&observed, now);
        let tainted = self.perform(&node, &plan).await?;
        let leaving = self.evict(&tainted, now).await?;
        if plan.unreachable {
            self.mark_pods(&tainted, now).await?;
        }
        let delays = [plan.next, leaving].into_iter().filter_map(|next| match next {
            Next::After(delay) => Some(delay),
            Next::Change | Next::Again => None,
        });
        Ok(Next::earliest(delays))
    }
}

impl NodeLifecycleController {
    /// The node as it is then.
    async fn perform(&self, node: &Node, plan: &plan::Plan) -> Result<Node, Error> {
        let api = self.client.api::<Node>();
        let mut node = node.clone();
        if let Some(conditions) = &plan.conditions {
            node.status_mut().conditions = conditions.clone();
            node = api.update_status(&node).await?;
            let message = format!("Node {} status is now: NodeNotReady", node.meta().name);
            self.events.normal(&node, "NodeNotReady", message);
        }
        if let Some(taints) = &plan.taints {
            node.spec_mut().taints = taints.clone();
            node = api.update(&node).await?;
        }
        if plan.conditions.is_some() || plan.taints.is_some() {
            self.caches.nodes.reached(&node.meta().resource_version, VISIBLE).await?;
        }
        Ok(node)
    }

    /// Deletes the pods whose time on this node is up, and says when the next one's will be.
    async fn evict(&self, node: &Node, now: Time) -> Result<Next, Error> {
        let taints = &node.spec().taints;
        let mut waits = Vec::new();
        for pod in self.caches.pods.by_index(NODE, &node.meta().name) {
            if pods::is_terminating(&pod) {
                continue;
            }
            match eviction::leaves_at(&pod, taints, now) {
                Some(at) if at <= now.unix() => self.evict_one(&pod).await?,
                Some(at) => waits.push(Duration::from_secs((at - now.unix()) as u64)),
                None => {}
            }
        }
        Ok(Next::earliest(waits))
    }

    async fn evict_one(&self, pod: &Pod) -> Result<(), Error> {
        let meta = pod.meta();
        let message = format!("Marking for deletion Pod {}/{}", meta.namespace, meta.name);
        self.events.normal(pod, "TaintManagerEviction", message);
        let api = self.client.namespaced::<Pod>(&meta.namespace);
        match api.delete(&meta.name, &DeleteOptions::only(&meta.uid)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Pods of a node that nobody hears from get no new connections.
    async fn mark_pods(&self, node: &Node, now: Time) -> Result<(), Error> {
        for pod in self.caches.pods.by_index(NODE, &node.meta().name) {
            if !pods::is_ready(&pod) {
                continue;
            }
            let mut pod = pod.as_ref().clone();
            for condition in pod.status_mut().conditions.iter_mut().filter(|c| c.r#type == "Ready") {
                condition.status = "False".to_owned();
                condition.reason = "NodeNotReady".to_owned();
                condition.last_transition_time = Some(now);
            }
            self.events.warning(&pod, "NodeNotReady", "Node is not ready");
            self.client.namespaced::<Pod>(&pod.meta().namespace).update_status(&pod).await?;
        }
        Ok(())
    }
}
