//! ReplicaSet plans by property, and the whole loop against the API server in memory.

use std::time::Duration;

use proptest::prelude::*;
use tokio_util::sync::CancellationToken;
use weir_client::fake::FakeServer;
use weir_client::{Informer, Notice, ObjectKey};
use weir_proto::apps::v1::ReplicaSet;
use weir_proto::core::v1::{Event, Pod, PodCondition, PodTemplateSpec};
use weir_proto::meta::v1::{LabelSelector, ObjectMeta, Time};

use super::plan::{Observed, Plan, plan, status};
use crate::caches::Caches;
use crate::runner::Next;
use crate::{owners, pods};

const NOW: i64 = 1_000_000;

fn set(replicas: i32) -> ReplicaSet {
    let labels = [("app".to_owned(), "web".to_owned())];
    let mut set = ReplicaSet::default();
    set.meta_mut().name = "web-1".to_owned();
    set.meta_mut().namespace = "ns".to_owned();
    set.meta_mut().uid = "set".to_owned();
    let spec = set.spec_mut();
    spec.replicas = Some(replicas);
    spec.selector = Some(LabelSelector { match_labels: labels.clone().into(), ..LabelSelector::default() });
    let metadata = ObjectMeta { labels: labels.into(), ..ObjectMeta::default() };
    spec.template = Some(PodTemplateSpec { metadata: Some(metadata), ..PodTemplateSpec::default() });
    set
}

#[derive(Debug, Clone)]
struct Shape {
    phase: &'static str,
    ready: bool,
    scheduled: bool,
    terminating: bool,
}

fn pod(index: usize, shape: &Shape) -> Pod {
    let mut pod = Pod::default();
    pod.meta_mut().name = format!("web-1-{index}");
    pod.meta_mut().namespace = "ns".to_owned();
    pod.meta_mut().labels.insert("app".to_owned(), "web".to_owned());
    pod.meta_mut().deletion_timestamp = shape.terminating.then(|| Time::from_unix(NOW));
    pod.spec_mut().node_name = if shape.scheduled { format!("n{}", index % 3) } else { String::new() };
    pod.status_mut().phase = shape.phase.to_owned();
    pod.status_mut().conditions = vec![PodCondition {
        r#type: "Ready".to_owned(),
        status: if shape.ready { "True" } else { "False" }.to_owned(),
        last_transition_time: Some(Time::from_unix(NOW - 10)),
        ..PodCondition::default()
    }];
    pod
}

fn shape() -> impl Strategy<Value = Shape> {
    let phase = prop::sample::select(vec!["Pending", "Running", "Succeeded", "Failed", "Unknown"]);
    (phase, any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(phase, ready, scheduled, terminating)| Shape { phase, ready, scheduled, terminating })
}

proptest! {
    #[test]
    fn a_plan_makes_up_the_difference_once_and_takes_the_ready_last(
        wanted in 0i32..20,
        shapes in proptest::collection::vec(shape(), 0..30),
    ) {
        let set = set(wanted);
        let mut all: Vec<Pod> = shapes.iter().enumerate().map(|(i, shape)| pod(i, shape)).collect();
        let observed: Vec<&Pod> = all.iter().collect();
        let planned = plan(&Observed { set: &set, pods: &observed, related: &[] }, Time::from_unix(NOW));
        let active = all.iter().filter(|pod| pods::is_active(pod)).count();
        prop_assert!(planned.create == 0 || planned.delete.is_empty());
        prop_assert_eq!(active + planned.create - planned.delete.len(), wanted as usize);
        let gone: Vec<String> = planned.delete.iter().map(|pod| pod.meta().name.clone()).collect();
        prop_assert!(planned.delete.iter().all(|pod| pods::is_active(pod)), "one goes that was going anyway");
        let better = |pod: &Pod| pods::is_ready(pod) && pod.status().phase == "Running" && !pod.spec().node_name.is_empty();
        let takes_good = planned.delete.iter().any(|pod| better(pod));
        let keeps_bad = all.iter().any(|pod| {
            pods::is_active(pod) && pod.spec().node_name.is_empty() && !gone.contains(&pod.meta().name)
        });
        prop_assert!(!(takes_good && keeps_bad), "a serving pod goes while one stays that never ran");

        let create = planned.create;
        all.retain(|pod| !gone.contains(&pod.meta().name));
        let fresh = Shape { phase: "Pending", ready: false, scheduled: false, terminating: false };
        all.extend((0..create).map(|index| pod(1000 + index, &fresh)));
        let observed: Vec<&Pod> = all.iter().collect();
        let again = plan(&Observed { set: &set, pods: &observed, related: &[] }, Time::from_unix(NOW));
        prop_assert_eq!(again, Plan::default());
    }
}

#[test]
fn a_pod_is_available_after_it_was_ready_for_long_enough() {
    let mut set = set(1);
    set.spec_mut().min_ready_seconds = 30;
    let pod = pod(0, &Shape { phase: "Running", ready: true, scheduled: true, terminating: false });
    let observed = Observed { set: &set, pods: &[&pod], related: &[] };
    let (status_now, next) = status(&observed, None, Time::from_unix(NOW));
    assert_eq!((status_now.ready_replicas, status_now.available_replicas), (1, 0));
    assert_eq!(next, Next::After(Duration::from_secs(20)));
    let (later, next) = status(&observed, None, Time::from_unix(NOW + 20));
    assert_eq!((later.available_replicas, next), (1, Next::Change));
}

/// Waits until `holds` is true of the pods that there are.
async fn until(pods: &Informer<Pod>, holds: impl Fn(&[Pod]) -> bool) {
    let mut changes = pods.subscribe();
    let wait = async {
        loop {
            let now: Vec<Pod> = pods.list().iter().map(|pod| pod.as_ref().clone()).collect();
            if holds(&now) {
                return;
            }
            let notice: Option<Notice<Pod>> = changes.next().await;
            assert!(notice.is_some());
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the pods never were as expected");
}

#[tokio::test]
async fn the_loop_creates_adopts_releases_and_deletes() {
    let server = FakeServer::default();
    let client = server.client();
    let caches = Caches::start(&client);
    caches.synced().await;
    let cancel = CancellationToken::new();
    let running = tokio::spawn(super::runner(&client, &caches, 2).run(cancel.clone()));

    // Nobody's pod with our labels, and somebody else's.
    let fresh = Shape { phase: "Running", ready: true, scheduled: true, terminating: false };
    let orphan = pod(1, &fresh);
    let mut foreign = pod(2, &fresh);
    let mut owner = ReplicaSet::default();
    owner.meta_mut().uid = "another".to_owned();
    foreign.meta_mut().owner_references = vec![owners::controller_reference(&owner)];
    server.put(&orphan);
    server.put(&foreign);
    server.put(&set(3));

    let ours = |pods: &[Pod]| pods.iter().filter(|p| owners::is_controlled_by(p.meta(), "set")).count();
    until(&caches.pods, |pods| ours(pods) == 3).await;
    assert_eq!(server.list::<Pod>().len(), 4, "two were made, one adopted");

    // Its label goes: it is let go, and another one is made.
    let mut adopted = server.get::<Pod>("ns", "web-1-1").unwrap();
    assert!(owners::is_controlled_by(adopted.meta(), "set"));
    adopted.meta_mut().labels.clear();
    server.put(&adopted);
    until(&caches.pods, |pods| ours(pods) == 3 && pods.len() == 5).await;
    assert!(server.get::<Pod>("ns", "web-1-1").unwrap().meta().owner_references.is_empty());

    let mut set = server.get::<ReplicaSet>("ns", "web-1").unwrap();
    set.spec_mut().replicas = Some(1);
    server.put(&set);
    until(&caches.pods, |pods| ours(pods) == 1).await;
    assert!(server.get::<Pod>("ns", "web-1-2").is_some(), "somebody else's pod is gone");
    cancel.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn pods_that_are_refused_are_asked_for_once_at_a_time_and_reported() {
    let server = FakeServer::default();
    server.refuse_creation::<Pod>();
    let client = server.client();
    let caches = Caches::start(&client);
    caches.synced().await;
    let cancel = CancellationToken::new();
    let running = tokio::spawn(super::runner(&client, &caches, 2).run(cancel.clone()));
    server.put(&set(100));
    let failed = |set: Option<&ReplicaSet>| {
        set.is_some_and(|set| {
            set.status().conditions.iter().any(|condition| condition.reason == "FailedCreate")
        })
    };
    let soon = Duration::from_secs(20);
    caches.replica_sets.wait_for(&ObjectKey::new("ns", "web-1"), soon, failed).await.unwrap();
    assert!(server.refusals() < 10, "{} pods were asked for at once", server.refusals());
    let set = server.get::<ReplicaSet>("ns", "web-1").unwrap();
    assert!(set.status().conditions[0].message.contains("exceeded quota"));

    let events = Informer::start(client.api::<Event>(), weir_client::informer::Options::default());
    let mut changes = events.subscribe();
    let told = async {
        while !events.list().iter().any(|event| event.reason == "FailedCreate") {
            changes.next().await;
        }
    };
    tokio::time::timeout(soon, told).await.expect("no event tells of it");
    cancel.cancel();
    running.await.unwrap();
}
