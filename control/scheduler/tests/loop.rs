//! The whole loop against an API server in memory.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use weir_client::fake::FakeServer;
use weir_client::{Informer, ObjectKey, informer};
use weir_proto::Resource;
use weir_proto::core::v1::{Event, Node, Pod, PodCondition};

const SOON: Duration = Duration::from_secs(20);

struct Cluster {
    server: FakeServer,
    pods: Informer<Pod>,
    events: Informer<Event>,
    _scheduler: DropGuard,
}

impl Cluster {
    fn start(nodes: &[(&str, &str)]) -> Self {
        let server = FakeServer::default();
        for (name, cpu) in nodes {
            add_node(&server, name, cpu);
        }
        let cancel = CancellationToken::new();
        tokio::spawn(weir_scheduler::run(server.client(), weir_scheduler::Config::default(), cancel.clone()));
        let pods = Informer::start(server.client().api(), informer::Options::default());
        let events = Informer::start(server.client().api(), informer::Options::default());
        Self { server, pods, events, _scheduler: cancel.drop_guard() }
    }

    fn add_pod(&self, name: &str, cpu: &str, more: Value) {
        let mut spec = json!({"schedulerName": "default-scheduler", "containers": [
            {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let metadata = json!({"name": name, "namespace": "default", "uid": format!("uid-{name}")});
        self.server.put::<Pod>(&read(json!({"metadata": metadata, "spec": spec})));
    }

    async fn node_of(&self, pod: &str) -> String {
        let bound = |pod: Option<&Pod>| pod.is_some_and(|pod| !pod.spec().node_name.is_empty());
        let key = ObjectKey::new("default", pod);
        self.pods.wait_for(&key, SOON, bound).await.unwrap_or_else(|_| panic!("{pod} was never bound"));
        self.pods.get("default", pod).unwrap().spec().node_name.clone()
    }

    /// The condition, once it is there and its reason is this.
    async fn condition(&self, pod: &str, reason: &str) -> PodCondition {
        let key = ObjectKey::new("default", pod);
        let told = |pod: Option<&Pod>| pod.and_then(condition).is_some_and(|found| found.reason == reason);
        self.pods.wait_for(&key, SOON, told).await.unwrap_or_else(|_| panic!("{pod} was never {reason}"));
        condition(&self.pods.get("default", pod).unwrap()).unwrap().clone()
    }

    async fn event(&self, pod: &str, reason: &str) -> String {
        let mut changes = self.events.subscribe();
        let found = || {
            let events = self.events.list();
            let about = |event: &&std::sync::Arc<Event>| {
                event.reason == reason
                    && event.involved_object.as_ref().is_some_and(|about| about.name == pod)
            };
            events.iter().find(about).map(|event| event.message.clone())
        };
        let wait = async {
            loop {
                if let Some(message) = found() {
                    return message;
                }
                changes.next().await;
            }
        };
        tokio::time::timeout(SOON, wait).await.unwrap_or_else(|_| panic!("no event {reason} about {pod}"))
    }
}

fn read<R: Resource>(value: Value) -> R {
    let object = R::KIND.from_json(&value, &mut Vec::new()).unwrap();
    object.as_any().downcast_ref::<R>().unwrap().clone()
}

fn add_node(server: &FakeServer, name: &str, cpu: &str) {
    let offers = json!({"cpu": cpu, "memory": "8Gi", "pods": "110"});
    server.put::<Node>(&read(json!({"metadata": {"name": name}, "status": {"allocatable": offers}})));
}

fn condition(pod: &Pod) -> Option<&PodCondition> {
    pod.status().conditions.iter().find(|condition| condition.r#type == "PodScheduled")
}

#[tokio::test]
async fn pods_are_bound_evenly_and_told_of_it() {
    let cluster = Cluster::start(&[("n1", "2"), ("n2", "2")]);
    for index in 0..4 {
        cluster.add_pod(&format!("web-{index}"), "500m", json!({}));
    }
    let mut nodes = Vec::new();
    for index in 0..4 {
        nodes.push(cluster.node_of(&format!("web-{index}")).await);
    }
    nodes.sort();
    assert_eq!(nodes, ["n1", "n1", "n2", "n2"]);
    let node = cluster.node_of("web-0").await;
    let message = cluster.event("web-0", "Scheduled").await;
    assert_eq!(message, format!("Successfully assigned default/web-0 to {node}"));
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_is_told_why_and_bound_once_it_fits() {
    let cluster = Cluster::start(&[("n1", "1"), ("n2", "2")]);
    cluster.add_pod("big", "3", json!({}));
    let condition = cluster.condition("big", "Unschedulable").await;
    assert_eq!(condition.status, "False");
    let expected = "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 Preemption is \
                    not helpful for scheduling.";
    assert_eq!(condition.message, expected);
    assert_eq!(cluster.event("big", "FailedScheduling").await, condition.message);
    add_node(&cluster.server, "n3", "4");
    assert_eq!(cluster.node_of("big").await, "n3");
}

#[tokio::test]
async fn a_pod_waits_for_its_gates() {
    let cluster = Cluster::start(&[("n1", "2")]);
    cluster.add_pod("gated", "1", json!({"schedulingGates": [{"name": "wait"}]}));
    cluster.condition("gated", "SchedulingGated").await;
    cluster.add_pod("gated", "1", json!({}));
    assert_eq!(cluster.node_of("gated").await, "n1");
}

#[tokio::test]
async fn a_binding_that_fails_is_made_again() {
    let cluster = Cluster::start(&[("n1", "2")]);
    cluster.server.refuse_writes(true);
    cluster.add_pod("web", "1", json!({}));
    cluster.add_pod("theirs", "1", json!({"schedulerName": "other"}));
    cluster.server.refuse_writes(false);
    assert_eq!(cluster.node_of("web").await, "n1");
    assert_eq!(cluster.pods.get("default", "theirs").unwrap().spec().node_name, "");
}

#[tokio::test]
async fn a_pod_that_needs_what_is_not_there_yet_is_refused_by_name() {
    let cluster = Cluster::start(&[("n1", "2")]);
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    cluster.add_pod("db", "1", json!({"volumes": volumes}));
    let condition = cluster.condition("db", "Unschedulable").await;
    let expected = "0/1 nodes are available: persistent volume claims are not supported yet. preemption: 0/1 nodes \
                    are available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(condition.message, expected);
}

#[tokio::test]
async fn a_pod_of_high_priority_gets_the_room_of_one_of_low_priority() {
    let cluster = Cluster::start(&[("n1", "1")]);
    cluster.add_pod("low", "1", json!({"priority": 1}));
    assert_eq!(cluster.node_of("low").await, "n1");
    cluster.add_pod("high", "1", json!({"priority": 10}));
    let nominated = |pod: Option<&Pod>| pod.is_some_and(|pod| pod.status().nominated_node_name == "n1");
    cluster.pods.wait_for(&ObjectKey::new("default", "high"), SOON, nominated).await.unwrap();
    let leaving = |pod: Option<&Pod>| pod.is_some_and(|pod| pod.meta().deletion_timestamp.is_some());
    cluster.pods.wait_for(&ObjectKey::new("default", "low"), SOON, leaving).await.unwrap();
    let low = cluster.pods.get("default", "low").unwrap();
    let told =
        low.status().conditions.iter().find(|condition| condition.r#type == "DisruptionTarget").unwrap();
    assert_eq!((&*told.status, &*told.reason), ("True", "PreemptionByScheduler"));
    assert_eq!(told.message, "default-scheduler: preempting to accommodate a higher priority pod");
    let high = cluster.pods.get("default", "high").unwrap().meta().uid.clone();
    assert_eq!(cluster.event("low", "Preempted").await, format!("Preempted by pod {high} on node n1"));
    let message = cluster.condition("high", "Unschedulable").await.message;
    assert_eq!(message, "0/1 nodes are available: 1 Insufficient cpu.");
    assert_eq!(cluster.pods.get("default", "high").unwrap().spec().node_name, "");
    // Its agent confirms that it has ended.
    cluster.server.remove::<Pod>("default", "low");
    assert_eq!(cluster.node_of("high").await, "n1");
}

#[tokio::test]
async fn a_pod_that_never_preempts_waits() {
    let cluster = Cluster::start(&[("n1", "1")]);
    cluster.add_pod("low", "1", json!({"priority": 1}));
    cluster.node_of("low").await;
    cluster.add_pod("patient", "1", json!({"priority": 10, "preemptionPolicy": "Never"}));
    let message = cluster.condition("patient", "Unschedulable").await.message;
    let expected = "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to \
                    preemptionPolicy=Never.";
    assert_eq!(message, expected);
    assert!(cluster.pods.get("default", "low").unwrap().meta().deletion_timestamp.is_none());
}
