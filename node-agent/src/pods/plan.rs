//! Decides what is to be done for one pod. Pure: what is wanted, what is seen and the time give the steps.
//!
//! Invariants, tested below:
//! - Once the steps of a plan have been performed, planning again at the same time gives no step.
//! - No two steps start the same container; nothing is started in a pod that is to end.
//! - A pod's end is confirmed only when nothing of it is left.

use jiff::Timestamp;
use weir_proto::core::v1::{Container, Pod};
use weir_runtime::{ContainerKey, ContainerState};

use super::end::{end, held_until, stop, stop_all};
use super::ephemeral;
use super::observed::{Observed, exit, is_sidecar, runs_again};
use super::phase::{self, Verdict};

/// Runs of a container that are kept: the latest, and the one before it for `lastState` and its log.
const KEPT_RUNS: usize = 2;

/// One thing to do. Steps of a plan are performed in order, up to the first that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    CreateSandbox,
    AttachNetwork,
    DetachNetwork,
    MountVolumes,
    /// Gives back what the volumes of a pod that is over hold.
    ReleaseVolumes,
    /// Resolves the image, creates and starts run number `restart` of the container.
    Start {
        container: String,
        restart: u32,
        is_init: bool,
    },
    /// Asks the container to end and kills it at `deadline`; does not wait.
    Stop {
        key: ContainerKey,
        deadline: Timestamp,
        why: Why,
    },
    /// Forgets a run that ended.
    Remove {
        key: ContainerKey,
    },
    /// Removes all of the pod from this node.
    TearDown,
    /// Tells the API that nothing of the pod is left.
    ConfirmEnd,
}

/// Why a container is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    PodEnds,
    Unhealthy(String),
}

/// What to do now, and when to look again even if nothing happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub steps: Vec<Step>,
    pub wake: Option<Timestamp>,
}

impl Plan {
    pub(super) fn look_again(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// `pod` is what the API wants; `None` when it knows no such pod any more.
pub(super) fn plan(pod: Option<&Pod>, seen: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    match pod {
        None if seen.anything() => plan.steps.push(Step::TearDown),
        None => {}
        Some(pod) if pod.meta().deletion_timestamp.is_some() => end(pod, seen, now, &mut plan),
        Some(pod) => match phase::verdict(pod, seen) {
            Verdict::Runs { deadline } => {
                if let Some(deadline) = deadline {
                    plan.look_again(deadline);
                    if deadline <= now {
                        return plan;
                    }
                }
                run(pod, seen, now, &mut plan);
                forget_old_runs(seen, &mut plan);
            }
            Verdict::Succeeded | Verdict::Failed { .. } => {
                if let Some(until) = held_until(pod, seen, now) {
                    plan.look_again(until);
                    return plan;
                }
                let deadline = seen.ending.as_ref().map(|ending| ending.deadline);
                stop_all(pod, seen, deadline.unwrap_or_else(|| grace_from(pod, now)), now, &mut plan);
                if seen.alive().next().is_none() && seen.attached && !pod.spec().host_network {
                    plan.steps.push(Step::DetachNetwork);
                }
                if seen.alive().next().is_none() && seen.leftovers && !seen.released {
                    plan.steps.push(Step::ReleaseVolumes);
                }
            }
        },
    }
    plan
}

fn grace_from(pod: &Pod, now: Timestamp) -> Timestamp {
    later(now, pod.spec().termination_grace_period_seconds.unwrap_or(30).max(0))
}

fn later(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

fn run(pod: &Pod, seen: &Observed, now: Timestamp, plan: &mut Plan) {
    if let Some(failure) = &seen.setup
        && failure.retry_at() > now
    {
        plan.look_again(failure.retry_at());
        return;
    }
    if !seen.sandbox {
        plan.steps.push(Step::CreateSandbox);
    }
    if !seen.attached {
        plan.steps.push(Step::AttachNetwork);
    }
    let before = plan.steps.len();
    if run_init_containers(pod, seen, now, plan) {
        for container in &pod.spec().containers {
            run_container(pod, container, false, seen, now, plan);
        }
    }
    ephemeral::run(pod, seen, now, plan);
    let starts = plan.steps[before..].iter().any(|step| matches!(step, Step::Start { .. }));
    if starts && !seen.volumes {
        plan.steps.insert(before, Step::MountVolumes);
    }
}

/// One after the other, each when the one before has done its work or, a sidecar, has started. True when the
/// containers may run.
fn run_init_containers(pod: &Pod, seen: &Observed, now: Timestamp, plan: &mut Plan) -> bool {
    let begun = phase::has_begun(pod, seen);
    for container in &pod.spec().init_containers {
        let done = if is_sidecar(container) {
            run_container(pod, container, true, seen, now, plan);
            seen.is_started(&container.name)
        } else {
            phase::is_complete(seen, container) || {
                if !begun {
                    run_container(pod, container, true, seen, now, plan);
                }
                false
            }
        };
        if !done && !begun {
            return false;
        }
    }
    true
}

fn run_container(
    pod: &Pod,
    container: &Container,
    is_init: bool,
    seen: &Observed,
    now: Timestamp,
    plan: &mut Plan,
) {
    let name = &container.name;
    if let Some(failure) = seen.starts.get(name)
        && failure.retry_at() > now
    {
        return plan.look_again(failure.retry_at());
    }
    let start = |restart| Step::Start { container: name.clone(), restart, is_init };
    let Some(latest) = seen.latest(name) else { return plan.steps.push(start(0)) };
    match &latest.state {
        // Found after a restart of the agent, and about to turn out as ended.
        ContainerState::Created { pid: 0 } => {}
        ContainerState::Created { .. } => plan.steps.push(start(latest.key.restart)),
        ContainerState::Running { .. } => {
            if let Some(why) = seen.probed.get(name).and_then(|probed| probed.unhealthy.clone()) {
                stop(latest, seen, grace_from(pod, now), Why::Unhealthy(why), plan);
            }
        }
        ContainerState::Exited(exit) if runs_again(pod, container, is_init, exit) => {
            let at = seen.restart_at(name, exit);
            if at > now {
                plan.look_again(at);
            } else {
                plan.steps.push(start(latest.key.restart.saturating_add(1)));
            }
        }
        ContainerState::Exited(_) => {}
    }
}

fn forget_old_runs(seen: &Observed, plan: &mut Plan) {
    for runs in seen.runs.values() {
        let old = runs.len().saturating_sub(KEPT_RUNS);
        for run in runs[..old].iter().filter(|run| exit(run).is_some()) {
            plan.steps.push(Step::Remove { key: run.key.clone() });
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
