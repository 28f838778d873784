//! Priority classes, preemption and gates against a real API server, with a stand-in for the agents.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use weir_api::{Server, User};
use weir_client::{Client, DeleteOptions, Informer, Notice, ObjectKey, informer};
use weir_proto::Resource;
use weir_proto::core::v1::{Node, Pod};
use weir_proto::scheduling::v1::PriorityClass;

const SOON: Duration = Duration::from_secs(60);

struct Cluster {
    client: Client,
    pods: Informer<Pod>,
    cancel: CancellationToken,
    _server: Server,
    _dir: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Cluster {
    /// Nodes n1, n2, … of so many CPUs, and the classes `low` and `high`.
    async fn start(cpus: &[u32]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = weir_store::embedded::open(dir.path().join("store")).unwrap();
        let server = Server::new(Arc::new(store), weir_api::Config::new(dir.path())).unwrap();
        tokio::time::timeout(SOON, server.ready()).await.expect("the server gets ready");
        let client = Client::in_process(server.in_process(User::system("test")));
        for (index, cpus) in cpus.iter().enumerate() {
            let name = format!("n{}", index + 1);
            let node: Node = yaml(&format!("{{metadata: {{name: {name}}}}}"));
            client.api::<Node>().create(&node).await.unwrap();
            let status = format!(
                "{{metadata: {{name: {name}}}, status: {{allocatable: {{cpu: {cpus}, memory: 8Gi, pods: 110}}}}}}"
            );
            client
                .api::<Node>()
                .modify_status(&name, |node| node.status = yaml::<Node>(&status).status)
                .await
                .unwrap();
        }
        for (name, value) in [("low", 10), ("high", 1000)] {
            let class: PriorityClass = yaml(&format!("{{metadata: {{name: {name}}}, value: {value}}}"));
            client.api::<PriorityClass>().create(&class).await.unwrap();
        }
        let pods = Informer::start(client.api::<Pod>(), informer::Options::default());
        pods.synced().await;
        let cancel = CancellationToken::new();
        tokio::spawn(weir_scheduler::run(client.clone(), weir_scheduler::Config::default(), cancel.clone()));
        Self { client, pods, cancel, _server: server, _dir: dir }
    }

    async fn create(&self, name: &str, class: &str, cpu: u32, more: &str) -> Pod {
        let pod: Pod = yaml(&format!(
            "{{metadata: {{name: {name}, namespace: default, labels: {{app: {class}}}}}, spec: {{priorityClassName: {class}, \
             containers: [{{name: a, image: a, resources: {{requests: {{cpu: {cpu}}}}}}}], {more}}}}}"
        ));
        self.client.api::<Pod>().create(&pod).await.unwrap()
    }

    async fn until(&self, name: &str, what: &str, holds: impl Fn(&Pod) -> bool) -> Arc<Pod> {
        let key = ObjectKey::new("default", name);
        let waited = self.pods.wait_for(&key, SOON, |pod| pod.is_some_and(&holds)).await;
        assert!(waited.is_ok(), "{name} never was {what}: {:?}", self.pods.get("default", name));
        self.pods.get("default", name).unwrap()
    }

    async fn bound(&self, name: &str) -> String {
        self.until(name, "bound", |pod| !pod.spec().node_name.is_empty()).await.spec().node_name.clone()
    }

    /// What agents do: whoever is to end has ended.
    fn tend(&self) {
        let (client, mut changes, pods) = (self.client.clone(), self.pods.subscribe(), self.pods.clone());
        tokio::spawn(async move {
            loop {
                for pod in pods.list().iter().filter(|pod| pod.meta().deletion_timestamp.is_some()) {
                    let api = client.namespaced::<Pod>(&pod.meta().namespace);
                    let _ = api.delete(&pod.meta().name, &DeleteOptions::now(&pod.meta().uid)).await;
                }
                match changes.next().await {
                    Some(Notice::Changed(_) | Notice::Resync) => {}
                    None => return,
                }
            }
        });
    }
}

fn yaml<R: Resource>(text: &str) -> R {
    let documents = weir_proto::yaml::documents(text).unwrap();
    let mut unknown = Vec::new();
    let object = R::KIND.from_json(&documents[0].value, &mut unknown).unwrap();
    assert_eq!(unknown, Vec::<String>::new());
    object.downcast_ref::<R>().unwrap().clone()
}

fn leaving(pod: &Pod) -> bool {
    pod.meta().deletion_timestamp.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_cluster_makes_room_for_what_matters_more() {
    let cluster = Cluster::start(&[2, 2]).await;
    for index in 0..4 {
        cluster.create(&format!("low-{index}"), "low", 1, "").await;
    }
    for index in 0..4 {
        cluster.bound(&format!("low-{index}")).await;
    }
    let high = cluster.create("high", "high", 2, "terminationGracePeriodSeconds: 30").await;
    assert_eq!((high.spec().priority, high.spec().preemption_policy()), (Some(1000), "PreemptLowerPriority"));
    let high = cluster.until("high", "nominated", |pod| !pod.status().nominated_node_name.is_empty()).await;
    let node = high.status().nominated_node_name.clone();
    // Exactly those of one node leave, gracefully; the pod waits for them.
    for index in 0..4 {
        let name = format!("low-{index}");
        let low = cluster.pods.get("default", &name).unwrap();
        if low.spec().node_name == node {
            let low = cluster.until(&name, "told to leave", leaving).await;
            assert_eq!(low.meta().deletion_grace_period_seconds, Some(30));
            let reasons: Vec<_> = low.status().conditions.iter().map(|one| one.reason.as_str()).collect();
            assert!(reasons.contains(&"PreemptionByScheduler"), "{reasons:?}");
        }
    }
    assert!(cluster.pods.get("default", "high").unwrap().spec().node_name.is_empty());
    cluster.tend();
    assert_eq!(cluster.bound("high").await, node);
    let bound = cluster.until("high", "bound", |pod| pod.status().nominated_node_name.is_empty()).await;
    assert_eq!(bound.spec().node_name, node);
    let left =
        cluster.pods.list().iter().filter(|pod| pod.meta().name.starts_with("low") && !leaving(pod)).count();
    assert_eq!(left, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_matter_more_each_get_a_place_and_no_more_leave_than_have_to() {
    let cluster = Cluster::start(&[4, 4, 4]).await;
    cluster.tend();
    for index in 0..12 {
        cluster.create(&format!("low-{index}"), "low", 1, "").await;
    }
    for index in 0..12 {
        cluster.bound(&format!("low-{index}")).await;
    }
    for index in 0..6 {
        cluster.create(&format!("high-{index}"), "high", 1, "").await;
    }
    for index in 0..6 {
        cluster.bound(&format!("high-{index}")).await;
    }
    let low = cluster.client.api::<Pod>().list(&weir_client::ListOptions::default()).await.unwrap();
    let left = low.items.iter().filter(|pod| pod.meta().name.starts_with("low")).count();
    assert_eq!(left, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preemption_heeds_anti_affinity() {
    let cluster = Cluster::start(&[8]).await;
    cluster.tend();
    let node: Node = yaml("{metadata: {name: n1, labels: {zone: a}}}");
    let labels = node.meta().labels.clone();
    cluster.client.api::<Node>().modify("n1", |node| node.meta_mut().labels = labels.clone()).await.unwrap();
    cluster.create("low", "low", 1, "").await;
    cluster.create("other", "system-cluster-critical", 1, "").await;
    cluster.bound("low").await;
    cluster.bound("other").await;
    let away = "affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, \
                labelSelector: {matchLabels: {app: low}}}]}}";
    cluster.create("hermit", "high", 1, away).await;
    assert_eq!(cluster.bound("hermit").await, "n1");
    assert!(cluster.pods.get("default", "other").is_some_and(|pod| !leaving(&pod)));
    let key = ObjectKey::new("default", "low");
    cluster.pods.wait_for(&key, SOON, |pod| pod.is_none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gated_pod_waits_until_its_gate_is_gone() {
    let cluster = Cluster::start(&[2]).await;
    let gated = cluster.create("gated", "high", 1, "schedulingGates: [{name: wait}]").await;
    let cells = weir_proto::table::cells(&gated, weir_proto::meta::v1::Time::now(), false);
    assert_eq!(cells[2], "SchedulingGated");
    cluster.create("free", "low", 1, "").await;
    cluster.bound("free").await;
    assert!(cluster.pods.get("default", "gated").unwrap().spec().node_name.is_empty());
    cluster
        .client
        .api::<Pod>()
        .within("default")
        .modify("gated", |pod| pod.spec_mut().scheduling_gates.clear())
        .await
        .unwrap();
    assert_eq!(cluster.bound("gated").await, "n1");
}
