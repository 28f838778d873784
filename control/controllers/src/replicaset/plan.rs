//! How many pods a ReplicaSet is to create, which it is to delete, and its status. Pure.
//!
//! **Invariant:** it names only pods that the set controls; a plan either creates or deletes, never both.

use std::time::Duration;

use weir_proto::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use weir_proto::core::v1::Pod;
use weir_proto::meta::v1::Time;

use super::rank;
use crate::pods;
use crate::runner::Next;

/// At most this many pods are created or deleted at a time.
pub(super) const BURST: usize = 500;
const FAILURE: &str = "ReplicaFailure";

#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub(super) set: &'a ReplicaSet,
    /// Those that the set controls, in any state.
    pub(super) pods: &'a [&'a Pod],
    /// All pods of the same owner's other sets too, active ones: they tell how crowded a node is.
    pub(super) related: &'a [&'a Pod],
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan<'a> {
    pub(super) create: usize,
    pub(super) delete: Vec<&'a Pod>,
}

impl Plan<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.create == 0 && self.delete.is_empty()
    }
}

fn wanted(set: &ReplicaSet) -> usize {
    set.spec().replicas.unwrap_or(1).max(0) as usize
}

/// Some of these pods are to go.
pub(super) fn has_excess(set: &ReplicaSet, pods: &[&Pod]) -> bool {
    pods.iter().filter(|pod| pods::is_active(pod)).count() > wanted(set)
}

pub(super) fn plan<'a>(observed: &Observed<'a>, now: Time) -> Plan<'a> {
    if observed.set.meta().deletion_timestamp.is_some() {
        return Plan::default();
    }
    let active: Vec<&Pod> = observed.pods.iter().copied().filter(|pod| pods::is_active(pod)).collect();
    let wanted = wanted(observed.set);
    if active.len() < wanted {
        return Plan { create: (wanted - active.len()).min(BURST), delete: Vec::new() };
    }
    let excess = (active.len() - wanted).min(BURST);
    Plan {
        create: 0,
        delete: rank::first_to_go(active, observed.related, now).into_iter().take(excess).collect(),
    }
}

/// What went wrong while a plan was performed.
#[derive(Debug)]
pub(super) struct Failure {
    /// "FailedCreate", "FailedDelete".
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The status that the observed pods make, and when time alone will change it.
pub(super) fn status(
    observed: &Observed<'_>,
    failure: Option<&Failure>,
    now: Time,
) -> (ReplicaSetStatus, Next) {
    let set = observed.set;
    let min_ready = set.spec().min_ready_seconds;
    let active = || observed.pods.iter().filter(|pod| pods::is_active(pod));
    let count = |holds: &dyn Fn(&Pod) -> bool| active().filter(|pod| holds(pod)).count() as i32;
    let template_labels =
        set.spec().template.as_ref().and_then(|template| template.metadata.as_ref()).map(|meta| &meta.labels);
    let labelled = |pod: &Pod| {
        template_labels.is_none_or(|wanted| wanted.iter().all(|(k, v)| pod.meta().labels.get(k) == Some(v)))
    };
    let status = ReplicaSetStatus {
        observed_generation: set.meta().generation,
        replicas: active().count() as i32,
        fully_labeled_replicas: count(&labelled),
        ready_replicas: count(&pods::is_ready),
        available_replicas: count(&|pod| pods::is_available(pod, min_ready, now)),
        terminating_replicas: None,
        conditions: conditions(set, failure, now),
    };
    let soon = active().filter_map(|pod| pods::available_at(pod, min_ready)).filter(|at| *at > now.unix());
    let next = Next::earliest(soon.map(|at| Duration::from_secs((at - now.unix()) as u64)));
    (status, next)
}

fn conditions(set: &ReplicaSet, failure: Option<&Failure>, now: Time) -> Vec<ReplicaSetCondition> {
    let before = &set.status().conditions;
    let others = before.iter().filter(|condition| condition.r#type != FAILURE).cloned();
    let mut conditions: Vec<_> = others.collect();
    if let Some(failure) = failure {
        let same = before.iter().find(|old| old.r#type == FAILURE && old.reason == failure.reason);
        conditions.push(ReplicaSetCondition {
            r#type: FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: failure.reason.to_owned(),
            message: failure.message.clone(),
            last_transition_time: same.map_or(Some(now), |old| old.last_transition_time),
        });
    }
    conditions
}
