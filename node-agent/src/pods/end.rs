//! A pod's end, so that it loses nothing: first no new connections, then no containers, then nothing.
//!
//! The API server marks a pod behind a Service when it is deleted ([`NO_NEW_FLOWS`]: False); the controllers make it
//! True when every node's kernel has turned away from the pod. Until then, and [`SETTLE`] longer, containers are left
//! alone: preStop comes after it, then SIGTERM. Pods without the mark are stopped at once, and so are those that are
//! deleted without a grace period.
//!
//! A pod that this node ends by itself gets the mark from here ([`question`]), in the write that says that it is not ready
//! any more. An answer needs a control plane: where none hears, the wait lasts to its limit. Ends for which there is no
//! time (hard eviction thresholds, limits of disk use) wait for nobody, as they leave containers next to no time.
//!
//! The wait is part of the grace period, which begins with the deletion as everywhere in Kubernetes. It ends at a limit,
//! and never takes more than half of the grace period, whatever the rest of the cluster does; such an end is counted
//! and told by an event.
//!
//! **Invariant:** sidecars outlive the containers, and go one after the other, the last first. At the deadline all go.

use jiff::{SignedDuration, Timestamp};
use weir_proto::core::v1::{Pod, PodCondition, PodStatus};
use weir_runtime::{ContainerKey, ContainerStatus};

use super::eviction::Ending;
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
    if let Some(until) = held_until(pod, seen, now) {
        return plan.look_again(until);
    }
    stop_all(pod, seen, deadline(pod, seen, now), now, plan);
    if alive || seen.confirmed {
        return;
    }
    if seen.anything() {
        plan.steps.push(Step::TearDown);
    }
    plan.steps.push(Step::ConfirmEnd);
}

/// Where nothing was waited for the whole grace period, counted from here: the API's time of deletion knows seconds only.
/// Else what the wait has left of it. Never later than the node itself says.
fn deadline(pod: &Pod, seen: &Observed, now: Timestamp) -> Timestamp {
    let grace = pod.meta().deletion_grace_period_seconds.unwrap_or(0).max(0);
    let counted = later(now, SignedDuration::from_secs(grace));
    let told = word(pod.status()).and(pod.meta().deletion_timestamp);
    let told = told.and_then(|at| Timestamp::from_second(at.unix().saturating_add(1)).ok());
    let ending = seen.ending.as_ref().map(|ending| ending.deadline);
    [told, ending].into_iter().flatten().fold(counted, Timestamp::min)
}

/// Until when the containers are left alone; None if they are not, or no longer.
pub(super) fn held_until(pod: &Pod, seen: &Observed, now: Timestamp) -> Option<Timestamp> {
    seen.alive().next()?;
    if !is_awaited(pod, seen.ending.as_ref()) {
        return None;
    }
    let limit = limit(pod, seen)?;
    let said = word(pod.status()).is_some_and(|word| word.status == "True");
    let until = match seen.hold.quiet_since.filter(|_| said) {
        Some(since) => limit.min(later(since, SETTLE)),
        None => limit,
    };
    (until > now).then_some(until)
}

/// Whether a word is to come, or has come, that nodes send the pod no new connections.
fn is_awaited(pod: &Pod, ending: Option<&Ending>) -> bool {
    match pod.meta().deletion_timestamp {
        Some(_) => word(pod.status()).is_some(),
        // Without an address that the API knows it never was behind a Service.
        None => ending.is_some_and(|ending| ending.waits_since.is_some()) && !pod.status().pod_ip.is_empty(),
    }
}

/// When the wait is over, whatever the nodes say.
fn limit(pod: &Pod, seen: &Observed) -> Option<Timestamp> {
    let (meta, ending) = (pod.meta(), seen.ending.as_ref());
    let deleted = meta.deletion_timestamp.and_then(|end| {
        let end = Timestamp::from_second(end.unix()).ok()?;
        let grace = SignedDuration::from_secs(meta.deletion_grace_period_seconds.unwrap_or(0).max(0));
        Some((end.checked_sub(grace).ok()?, end))
    });
    let ended = ending.and_then(|ending| Some((ending.waits_since?, ending.deadline)));
    // The other half is the application's.
    let limit = |(since, end): (Timestamp, Timestamp)| {
        later(since, seen.hold.limit.min(end.duration_since(since) / 2))
    };
    [deleted, ended].into_iter().flatten().map(limit).min()
}

fn word(status: &PodStatus) -> Option<&PodCondition> {
    status.conditions.iter().find(|condition| condition.r#type == NO_NEW_FLOWS)
}

/// The mark of a pod that this node ends, unless it has it.
pub(super) fn question(pod: &Pod, seen: &Observed) -> Option<PodCondition> {
    let asks = pod.meta().deletion_timestamp.is_none()
        && word(pod.status()).is_none()
        && is_awaited(pod, seen.ending.as_ref())
        && seen.alive().next().is_some();
    asks.then(|| PodCondition {
        r#type: NO_NEW_FLOWS.to_owned(),
        status: "False".to_owned(),
        reason: "Acknowledging".to_owned(),
        message: "nodes may still send this pod new connections".to_owned(),
        observed_generation: pod.meta().generation,
        ..PodCondition::default()
    })
}

/// Puts the word that the controllers gave by a static pod's mirror into what is said of the pod.
pub(super) fn hear(said: &mut PodStatus, mirror: &PodStatus) {
    let Some(word) = word(mirror).filter(|word| word.status == "True") else { return };
    for condition in said.conditions.iter_mut().filter(|condition| condition.r#type == NO_NEW_FLOWS) {
        condition.clone_from(word);
    }
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
        let quiet = pod.and_then(|pod| word(pod.status())).is_some_and(|word| word.status == "True");
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
        let Some(pod) = pod.filter(|pod| is_awaited(pod, self.memory.ending.as_ref())) else { return };
        let word = word(pod.status());
        if word.is_some_and(|word| word.status == "True") {
            return;
        }
        if std::mem::replace(&mut self.memory.unacknowledged, true) {
            return;
        }
        metrics::ENDS_UNACKNOWLEDGED.inc();
        let why = word.map_or("the control plane was not heard", |word| &word.message);
        let message = format!("Stopping the pod although not every node has turned away from it: {why}");
        self.warn(pod, "", "EndUnacknowledged", message);
    }
}

#[cfg(test)]
#[path = "end_tests.rs"]
mod tests;
