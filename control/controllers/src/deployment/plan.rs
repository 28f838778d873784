//! What a deployment's ReplicaSets and status should be now. Pure: the same observation gives the same plan.
//!
//! **Invariant:** performing a plan and planning again without any pod having changed gives an empty plan.

use std::collections::BTreeMap;

use weir_proto::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use weir_proto::meta::v1::Time;

use super::limits::{self, Limits};
use super::sets::{self, Sets, resize, wanted};
use super::{proportional, rolling, status};
use crate::runner::Next;

#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub(super) deployment: &'a Deployment,
    /// Those that the deployment controls.
    pub(super) sets: &'a [ReplicaSet],
    /// Pods that have not ended yet, terminating ones included, by the uid of their set. Read only for Recreate.
    pub(super) running: BTreeMap<String, usize>,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) create: Option<ReplicaSet>,
    /// As they are to be; their resourceVersion is what was observed.
    pub(super) update: Vec<ReplicaSet>,
    pub(super) delete: Vec<ReplicaSet>,
    /// For the deployment's annotation, where it is not that already.
    pub(super) revision: Option<i64>,
    /// Where it is not that already.
    pub(super) status: Option<DeploymentStatus>,
    /// Sizes that change: name, from, to.
    pub(super) resized: Vec<(String, i32, i32)>,
    pub(super) next: Next,
}

impl Plan {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.create.is_none()
            && self.update.is_empty()
            && self.delete.is_empty()
            && self.revision.is_none()
            && self.status.is_none()
    }
}

pub(super) fn plan(observed: &Observed<'_>, now: Time) -> Plan {
    let deployment = observed.deployment;
    let limits = Limits::of(deployment);
    let mut sets = Sets::split(deployment, observed.sets);
    let going = deployment.meta().deletion_timestamp.is_some();
    if !going {
        shape(observed, &mut sets, limits);
    }
    let status = status::status(deployment, &sets, limits, now);
    let delete = if going { Vec::new() } else { history(deployment, &sets, &status) };
    let update: Vec<ReplicaSet> = sets
        .all()
        .filter(|set| observed.sets.iter().any(|before| same(before, set) && before != *set))
        .cloned()
        .collect();
    let revision = sets.new.as_ref().map(|new| sets::revision(new.meta()));
    let until_stuck = status::until_stuck(deployment, &status, now);
    Plan {
        resized: resized(observed.sets, &sets),
        revision: revision.filter(|revision| !going && *revision != sets::revision(deployment.meta())),
        create: sets.new.filter(|_| sets.created),
        update,
        delete,
        status: (status != *deployment.status()).then_some(status),
        next: Next::earliest(until_stuck),
    }
}

/// Brings the sets to where they should be next.
fn shape(observed: &Observed<'_>, sets: &mut Sets, limits: Limits) {
    let deployment = observed.deployment;
    let recreates = limits::is_recreate(deployment);
    if deployment.spec().paused {
        sets.number(deployment);
        proportional::scale(sets, limits, !recreates);
    } else if recreates {
        recreate(observed, sets, limits);
    } else {
        if proportional::is_due(sets, limits) {
            proportional::scale(sets, limits, true);
        }
        if sets.new.is_none() {
            sets.create(deployment);
        }
        sets.number(deployment);
        rolling::step(sets, limits);
    }
}

/// Nothing new before everything old is gone.
fn recreate(observed: &Observed<'_>, sets: &mut Sets, limits: Limits) {
    let mut shrunk = false;
    for set in sets.old.iter_mut().filter(|set| wanted(set) > 0) {
        resize(set, 0, limits);
        shrunk = true;
    }
    let running = |set: &ReplicaSet| {
        set.status().replicas > 0 || observed.running.get(&set.meta().uid).is_some_and(|count| *count > 0)
    };
    if shrunk || sets.old.iter().any(running) {
        sets.number(observed.deployment);
        return;
    }
    if sets.new.is_none() {
        sets.create(observed.deployment);
    }
    sets.number(observed.deployment);
    if let Some(new) = &mut sets.new {
        resize(new, limits.replicas, limits);
    }
}

/// Old sets beyond the history limit, oldest first, once nothing depends on them.
fn history(deployment: &Deployment, sets: &Sets, status: &DeploymentStatus) -> Vec<ReplicaSet> {
    if !status::is_complete(deployment, status) && !deployment.spec().paused {
        return Vec::new();
    }
    let limit = deployment.spec().revision_history_limit.unwrap_or(10).max(0) as usize;
    let idle = |set: &&ReplicaSet| {
        wanted(set) == 0
            && set.status().replicas == 0
            && set.status().observed_generation >= set.meta().generation
            && set.meta().deletion_timestamp.is_none()
    };
    let mut idle: Vec<&ReplicaSet> = sets.old.iter().filter(idle).collect();
    // A rollback makes an old set the newest: the revision tells, not the age.
    idle.sort_by_key(|set| sets::revision(set.meta()));
    let excess = sets.old.len().saturating_sub(limit).min(idle.len());
    idle.into_iter().take(excess).cloned().collect()
}

fn resized(before: &[ReplicaSet], sets: &Sets) -> Vec<(String, i32, i32)> {
    let change = |set: &ReplicaSet| {
        let from = before.iter().find(|before| same(before, set)).map_or(0, wanted);
        let to = wanted(set);
        (from != to).then(|| (set.meta().name.clone(), from, to))
    };
    sets.all().filter_map(change).collect()
}

fn same(a: &ReplicaSet, b: &ReplicaSet) -> bool {
    a.meta().name == b.meta().name
}
