//! When a pod may be told to end: by table, and the invariant by property.

use proptest::prelude::*;
use weir_proto::core::v1::{Node, NodeCondition, ObjectReference, Pod, PodCondition, Service};
use weir_proto::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use weir_proto::meta::v1::Time;
use weir_proto::net::v1alpha1::{DataplaneNode, DataplaneNodeStatus};

use super::plan::{NO_NEW_FLOWS, Needed, held, is_awaited, leaving, needed, word};

const DELETED: i64 = 1_000;

fn pod() -> Pod {
    let mut pod = Pod::default();
    pod.meta_mut().name = "web-1".to_owned();
    pod.meta_mut().namespace = "ns".to_owned();
    pod.meta_mut().uid = "u1".to_owned();
    pod.meta_mut().deletion_timestamp = Some(Time::from_unix(DELETED + 30));
    pod.meta_mut().deletion_grace_period_seconds = Some(30);
    pod.status_mut().pod_ip = "10.32.0.1".to_owned();
    pod.status_mut().conditions = vec![PodCondition {
        r#type: NO_NEW_FLOWS.to_owned(),
        status: "False".to_owned(),
        last_transition_time: Some(Time::from_unix(DELETED)),
        ..PodCondition::default()
    }];
    pod
}

fn service() -> Service {
    let mut service = Service::default();
    service.meta_mut().name = "web".to_owned();
    service.spec_mut().cluster_ip = "10.96.0.7".to_owned();
    service
}

fn endpoint(uid: &str, ready: bool, terminating: bool) -> Endpoint {
    Endpoint {
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(true),
            terminating: Some(terminating),
        }),
        target_ref: Some(ObjectReference {
            namespace: "ns".to_owned(),
            name: format!("pod-{uid}"),
            uid: uid.to_owned(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

fn slice(revision: i64, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut slice = EndpointSlice { endpoints, ..EndpointSlice::default() };
    slice.meta_mut().resource_version = revision.to_string();
    slice
}

fn wanted(pod: &Pod, slices: &[EndpointSlice]) -> Needed {
    needed(pod, [(&service(), slices)])
}

fn node(ready: &str) -> Node {
    let mut node = Node::default();
    node.status_mut().conditions = vec![NodeCondition {
        r#type: "Ready".to_owned(),
        status: ready.to_owned(),
        ..NodeCondition::default()
    }];
    node
}

fn dataplane(revision: i64) -> DataplaneNode {
    let status = DataplaneNodeStatus { revision, ..DataplaneNodeStatus::default() };
    DataplaneNode { status: Some(status), ..DataplaneNode::default() }
}

fn said(needed: &Needed, nodes: &[(&str, i64)], after: i64) -> Option<(String, String)> {
    let nodes: Vec<_> = nodes.iter().map(|(name, held)| (name.to_string(), *held)).collect();
    let word = word(&pod(), needed, &nodes, Time::from_unix(DELETED + after))?;
    Some((word.status, word.message))
}

#[test]
fn only_marked_pods_that_have_not_ended_wait() {
    assert!(is_awaited(&pod()));
    let mut ended_by_its_node = pod();
    ended_by_its_node.meta_mut().deletion_timestamp = None;
    assert!(is_awaited(&ended_by_its_node));
    let mut ended = pod();
    ended.status_mut().phase = "Succeeded".to_owned();
    let mut released = pod();
    released.status_mut().conditions[0].status = "True".to_owned();
    let mut unmarked = pod();
    unmarked.status_mut().conditions.clear();
    for other in [ended, released, unmarked] {
        assert!(!is_awaited(&other), "{other:?}");
    }
}

#[test]
fn the_newest_slice_of_a_service_that_has_turned_away_is_what_nodes_must_hold() {
    let slices = [
        slice(7, vec![endpoint("u1", false, true)]),
        // The pod that takes its place is in another slice, written later.
        slice(9, vec![endpoint("u2", true, false)]),
    ];
    assert_eq!(wanted(&pod(), &slices), Needed::Revision(9));
    assert_eq!(wanted(&pod(), &slices[..1]), Needed::Revision(7));
    // As published: called ready, and not sent anything all the same.
    assert_eq!(wanted(&pod(), &[slice(8, vec![endpoint("u1", true, true)])]), Needed::Revision(8));
    assert_eq!(needed(&pod(), std::iter::empty::<(&Service, [&EndpointSlice; 0])>()), Needed::Revision(0));
}

#[test]
fn a_slice_that_still_names_the_pod_as_ready_or_should_name_it_is_waited_for() {
    let still = Needed::Slices("web".to_owned());
    assert_eq!(wanted(&pod(), &[slice(7, vec![endpoint("u1", true, false)])]), still);
    let twice = [slice(7, vec![endpoint("u1", false, true)]), slice(8, vec![endpoint("u1", true, false)])];
    assert_eq!(wanted(&pod(), &twice), still);
    assert_eq!(wanted(&pod(), &[slice(7, vec![endpoint("u2", true, false)])]), still);
    let mut without_address = pod();
    without_address.status_mut().pod_ip.clear();
    assert_eq!(wanted(&without_address, &[slice(7, Vec::new())]), Needed::Revision(7));
}

#[test]
fn a_slice_names_the_pods_that_it_turned_away_from() {
    let slice =
        slice(7, vec![endpoint("a", false, true), endpoint("b", true, false), endpoint("c", true, true)]);
    let names: Vec<_> = leaving(&slice).map(|key| key.to_string()).collect();
    assert_eq!(names, ["ns/pod-a", "ns/pod-c"]);
}

#[test]
fn nodes_that_count_as_gone_or_have_never_held_anything_are_not_waited_for() {
    let seven = dataplane(7);
    assert_eq!(held(&node("True"), Some(&seven)), Some(7));
    assert_eq!(held(&node("False"), Some(&seven)), Some(7), "its kernel goes on while its agent starts");
    assert_eq!(held(&node("Unknown"), Some(&seven)), None);
    assert_eq!(held(&node("True"), None), Some(0), "it is about to tell");
    assert_eq!(held(&node("False"), None), None);
    assert_eq!(held(&Node::default(), Some(&seven)), None);
}

#[test]
fn the_word_is_given_once_every_node_holds_the_revision_and_names_who_is_late() {
    let needed = Needed::Revision(9);
    let given = said(&needed, &[("a", 9), ("b", 12)], 0);
    assert_eq!(given.map(|(status, _)| status).as_deref(), Some("True"));
    assert_eq!(said(&needed, &[], 0).map(|(status, _)| status).as_deref(), Some("True"));
    assert_eq!(said(&needed, &[("a", 9), ("b", 8)], 0), None);
    let late = said(&needed, &[("e", 1), ("b", 8), ("c", 8), ("d", 8), ("a", 9)], 3);
    let message = "not yet acknowledged by b, c, d and 1 more".to_owned();
    assert_eq!(late, Some(("False".to_owned(), message)));
    let slices = said(&Needed::Slices("web".to_owned()), &[("a", 9)], 3);
    assert_eq!(slices.unwrap().1, "the endpoints of service web still name this pod as ready");
}

proptest! {
    /// Whatever the order of writes and acknowledgements: once the word is given, every node holds a revision at which
    /// the pod took no new connections.
    #[test]
    fn no_node_is_behind_when_the_word_is_given(
        turned in 1..20i64,
        slices in prop::collection::vec((1..30i64, any::<bool>()), 1..4),
        nodes in prop::collection::vec(0..40i64, 0..5),
    ) {
        let slices: Vec<EndpointSlice> = slices
            .into_iter()
            .map(|(revision, names)| {
                let endpoints = if names { vec![endpoint("u1", revision < turned, revision >= turned)] } else { vec![] };
                slice(revision, endpoints)
            })
            .collect();
        let names: Vec<(String, i64)> = nodes.iter().enumerate().map(|(index, held)| (index.to_string(), *held)).collect();
        let needed = wanted(&pod(), &slices);
        let word = word(&pod(), &needed, &names, Time::from_unix(DELETED));
        if word.is_some_and(|word| word.status == "True") {
            prop_assert!(nodes.iter().all(|held| *held >= turned), "turned away at {turned}: {nodes:?}");
        }
    }
}
