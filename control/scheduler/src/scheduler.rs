//! The scheduler without its I/O: changes go in, decisions come out.
//!
//! Pods of this scheduler without a node wait in the queue; all others are counted on their node. A decision to
//! bind counts the pod on the node at once (assumes it), so that the next decision sees it; when the binding fails
//! it is forgotten again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use weir_proto::core::v1::{Namespace, Node, Pod};

use crate::cluster::{Cluster, NodeChange, Slot};
use crate::failure::Failure;
use crate::framework::{Events, Profile};
use crate::intake;
use crate::metrics::{self, OfProfile};
use crate::placement::Placer;
use crate::pod::{PodInfo, Shape};
use crate::preemption::Preemption;
use crate::queue::Queue;

#[derive(Debug)]
pub struct Scheduler {
    name: String,
    cluster: Cluster,
    placer: Placer,
    queue: Queue,
    shapes: Shapes,
    metrics: OfProfile,
    /// What has changed since sleeping pods were last looked at.
    news: Events,
}

#[derive(Clone, Debug)]
pub enum Decision {
    Bind {
        pod: Arc<PodInfo>,
        node: Arc<str>,
        /// How often it was tried, and when it was first seen.
        attempts: u32,
        since: Instant,
    },
    /// The pod fits nowhere; it sleeps until something that could help happens.
    Wait {
        pod: Arc<PodInfo>,
        message: String,
        /// No node is held for it any longer.
        withdrawn: bool,
    },
    /// The pod fits nowhere until the victims have left the node, which is held for it.
    Preempt {
        pod: Arc<PodInfo>,
        message: String,
        node: Arc<str>,
        victims: Vec<Arc<PodInfo>>,
        /// Pods of lower priority that the node was held for, and no longer is.
        displaced: Vec<Arc<PodInfo>>,
    },
}

impl Scheduler {
    pub fn new(name: &str, profile: Profile) -> Self {
        Self {
            name: name.to_owned(),
            cluster: Cluster::default(),
            queue: Queue::new(profile.backoff),
            placer: Placer::new(profile),
            shapes: Shapes::default(),
            metrics: OfProfile::new(name),
            news: Events::default(),
        }
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A pod as it is now.
    pub fn pod(&mut self, pod: &Pod) {
        let (meta, spec, status) = (pod.meta(), pod.spec(), pod.status());
        if matches!(&*status.phase, "Succeeded" | "Failed") {
            return self.pod_gone(&meta.uid);
        }
        if !spec.node_name.is_empty() {
            self.queue.remove(&meta.uid);
            let held =
                self.cluster.nominations.node_of(&meta.uid).is_some_and(|held| **held == *spec.node_name);
            if held {
                // It takes what was held for it.
                self.cluster.nominations.withdraw(&meta.uid);
            } else {
                self.withdraw(&meta.uid);
            }
            return self.pod_on_node(pod);
        }
        let ours = spec.scheduler_name == self.name && meta.deletion_timestamp.is_none();
        if !ours {
            self.queue.remove(&meta.uid);
            self.withdraw(&meta.uid);
        } else if self.cluster.node_of(&meta.uid).is_none() {
            let info = self.info(pod);
            match spec.scheduling_gates.is_empty() {
                true => {
                    if self.cluster.nominations.observe(&info, &status.nominated_node_name) {
                        self.news |= Events::POD_GONE;
                    }
                    self.queue.put(info);
                }
                false => self.queue.hold(info),
            }
        }
    }

    fn pod_on_node(&mut self, pod: &Pod) {
        let (meta, spec, status) = (pod.meta(), pod.spec(), pod.status());
        let uid: &str = &meta.uid;
        let before = self.cluster.pod(uid).map(|info| info.shape.clone());
        let info = self.info(pod);
        let after = info.shape.clone();
        if self.cluster.set_pod(info, &spec.node_name) {
            self.news |= match before {
                None => Events::POD_CAME,
                Some(before) => changes(&before, &after),
            };
        }
        self.cluster.set_started(uid, status.start_time.map(|time| time.unix()));
        if meta.deletion_timestamp.is_some() && intake::is_preempted(pod) {
            self.cluster.doom(&uid.into());
        }
    }

    pub fn pod_gone(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.withdraw(uid);
        let node = self.cluster.node_of(uid).map(|node| node.name.clone());
        if self.cluster.remove_pod(uid) {
            self.news |= Events::POD_GONE;
            if let Some(node) = node {
                self.room_was_made(&node);
            }
        }
    }

    /// No node is held for the pod any longer: others may have it. True: there was one.
    fn withdraw(&mut self, uid: &str) -> bool {
        let withdrawn = self.cluster.nominations.withdraw(uid);
        if withdrawn {
            self.news |= Events::POD_GONE;
        }
        withdrawn
    }

    /// A pod has left the node: those that the node is held for need not wait, once the last of their victims is gone.
    fn room_was_made(&mut self, node: &str) {
        let Some(slot) = self.cluster.slot(node) else { return };
        for pod in self.cluster.nominations.on(node) {
            if !self.cluster.makes_room(slot, pod.priority) {
                self.queue.wake_now(&pod.uid);
            }
        }
    }

    pub fn node(&mut self, node: &Node) {
        let flag = |set: bool, event: Events| if set { event } else { Events::default() };
        self.news |= match self.cluster.set_node(&node.meta().name, intake::node(node)) {
            NodeChange::Nothing => Events::default(),
            NodeChange::Added => Events::NODE_ADDED,
            NodeChange::Updated { labels, taints, untainted, grown } => {
                flag(labels, Events::NODE_LABELS)
                    | flag(taints, Events::NODE_TAINTS)
                    | flag(untainted, Events::NODE_UNTAINTED)
                    | flag(grown, Events::NODE_ALLOCATABLE)
            }
        };
    }

    pub fn node_gone(&mut self, name: &str) {
        self.cluster.remove_node(name);
        // Fewer domains to spread over may let a pod fit.
        self.news |= Events::NODE_GONE;
    }

    pub fn namespace(&mut self, namespace: &Namespace) {
        let meta = namespace.meta();
        if self.cluster.set_namespace(&meta.name, Some(meta.labels.clone())) {
            self.news |= Events::NAMESPACE_LABELS;
        }
    }

    pub fn namespace_gone(&mut self, name: &str) {
        if self.cluster.set_namespace(name, None) {
            self.news |= Events::NAMESPACE_LABELS;
        }
    }

    /// Takes all pods anew: those not among them are gone.
    pub fn all_pods(&mut self, pods: &[Arc<Pod>]) {
        let present: HashSet<&str> = pods.iter().map(|pod| &*pod.meta().uid).collect();
        let known = self.cluster.pods().chain(self.queue.uids());
        let gone: Vec<Arc<str>> = known.filter(|uid| !present.contains(&***uid)).cloned().collect();
        gone.iter().for_each(|uid| self.pod_gone(uid));
        pods.iter().for_each(|pod| self.pod(pod));
    }

    /// Takes all nodes anew: those not among them are gone.
    pub fn all_nodes(&mut self, nodes: &[Arc<Node>]) {
        let present: HashSet<&str> = nodes.iter().map(|node| &*node.meta().name).collect();
        let known = self.cluster.node_names();
        let gone: Vec<Arc<str>> = known.filter(|name| !present.contains(&***name)).cloned().collect();
        gone.iter().for_each(|name| self.node_gone(name));
        nodes.iter().for_each(|node| self.node(node));
    }

    /// Takes all namespaces anew: those not among them are gone.
    pub fn all_namespaces(&mut self, namespaces: &[Arc<Namespace>]) {
        let present: HashSet<&str> = namespaces.iter().map(|namespace| &*namespace.meta().name).collect();
        let known = self.cluster.namespaces.keys();
        let gone: Vec<String> = known.filter(|name| !present.contains(&***name)).cloned().collect();
        gone.iter().for_each(|name| self.namespace_gone(name));
        namespaces.iter().for_each(|namespace| self.namespace(namespace));
    }

    /// Decides about the next pod; `None`: there is none to try now.
    pub fn decide(&mut self, now: Instant) -> Option<Decision> {
        self.spread_news(now);
        let pod = self.queue.pop(now)?;
        Some(match self.placer.place(&pod, &mut self.cluster) {
            Ok(slot) => {
                let node = self.cluster.node(slot).map(|node| node.name.clone()).unwrap_or_default();
                let (attempts, since) = self.queue.history(&pod.uid).unwrap_or((1, now));
                Decision::Bind { pod, node, attempts, since }
            }
            Err(failure) => {
                let helped_by = match pod.shape.unsupported.is_empty() {
                    true => self.placer.profile().helped_by(failure.plugins()) | Events::NODE_ADDED,
                    false => Events::default(),
                };
                self.queue.wait_for(&pod.uid, helped_by, now);
                self.make_room(pod, &failure)
            }
        })
    }

    /// What is done about a pod that fits nowhere.
    fn make_room(&mut self, pod: Arc<PodInfo>, failure: &Failure) -> Decision {
        let message = failure.to_string();
        if failure.nodes() == 0 {
            let withdrawn = self.withdraw(&pod.uid);
            return Decision::Wait { pod, message, withdrawn };
        }
        let began = Instant::now();
        let preemption = self.placer.preempt(&pod, failure, &self.cluster);
        let victims = match &preemption {
            Preemption::Victims { pods, .. } => pods.len(),
            _ => 0,
        };
        self.metrics.preempted(victims, began.elapsed());
        match preemption {
            Preemption::Ineligible(why) => {
                let message = format!("{message} preemption: {why}");
                Decision::Wait { pod, message, withdrawn: false }
            }
            Preemption::Fruitless(why) => {
                let message = format!("{message} preemption: {why}");
                let withdrawn = self.withdraw(&pod.uid);
                Decision::Wait { pod, message, withdrawn }
            }
            Preemption::Victims { slot, pods } => self.preempt(pod, message, slot, pods),
        }
    }

    fn preempt(
        &mut self,
        pod: Arc<PodInfo>,
        message: String,
        slot: Slot,
        victims: Vec<Arc<PodInfo>>,
    ) -> Decision {
        let node = self.cluster.node(slot).map(|node| node.name.clone()).unwrap_or_default();
        for victim in &victims {
            self.cluster.doom(&victim.uid);
        }
        let held = self.cluster.nominations.on(&node).iter();
        let displaced: Vec<_> = held.filter(|other| other.priority < pod.priority).cloned().collect();
        for other in &displaced {
            // They need not wait for room that another will take.
            self.cluster.nominations.withdraw(&other.uid);
            self.queue.wake_now(&other.uid);
        }
        if self.cluster.nominations.node_of(&pod.uid).is_some_and(|held| *held != node) {
            self.withdraw(&pod.uid);
        }
        self.cluster.nominations.nominate(pod.clone(), node.clone());
        Decision::Preempt { pod, message, node, victims, displaced }
    }

    /// Victims could not be made to leave, or need not any more; the pod, if it still waits, is tried again.
    pub fn preemption_failed(&mut self, pod: &PodInfo, victims: &[Arc<PodInfo>], now: Instant) {
        for victim in victims {
            self.cluster.spare(&victim.uid);
        }
        self.queue.reconsider(&pod.uid, now);
    }

    /// The API server has accepted a binding; the pod stays assumed until it is seen bound.
    pub fn bound(&mut self, uid: &str) {
        self.queue.remove(uid);
    }

    /// A binding came to nothing: the room is free again, and the pod, if it still waits, is tried later.
    pub fn binding_failed(&mut self, uid: &str, now: Instant) {
        if self.cluster.forget(uid) {
            self.news |= Events::POD_GONE;
        }
        self.queue.retry(uid, now);
    }

    /// Whether [`Self::decide`] has something to decide at `now`.
    pub fn has_work(&mut self, now: Instant) -> bool {
        self.spread_news(now);
        self.queue.expire(now);
        self.queue.has_active()
    }

    /// Tells how many pods wait.
    pub fn count_waiting(&self) {
        for (waiting, pods) in self.queue.waiting() {
            metrics::pending(waiting, pods);
        }
    }

    /// When there may be something to decide although nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.queue.deadline()
    }

    fn spread_news(&mut self, now: Instant) {
        if !self.news.is_empty() {
            self.queue.wake(std::mem::take(&mut self.news), now);
        }
    }

    fn info(&mut self, pod: &Pod) -> Arc<PodInfo> {
        let meta = pod.meta();
        Arc::new(PodInfo {
            uid: meta.uid.as_str().into(),
            name: meta.name.clone(),
            priority: intake::priority(pod.spec()),
            preempts: intake::preempts(pod.spec()),
            shape: self.shapes.shared(intake::shape(pod)),
        })
    }
}

/// What a pod's change on its node may have made possible.
fn changes(before: &Shape, after: &Shape) -> Events {
    let mut events = Events::default();
    if before.requests.exceeds(&after.requests) || before.host_ports != after.host_ports {
        events |= Events::POD_GONE;
    }
    if before.labels != after.labels || before.terminating != after.terminating {
        events |= Events::POD_CHANGED;
    }
    events
}

/// Equal shapes, kept once.
#[derive(Debug, Default)]
struct Shapes {
    known: HashSet<Arc<Shape>>,
    /// How many there may be before unused ones are looked for.
    limit: usize,
}

impl Shapes {
    fn shared(&mut self, shape: Shape) -> Arc<Shape> {
        if let Some(known) = self.known.get(&shape) {
            return known.clone();
        }
        if self.known.len() >= self.limit {
            self.known.retain(|shape| Arc::strong_count(shape) > 1);
            self.limit = 2 * self.known.len() + 64;
        }
        let shape = Arc::new(shape);
        self.known.insert(shape.clone());
        shape
    }
}

#[cfg(test)]
mod tests;
