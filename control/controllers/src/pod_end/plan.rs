//! Whether a pod that is to end may still be sent new connections. Pure.
//!
//! **Invariant:** a pod is said to take no new connections only when every node that is heard from holds a revision at
//! which all slices of the services that select it had already turned away from it.

use weir_client::ObjectKey;
use weir_proto::core::v1::{Node, Pod, PodCondition, Service};
use weir_proto::discovery::v1::{Endpoint, EndpointSlice};
use weir_proto::meta::v1::Time;
use weir_proto::net::v1alpha1::DataplaneNode;

pub(super) use crate::pods::NO_NEW_FLOWS;
use crate::{endpointslice, pods};

/// Nodes that a message names.
const NAMED: usize = 3;
/// When a pod has waited for so many seconds, people are told for whom.
const LATE: i64 = 2;

/// What nodes must hold before the pod takes no new connections.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Needed {
    /// This revision of the services, or a later one.
    Revision(i64),
    /// Slices of this service still have to say that the pod is going.
    Slices(String),
}

/// Whether the pod is to end and its node waits for our word.
pub(super) fn is_awaited(pod: &Pod) -> bool {
    let waits = pods::condition(pod, NO_NEW_FLOWS).is_some_and(|condition| condition.status != "True");
    waits && !pods::is_terminal(pod)
}

/// `services`: those that select the pod, each with the slices that the controllers made for it. (Slices of others are
/// not turned away from a pod by anybody.)
pub(super) fn needed<'a, S>(pod: &Pod, services: impl IntoIterator<Item = (&'a Service, S)>) -> Needed
where
    S: IntoIterator<Item = &'a EndpointSlice>,
{
    let mut revision = 0;
    for (service, slices) in services {
        let mut named = false;
        let mut taking = false;
        for slice in slices {
            for endpoint in slice.endpoints.iter().filter(|endpoint| is_of(endpoint, pod)) {
                named = true;
                taking |= takes_new_flows(endpoint);
            }
            // All of them: new backends may be in another slice than this pod, and must be known first.
            revision = revision.max(slice.meta().resource_version.parse().unwrap_or(i64::MAX));
        }
        // A pod that should be in a slice and is not: the slice that is about to be written may come from before the
        // pod's deletion.
        if taking || (!named && endpointslice::has_endpoint(service, pod)) {
            return Needed::Slices(service.meta().name.clone());
        }
    }
    Needed::Revision(revision)
}

/// Services without an address of their own are not the dataplane's.
pub(super) fn is_balanced(service: &Service) -> bool {
    service.spec().cluster_ip != "None"
}

/// The pods that a slice has turned away from while they end.
pub(super) fn leaving(slice: &EndpointSlice) -> impl Iterator<Item = ObjectKey> + '_ {
    let endpoints = slice.endpoints.iter().filter(|endpoint| !takes_new_flows(endpoint));
    endpoints.filter_map(|endpoint| {
        let target = endpoint.target_ref.as_ref()?;
        Some(ObjectKey::new(&target.namespace, &target.name))
    })
}

fn is_of(endpoint: &Endpoint, pod: &Pod) -> bool {
    endpoint.target_ref.as_ref().is_some_and(|target| target.uid == pod.meta().uid)
}

fn takes_new_flows(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.unwrap_or_default();
    conditions.ready.unwrap_or(true) && !conditions.terminating.unwrap_or(false)
}

/// The revision that a node's kernel holds; None for a node that is not waited for: it was not heard from for so long
/// that it counts as gone, or has yet to hold anything.
pub(super) fn held(node: &Node, dataplane: Option<&DataplaneNode>) -> Option<i64> {
    let ready = node.status().conditions.iter().find(|condition| condition.r#type == "Ready")?;
    let revision = dataplane.map(|dataplane| dataplane.status().revision);
    match ready.status.as_str() {
        "True" => Some(revision.unwrap_or(0)),
        // An agent that is starting, or cannot run pods: what its kernel was told before goes on.
        "False" => revision,
        _ => None,
    }
}

/// What to say of a pod, if it is not said already.
pub(super) fn word(pod: &Pod, needed: &Needed, nodes: &[(String, i64)], now: Time) -> Option<PodCondition> {
    let before = pods::condition(pod, NO_NEW_FLOWS)?;
    let message = match needed {
        Needed::Slices(service) => format!("the endpoints of service {service} still name this pod as ready"),
        Needed::Revision(revision) => {
            let mut behind: Vec<&str> =
                nodes.iter().filter(|(_, held)| held < revision).map(|(name, _)| name.as_str()).collect();
            if behind.is_empty() {
                return Some(PodCondition {
                    status: "True".to_owned(),
                    reason: "Acknowledged".to_owned(),
                    message: format!("every node holds revision {revision} of the services, or a later one"),
                    last_transition_time: Some(now),
                    ..before.clone()
                });
            }
            behind.sort_unstable();
            let count = behind.len();
            behind.truncate(NAMED);
            let names = behind.join(", ");
            let further = if count > NAMED { format!(" and {} more", count - NAMED) } else { String::new() };
            format!("not yet acknowledged by {names}{further}")
        }
    };
    // In the normal course of things it is over before anybody could read it.
    (is_late(before, now) && before.message != message).then(|| PodCondition { message, ..before.clone() })
}

fn is_late(asked: &PodCondition, now: Time) -> bool {
    asked.last_transition_time.is_some_and(|since| now.unix().saturating_sub(since.unix()) >= LATE)
}
