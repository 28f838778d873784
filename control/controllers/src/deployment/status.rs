//! The deployment's status: counts, and the conditions Available, Progressing and ReplicaFailure as Kubernetes
//! words them (`kubectl rollout status` reads them).

use std::time::Duration;

use weir_proto::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use weir_proto::meta::v1::Time;

use super::limits::Limits;
use super::sets::{Sets, wanted};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
/// Kubernetes' way to say that there is none.
const NO_DEADLINE: i32 = i32::MAX;

/// The new set could not be made.
pub(super) fn create_failed(
    deployment: &Deployment,
    name: &str,
    reason: &str,
    now: Time,
) -> DeploymentStatus {
    let mut status = deployment.status().clone();
    if deadline(deployment).is_some() {
        let message = format!("Failed to create new replica set {name:?}: {reason}");
        set(&mut status, condition(PROGRESSING, "False", "ReplicaSetCreateError", &message), now);
    }
    status
}

/// What the status is to be, once `sets` are as the plan wants them.
pub(super) fn status(deployment: &Deployment, sets: &Sets, limits: Limits, now: Time) -> DeploymentStatus {
    let before = deployment.status();
    let mut status = counts(deployment, sets);
    status.conditions = before.conditions.clone();
    status.collision_count = before.collision_count;
    let available = available(&status, limits);
    set(&mut status, available, now);
    progress(deployment, sets, &mut status, now);
    failure(sets, &mut status);
    status
}

fn counts(deployment: &Deployment, sets: &Sets) -> DeploymentStatus {
    let sum = |count: fn(&ReplicaSet) -> i32| sets.all().map(count).sum::<i32>();
    let available = sum(|set| set.status().available_replicas);
    DeploymentStatus {
        observed_generation: deployment.meta().generation,
        replicas: sum(|set| set.status().replicas),
        updated_replicas: sets.new.as_ref().map_or(0, |new| new.status().replicas),
        ready_replicas: sum(|set| set.status().ready_replicas),
        available_replicas: available,
        unavailable_replicas: (sum(wanted) - available).max(0),
        ..DeploymentStatus::default()
    }
}

/// All pods are of the present template, and available, and no others are left.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let replicas = super::limits::replicas(deployment);
    status.updated_replicas == replicas
        && status.replicas == replicas
        && status.available_replicas == replicas
        && status.observed_generation >= deployment.meta().generation
}

fn available(status: &DeploymentStatus, limits: Limits) -> DeploymentCondition {
    if status.available_replicas >= limits.least_available() {
        let message = "Deployment has minimum availability.";
        condition(AVAILABLE, "True", "MinimumReplicasAvailable", message)
    } else {
        let message = "Deployment does not have minimum availability.";
        condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message)
    }
}

fn progress(deployment: &Deployment, sets: &Sets, status: &mut DeploymentStatus, now: Time) {
    let Some(deadline) = deadline(deployment) else {
        status.conditions.retain(|condition| condition.r#type != PROGRESSING);
        return;
    };
    let before = find(deployment.status(), PROGRESSING);
    let mut reason = before.map_or("", |condition| condition.reason.as_str());
    if deployment.spec().paused {
        if reason != TIMED_OUT {
            set(status, condition(PROGRESSING, "Unknown", PAUSED, "Deployment is paused"), now);
        }
        return;
    }
    if reason == PAUSED {
        reason = "DeploymentResumed";
        set(status, condition(PROGRESSING, "Unknown", reason, "Deployment is resumed"), now);
    }
    let Some(new) = &sets.new else { return };
    let name = &new.meta().name;
    let complete = is_complete(deployment, status);
    if sets.created && !complete {
        let message = format!("Created new replica set {name:?}");
        replace(status, condition(PROGRESSING, "True", "NewReplicaSetCreated", &message), now);
    } else if !sets.created && reason == COMPLETE && status.replicas == status.updated_replicas {
        // It was finished, and pods that come and go later do not make it a rollout again.
    } else if complete {
        let message = format!("ReplicaSet {name:?} has successfully progressed.");
        // Complete as soon as it is made, where no pods are wanted.
        let say = if sets.created { replace } else { set };
        say(status, condition(PROGRESSING, "True", COMPLETE, &message), now);
    } else if has_moved(deployment.status(), status) {
        let message = format!("ReplicaSet {name:?} is progressing.");
        replace(status, condition(PROGRESSING, "True", "ReplicaSetUpdated", &message), now);
    } else if before.is_none() {
        let message = format!("Found new replica set {name:?}");
        set(status, condition(PROGRESSING, "True", "FoundNewReplicaSet", &message), now);
    } else if left(before, deadline, now) == Some(Duration::ZERO) {
        let message = format!("ReplicaSet {name:?} has timed out progressing.");
        set(status, condition(PROGRESSING, "False", TIMED_OUT, &message), now);
    }
}

fn has_moved(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let old = |status: &DeploymentStatus| status.replicas - status.updated_replicas;
    after.updated_replicas > before.updated_replicas
        || old(after) < old(before)
        || after.ready_replicas > before.ready_replicas
        || after.available_replicas > before.available_replicas
}

/// How long until the rollout counts as stuck; None where it does not matter (any more).
pub(super) fn until_stuck(deployment: &Deployment, status: &DeploymentStatus, now: Time) -> Option<Duration> {
    if deployment.spec().paused {
        return None;
    }
    let left = left(find(status, PROGRESSING), deadline(deployment)?, now)?;
    // A second later than the deadline, since times are kept in whole seconds.
    Some(left + Duration::from_secs(1))
}

fn left(progressing: Option<&DeploymentCondition>, deadline: i32, now: Time) -> Option<Duration> {
    let condition =
        progressing.filter(|condition| !matches!(condition.reason.as_str(), COMPLETE | TIMED_OUT))?;
    let until = condition.last_update_time?.unix() + i64::from(deadline);
    Some(Duration::from_secs(u64::try_from(until - now.unix()).unwrap_or(0)))
}

fn deadline(deployment: &Deployment) -> Option<i32> {
    Some(deployment.spec().progress_deadline_seconds.unwrap_or(600)).filter(|seconds| *seconds != NO_DEADLINE)
}

/// A set that cannot make its pods is the deployment's failure too.
fn failure(sets: &Sets, status: &mut DeploymentStatus) {
    let newest_first = sets.new.iter().chain(sets.old.iter().rev());
    let failure = newest_first
        .flat_map(|set| &set.status().conditions)
        .find(|condition| condition.r#type == FAILURE && condition.status == "True");
    match failure {
        None => status.conditions.retain(|condition| condition.r#type != FAILURE),
        Some(failure) => {
            let at = failure.last_transition_time;
            let failure = condition(FAILURE, "True", &failure.reason, &failure.message);
            put(status, DeploymentCondition { last_transition_time: at, last_update_time: at, ..failure });
        }
    }
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> DeploymentCondition {
    DeploymentCondition {
        r#type: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: None,
        last_update_time: None,
    }
}

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().find(|condition| condition.r#type == kind)
}

/// Unless it says the same already.
fn set(status: &mut DeploymentStatus, condition: DeploymentCondition, now: Time) {
    let same = |old: &DeploymentCondition| old.status == condition.status && old.reason == condition.reason;
    if !find(status, &condition.r#type).is_some_and(same) {
        replace(status, condition, now);
    }
}

/// Even if it says the same: its update time is what the progress deadline counts from.
fn replace(status: &mut DeploymentStatus, condition: DeploymentCondition, now: Time) {
    let old = find(status, &condition.r#type).filter(|old| old.status == condition.status);
    let since = old.and_then(|old| old.last_transition_time).unwrap_or(now);
    put(
        status,
        DeploymentCondition { last_transition_time: Some(since), last_update_time: Some(now), ..condition },
    );
}

/// In its place if there is one of the type, so that the order stays.
fn put(status: &mut DeploymentStatus, condition: DeploymentCondition) {
    match status.conditions.iter_mut().find(|old| old.r#type == condition.r#type) {
        Some(old) => *old = condition,
        None => status.conditions.push(condition),
    }
}
