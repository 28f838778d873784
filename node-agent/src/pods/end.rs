//! A pod's end, so that it loses nothing: first no new connections, then no containers, then nothing.
//!
//! The API server marks a pod behind a Service when it is deleted ([`NO_NEW_FLOWS`]: False); the controllers make it
//! True when every node's kernel has turned away from the pod. Until then, and [`SETTLE`] longer, containers are left
//! alone: preStop comes after it, then SIGTERM. Pods without the mark are stopped at once, and so are those that are
//! deleted without a grace period.
//!
//! The wait is part of the grace period, which begins with the deletion as everywhere in Kubernetes. It ends at a limit,
//! and never takes more than half of the grace period, whatever the rest of the cluster does; such an end is counted
//! and told by an event.
//!
//! **Invariant:** sidecars outlive the containers, and go one after the other, the last first. At the deadline all go.

use jiff::{SignedDuration, Timestamp};
use weir_proto::core::v1::{Pod, PodCondition};
use weir_runtime::{ContainerKey, ContainerStatus};

use super::observed::{Observed, is_sidecar};
use super::plan::{Plan, Step, Why};
use super::worker::Worker;
use crate::metrics;

/// The condition that says whether nodes may still send the pod new connections. Known by this name to the API server,
/// which puts it on, and to the controllers.
const NO_NEW_FLOWS: &str = "weir.dev/NoNewFlows";

/// From the last node's acknowledgement to SIGTERM. A client's kernel may have chosen this pod just before its node
/// turned away; its SYN is on the way, or its thread was preempted between the choice and the packet.
const SETTLE: SignedDuration = SignedDuration::from_millis(100);

/// What a worker knows of its pod's end, beside the pod itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hold {
    /// How long acknowledgements are waited for.
    pub limit: SignedDuration,
    /// Since when it is known here that no new connections come.
    pub quiet_since: Option<Timestamp>,
}

/// Stops what runs, and confirms the end when nothing is left. The API wants the pod gone.
pub(super) fn end(pod: &Pod, seen: &Observed, now: Timestamp, plan: &mut Plan) {
    let alive = seen.alive().next().is_some();
    if let Some(until) = held_until(pod, &seen.hold).filter(|until| alive && *until > now) {
        return plan.look_again(until);
    }
    stop_all(pod, seen, deadline(pod, now), now, plan);
    if alive || seen.confirmed {
        return;
    }
    if seen.anything() {
        plan.steps.push(Step::TearDown);
    }
    plan.steps.push(Step::ConfirmEnd);
}

/// Where nothing was waited for the whole grace period, counted from here: the API's time of deletion knows seconds only.
/// Else what the wait has left of it.
fn deadline(pod: &Pod, now: Timestamp) -> Timestamp {
    let grace = pod.meta().deletion_grace_period_seconds.unwrap_or(0).max(0);
    let counted = later(now, SignedDuration::from_secs(grace));
    let Some(at) = word(pod).and(pod.meta().deletion_timestamp) else { return counted };
    let told = Timestamp::from_second(at.unix().saturating_add(1)).unwrap_or(Timestamp::MAX);
    counted.min(told)
}

/// Until when the containers are left alone, at the latest; None if there is nothing to wait for.
fn held_until(pod: &Pod, hold: &Hold) -> Option<Timestamp> {
    let word = word(pod)?;
    let limit = limit(pod, hold.limit)?;
    match (word.status.as_str(), hold.quiet_since) {
        ("True", Some(since)) => Some(limit.min(later(since, SETTLE))),
        _ => Some(limit),
    }
}

/// When the wait for acknowledgements is over, whatever they say.
fn limit(pod: &Pod, limit: SignedDuration) -> Option<Timestamp> {
    let deadline = Timestamp::from_second(pod.meta().deletion_timestamp?.unix()).ok()?;
    let grace = SignedDuration::from_secs(pod.meta().deletion_grace_period_seconds.unwrap_or(0).max(0));
    // The other half is the application's.
    let wait = limit.min(grace / 2);
    deadline.checked_sub(grace).ok()?.checked_add(wait).ok()
}

fn word(pod: &Pod) -> Option<&PodCondition> {
    pod.status().conditions.iter().find(|condition| condition.r#type == NO_NEW_FLOWS)
}

fn later(time: Timestamp, wait: SignedDuration) -> Timestamp {
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// Containers all at once; then sidecars, each when those after it have ended. What is alive at the deadline is told
/// so at once, whatever it waited for.
pub(super) fn stop_all(pod: &Pod, seen: &Observed, deadline: Timestamp, now: Timestamp, plan: &mut Plan) {
    let mut alive: Vec<(usize, &ContainerStatus)> =
        seen.alive().map(|run| (turn(pod, &run.key), run)).collect();
    alive.sort_by_key(|(turn, _)| *turn);
    let Some((first, _)) = alive.first().copied() else { return };
    // The first that were told to end were told when.
    let told = alive.iter().filter_map(|(_, run)| seen.stopping.get(&run.key)).min();
    let due = told.map_or(deadline, |told| deadline.min(*told));
    for (turn, run) in alive {
        if turn == first {
            stop(run, seen, deadline, Why::PodEnds, plan);
        } else if due <= now {
            stop(run, seen, due, Why::PodEnds, plan);
        } else {
            plan.look_again(due);
        }
    }
}

/// 0 for containers and init containers, 1 for the last sidecar, 2 for the one before it.
fn turn(pod: &Pod, key: &ContainerKey) -> usize {
    let sidecars = pod.spec().init_containers.iter().rev().filter(|container| is_sidecar(container));
    sidecars.map(|sidecar| &sidecar.name).position(|name| *name == key.name).map_or(0, |place| place + 1)
}

/// Unless the container is told already to end no later.
pub(super) fn stop(run: &ContainerStatus, seen: &Observed, deadline: Timestamp, why: Why, plan: &mut Plan) {
    if seen.stopping.get(&run.key).is_none_or(|told| *told > deadline) {
        plan.steps.push(Step::Stop { key: run.key.clone(), deadline, why });
    }
}

impl Worker {
    /// Remembers when it was first seen that no new connections come. After a restart the wait of [`SETTLE`] begins
    /// anew.
    pub(super) fn tend_end(&mut self, pod: Option<&Pod>) {
        let quiet = pod.and_then(word).is_some_and(|word| word.status == "True");
        self.memory.quiet_since = match self.memory.quiet_since {
            since @ Some(_) if quiet => since,
            _ if quiet => Some(Timestamp::now()),
            _ => None,
        };
    }

    pub(super) fn hold(&self) -> Hold {
        Hold { limit: self.context.end_limit, quiet_since: self.memory.quiet_since }
    }

    /// Counts and tells, once, that a pod is stopped although nodes may still send it connections.
    pub(super) fn note_unacknowledged(&mut self, pod: Option<&Pod>) {
        let Some(pod) = pod.filter(|pod| pod.meta().deletion_timestamp.is_some()) else { return };
        let Some(word) = word(pod).filter(|word| word.status != "True") else { return };
        if std::mem::replace(&mut self.memory.unacknowledged, true) {
            return;
        }
        metrics::ENDS_UNACKNOWLEDGED.inc();
        let message =
            format!("Stopping the pod although not every node has turned away from it: {}", word.message);
        self.warn(pod, "", "EndUnacknowledged", message);
    }
}

#[cfg(test)]
#[path = "end_tests.rs"]
mod tests;
