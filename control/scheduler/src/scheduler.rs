//! The scheduler without its I/O: changes go in, decisions come out.
//!
//! Pods of this scheduler without a node wait in the queue; all others are counted on their node. A decision to
//! bind counts the pod on the node at once (assumes it), so that the next decision sees it; when the binding fails
//! it is forgotten again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use weir_proto::core::v1::{Namespace, Node, Pod};

use crate::cluster::{Cluster, NodeChange};
use crate::failure::Failure;
use crate::framework::{Events, Profile};
use crate::intake;
use crate::placement::Placer;
use crate::pod::{PodInfo, Shape};
use crate::queue::Queue;

#[derive(Debug)]
pub struct Scheduler {
    name: String,
    cluster: Cluster,
    placer: Placer,
    queue: Queue,
    shapes: Shapes,
    /// What has changed since sleeping pods were last looked at.
    news: Events,
}

#[derive(Clone, Debug)]
pub enum Decision {
    Bind {
        pod: Arc<PodInfo>,
        node: Arc<str>,
    },
    /// The pod fits nowhere; it sleeps until something that could help happens.
    Wait {
        pod: Arc<PodInfo>,
        failure: Arc<Failure>,
    },
}

impl Scheduler {
    pub fn new(name: &str, profile: Profile) -> Self {
        Self {
            name: name.to_owned(),
            cluster: Cluster::default(),
            placer: Placer::new(profile),
            queue: Queue::default(),
            shapes: Shapes::default(),
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
            let known = self.cluster.node_of(&meta.uid).is_some();
            let info = self.info(pod);
            if self.cluster.set_pod(info, &spec.node_name) {
                self.news |= Events::POD_CAME;
                // One that was there before may have shrunk or changed its labels.
                self.news |= if known { Events::POD_GONE } else { Events::default() };
            }
            return;
        }
        let ours = spec.scheduler_name == self.name && meta.deletion_timestamp.is_none();
        if !ours || !spec.scheduling_gates.is_empty() {
            self.queue.remove(&meta.uid);
        } else if self.cluster.node_of(&meta.uid).is_none() {
            let info = self.info(pod);
            self.queue.put(info);
        }
    }

    pub fn pod_gone(&mut self, uid: &str) {
        self.queue.remove(uid);
        if self.cluster.remove_pod(uid) {
            self.news |= Events::POD_GONE;
        }
    }

    pub fn node(&mut self, node: &Node) {
        let flag = |set: bool, event: Events| if set { event } else { Events::default() };
        self.news |= match self.cluster.set_node(&node.meta().name, intake::node(node)) {
            NodeChange::Nothing => Events::default(),
            NodeChange::Added => Events::NODE_ADDED,
            NodeChange::Updated { labels, taints, allocatable } => {
                flag(labels, Events::NODE_LABELS)
                    | flag(taints, Events::NODE_TAINTS)
                    | flag(allocatable, Events::NODE_ALLOCATABLE)
            }
        };
    }

    pub fn node_gone(&mut self, name: &str) {
        self.cluster.remove_node(name);
        // Fewer domains to spread over may let a pod fit.
        self.news |= Events::NODE_LABELS;
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
        match self.placer.place(&pod, &mut self.cluster) {
            Ok(slot) => {
                let node = self.cluster.node(slot).map(|node| node.name.clone()).unwrap_or_default();
                Some(Decision::Bind { pod, node })
            }
            Err(failure) => {
                let helped_by = match pod.shape.unsupported.is_empty() {
                    true => self.placer.profile().helped_by(failure.plugins()) | Events::NODE_ADDED,
                    false => Events::default(),
                };
                self.queue.wait_for(&pod.uid, helped_by, now);
                Some(Decision::Wait { pod, failure })
            }
        }
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
            shape: self.shapes.shared(intake::shape(pod)),
        })
    }
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
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use weir_proto::Resource;

    use super::*;

    fn read<R: Resource>(value: Value) -> R {
        let object = R::KIND.from_json(&value, &mut Vec::new()).unwrap();
        object.as_any().downcast_ref::<R>().unwrap().clone()
    }

    fn node(name: &str, cpu: &str) -> Node {
        let offers = json!({"cpu": cpu, "memory": "8Gi", "pods": "110"});
        read(json!({"metadata": {"name": name}, "status": {"allocatable": offers}}))
    }

    fn pod(name: &str, cpu: &str, spec: Value) -> Pod {
        let mut pod: Pod = read(json!({
            "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"schedulerName": "default-scheduler", "containers": [
                {"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        }));
        let more: Pod = read(json!({"spec": spec}));
        prost::Message::merge(pod.spec_mut(), &*prost::Message::encode_to_vec(more.spec())).unwrap();
        pod
    }

    fn scheduler(nodes: &[Node]) -> Scheduler {
        let mut scheduler = Scheduler::new("default-scheduler", Profile::default());
        nodes.iter().for_each(|node| scheduler.node(node));
        scheduler
    }

    /// "pod → node", or "pod: why not".
    fn decisions(scheduler: &mut Scheduler, now: Instant) -> Vec<String> {
        let decide = || scheduler.decide(now);
        std::iter::from_fn(decide)
            .map(|decision| match decision {
                Decision::Bind { pod, node } => format!("{} → {node}", pod.name),
                Decision::Wait { pod, failure } => format!("{}: {failure}", pod.name),
            })
            .collect()
    }

    #[test]
    fn pods_are_placed_where_most_is_free() {
        let mut scheduler = scheduler(&[node("n1", "4"), node("n2", "2")]);
        for name in ["a", "b", "c"] {
            scheduler.pod(&pod(name, "1", json!({})));
        }
        assert_eq!(decisions(&mut scheduler, Instant::now()), ["a → n1", "b → n2", "c → n1"]);
    }

    #[test]
    fn others_pods_gated_pods_and_dying_pods_are_left_alone() {
        let mut scheduler = scheduler(&[node("n1", "4")]);
        scheduler.pod(&pod("theirs", "1", json!({"schedulerName": "other"})));
        scheduler.pod(&pod("gated", "1", json!({"schedulingGates": [{"name": "wait"}]})));
        let mut dying = pod("dying", "1", json!({}));
        dying.meta_mut().deletion_timestamp = Some(weir_proto::meta::v1::Time::now());
        scheduler.pod(&dying);
        assert_eq!(decisions(&mut scheduler, Instant::now()), [""; 0]);
        scheduler.pod(&pod("gated", "1", json!({})));
        assert_eq!(decisions(&mut scheduler, Instant::now()), ["gated → n1"]);
    }

    #[test]
    fn a_pod_without_room_is_told_why_and_woken_by_room() {
        let mut scheduler = scheduler(&[node("n1", "1"), node("n2", "1")]);
        for (name, node) in [("x", "n1"), ("y", "n2")] {
            scheduler.pod(&pod(name, "1", json!({"nodeName": node})));
        }
        scheduler.pod(&pod("a", "500m", json!({})));
        let now = Instant::now();
        let expected = ["a: 0/2 nodes are available: 2 Insufficient cpu."];
        assert_eq!(decisions(&mut scheduler, now), expected);
        let later = now + Duration::from_secs(60);
        assert!(!scheduler.has_work(later));
        scheduler.pod_gone("y");
        assert!(scheduler.has_work(later));
        assert_eq!(decisions(&mut scheduler, later), ["a → n2"]);
    }

    #[test]
    fn finished_pods_free_their_room() {
        let mut scheduler = scheduler(&[node("n1", "1")]);
        let mut job = pod("job", "1", json!({"nodeName": "n1"}));
        scheduler.pod(&job);
        scheduler.pod(&pod("a", "1", json!({})));
        assert_eq!(decisions(&mut scheduler, Instant::now()).len(), 1);
        job.status_mut().phase = "Succeeded".to_owned();
        scheduler.pod(&job);
        assert_eq!(decisions(&mut scheduler, Instant::now() + Duration::from_secs(60)), ["a → n1"]);
    }

    #[test]
    fn an_assumed_pod_holds_its_room_until_its_binding_fails() {
        let mut scheduler = scheduler(&[node("n1", "1")]);
        let now = Instant::now();
        scheduler.pod(&pod("a", "1", json!({})));
        assert_eq!(decisions(&mut scheduler, now), ["a → n1"]);
        // Its status changes while it is being bound.
        scheduler.pod(&pod("a", "1", json!({})));
        scheduler.pod(&pod("b", "1", json!({})));
        assert_eq!(decisions(&mut scheduler, now), ["b: 0/1 nodes are available: 1 Insufficient cpu."]);
        scheduler.binding_failed("a", now);
        let later = now + Duration::from_secs(60);
        assert_eq!(
            decisions(&mut scheduler, later),
            ["a → n1", "b: 0/1 nodes are available: 1 Insufficient cpu."]
        );
        scheduler.bound("a");
        scheduler.pod(&pod("a", "1", json!({"nodeName": "n1"})));
        scheduler.pod_gone("a");
        assert_eq!(decisions(&mut scheduler, later + Duration::from_secs(60)), ["b → n1"]);
    }

    #[test]
    fn without_nodes_a_pod_waits_for_the_first() {
        let mut scheduler = scheduler(&[]);
        let now = Instant::now();
        scheduler.pod(&pod("a", "1", json!({})));
        assert_eq!(decisions(&mut scheduler, now), ["a: no nodes available to schedule pods"]);
        scheduler.node(&node("n1", "2"));
        assert_eq!(decisions(&mut scheduler, now + Duration::from_secs(60)), ["a → n1"]);
    }

    #[test]
    fn taking_everything_anew_drops_what_is_gone() {
        let mut scheduler = scheduler(&[node("n1", "1"), node("n2", "1")]);
        scheduler.pod(&pod("placed", "1", json!({"nodeName": "n1"})));
        scheduler.pod(&pod("waiting", "1", json!({})));
        scheduler.all_nodes(&[Arc::new(node("n1", "1"))]);
        scheduler.all_pods(&[Arc::new(pod("new", "1", json!({})))]);
        assert_eq!(decisions(&mut scheduler, Instant::now()), ["new → n1"]);
        assert_eq!(scheduler.cluster().candidate_count(), 1);
    }
}
