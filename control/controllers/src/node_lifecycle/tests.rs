//! Node plans by table and by property, and the whole loop against the API server in memory.

use std::time::Duration;

use proptest::prelude::*;
use tokio_util::sync::CancellationToken;
use weir_client::ObjectKey;
use weir_client::fake::FakeServer;
use weir_proto::core::v1::{Node, NodeCondition, Pod, PodCondition, Taint, Toleration};
use weir_proto::meta::v1::Time;

use super::plan::{NO_EXECUTE, NOT_READY, Observed, UNREACHABLE, plan};
use crate::caches::Caches;
use crate::runner::Next;

const NOW: i64 = 1_000_000;
const GRACE: Duration = Duration::from_secs(40);
const SOON: Duration = Duration::from_secs(20);

fn node(conditions: &[(&str, &str)]) -> Node {
    let mut node = Node::default();
    node.meta_mut().name = "n1".to_owned();
    let condition = |(kind, status): &(&str, &str)| NodeCondition {
        r#type: (*kind).to_owned(),
        status: (*status).to_owned(),
        ..NodeCondition::default()
    };
    node.status_mut().conditions = conditions.iter().map(condition).collect();
    node
}

fn observed(node: &Node, silent_for: u64, evict_from: Option<i64>) -> Observed<'_> {
    Observed {
        node,
        silent_for: Duration::from_secs(silent_for),
        grace: GRACE,
        evict_from: evict_from.map(Time::from_unix),
    }
}

fn taints(node: &Node, silent_for: u64, evict_from: Option<i64>) -> Vec<(String, String)> {
    let planned = plan(&observed(node, silent_for, evict_from), Time::from_unix(NOW)).taints;
    let taints = planned.unwrap_or_else(|| node.spec().taints.clone());
    taints.into_iter().map(|taint| (taint.key, taint.effect)).collect()
}

fn pair(key: &str, effect: &str) -> (String, String) {
    (key.to_owned(), effect.to_owned())
}

#[test]
fn taints_follow_from_conditions() {
    let up = node(&[("Ready", "True")]);
    assert_eq!(taints(&up, 0, Some(0)), []);
    let down = [pair(NOT_READY, "NoSchedule"), pair(NOT_READY, NO_EXECUTE)];
    assert_eq!(taints(&node(&[("Ready", "False")]), 0, Some(0)), down);
    let gone = [pair(UNREACHABLE, "NoSchedule"), pair(UNREACHABLE, NO_EXECUTE)];
    assert_eq!(taints(&up, 40, Some(0)), gone);
    let full = node(&[("Ready", "True"), ("DiskPressure", "True"), ("MemoryPressure", "False")]);
    assert_eq!(taints(&full, 0, Some(0)), [pair("node.kubernetes.io/disk-pressure", "NoSchedule")]);
    let mut cordoned = up.clone();
    cordoned.spec_mut().unschedulable = true;
    assert_eq!(taints(&cordoned, 0, Some(0)), [pair("node.kubernetes.io/unschedulable", "NoSchedule")]);
}

#[test]
fn a_silent_node_is_unknown_and_a_node_that_speaks_again_is_left_to_its_agent() {
    let up = node(&[("Ready", "True")]);
    let at = Time::from_unix(NOW);
    let early = plan(&observed(&up, 39, Some(0)), at);
    assert_eq!((early.conditions.is_none(), early.next), (true, Next::After(Duration::from_secs(1))));
    let late = plan(&observed(&up, 40, Some(0)), at);
    assert!(late.unreachable);
    let conditions = late.conditions.unwrap();
    assert_eq!(conditions.len(), 4);
    assert!(conditions.iter().all(|condition| condition.status == "Unknown"));
    assert_eq!(conditions[0].last_transition_time, Some(at));
    assert_eq!(conditions[1].reason, "NodeStatusNeverUpdated");
}

#[test]
fn nobody_is_driven_off_while_too_much_is_down_and_those_driven_before_may_stay() {
    let mut down = node(&[("Ready", "Unknown")]);
    assert_eq!(taints(&down, 100, None), [pair(UNREACHABLE, "NoSchedule")]);
    let waiting = plan(&observed(&down, 100, Some(NOW + 7)), Time::from_unix(NOW));
    assert_eq!(waiting.next, Next::After(Duration::from_secs(7)));
    down.spec_mut().taints =
        vec![Taint { key: UNREACHABLE.to_owned(), effect: NO_EXECUTE.to_owned(), ..Taint::default() }];
    assert_eq!(taints(&down, 100, None), [pair(UNREACHABLE, "NoSchedule")]);
}

#[test]
fn taints_of_users_are_left_alone() {
    let mut up = node(&[("Ready", "True")]);
    let own = Taint { key: "dedicated".to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    let stale = Taint { key: NOT_READY.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    up.spec_mut().taints = vec![own, stale];
    assert_eq!(taints(&up, 0, Some(0)), [pair("dedicated", "NoSchedule")]);
}

proptest! {
    #[test]
    fn a_plan_that_was_performed_leaves_nothing_to_do(
        conditions in proptest::collection::btree_map(
            prop::sample::select(vec!["Ready", "MemoryPressure", "DiskPressure", "NetworkUnavailable", "Own"]),
            prop::sample::select(vec!["True", "False", "Unknown"]),
            0..5,
        ),
        keys in proptest::collection::btree_set(
            (prop::sample::select(vec![NOT_READY, UNREACHABLE, "own"]), prop::sample::select(vec!["NoSchedule", NO_EXECUTE])),
            0..5,
        ),
        unschedulable in any::<bool>(),
        silent in 0u64..80,
        evict_from in proptest::option::of(NOW - 20..NOW + 20),
    ) {
        let conditions: Vec<(&str, &str)> = conditions.into_iter().collect();
        let mut node = node(&conditions);
        node.spec_mut().unschedulable = unschedulable;
        node.spec_mut().taints = keys
            .iter()
            .map(|(key, effect)| Taint { key: (*key).to_owned(), effect: (*effect).to_owned(), ..Taint::default() })
            .collect();
        let own = |node: &Node| node.spec().taints.iter().filter(|taint| taint.key == "own").count();
        let before = own(&node);
        let planned = plan(&observed(&node, silent, evict_from), Time::from_unix(NOW));
        if let Some(conditions) = planned.conditions {
            node.status_mut().conditions = conditions;
        }
        if let Some(taints) = planned.taints {
            node.spec_mut().taints = taints;
        }
        prop_assert_eq!(own(&node), before);
        let again = plan(&observed(&node, silent, evict_from), Time::from_unix(NOW));
        prop_assert_eq!((again.conditions, again.taints), (None, None));
    }
}

fn pod(name: &str, tolerations: Vec<Toleration>) -> Pod {
    let mut pod = Pod::default();
    pod.meta_mut().name = name.to_owned();
    pod.meta_mut().namespace = "ns".to_owned();
    pod.spec_mut().node_name = "n1".to_owned();
    pod.spec_mut().tolerations = tolerations;
    let ready =
        PodCondition { r#type: "Ready".to_owned(), status: "True".to_owned(), ..PodCondition::default() };
    pod.status_mut().conditions = vec![ready];
    pod
}

#[tokio::test]
async fn pods_of_a_silent_node_become_unready_and_those_that_tolerate_it_not_at_all_go() {
    let server = FakeServer::default();
    let client = server.client();
    let mut healthy = node(&[("Ready", "True")]);
    healthy.meta_mut().name = "n2".to_owned();
    healthy.status_mut().conditions[0].last_heartbeat_time = Some(Time::from_unix(NOW));
    server.put(&node(&[("Ready", "Unknown")]));
    server.put(&healthy);
    server.put(&pod("stays", Vec::new()));
    let impatient = Toleration {
        key: UNREACHABLE.to_owned(),
        operator: "Exists".to_owned(),
        toleration_seconds: Some(0),
        ..Toleration::default()
    };
    server.put(&pod("goes", vec![impatient]));

    let caches = Caches::start(&client);
    caches.synced().await;
    let cancel = CancellationToken::new();
    let running =
        tokio::spawn(super::runner(&client, &caches, 2, Duration::from_secs(3600)).run(cancel.clone()));
    let going = |pod: Option<&Pod>| pod.is_none_or(|pod| pod.meta().deletion_timestamp.is_some());
    caches.pods.wait_for(&ObjectKey::new("ns", "goes"), SOON, going).await.unwrap();
    let unready = |pod: Option<&Pod>| pod.is_some_and(|pod| !crate::pods::is_ready(pod) && !going(Some(pod)));
    caches.pods.wait_for(&ObjectKey::new("ns", "stays"), SOON, unready).await.unwrap();
    let node = server.get::<Node>("", "n1").unwrap();
    assert!(node.spec().taints.iter().any(|taint| taint.key == UNREACHABLE && taint.effect == NO_EXECUTE));
    cancel.cancel();
    running.await.unwrap();
}
