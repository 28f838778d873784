//! How far a pod has come: its verdict and its phase. Pure.

use jiff::Timestamp;
use weir_proto::core::v1::{Container, Pod};

use super::observed::{Observed, exit, is_sidecar, runs_again};

/// Whether the pod's work goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// `deadline`: when `activeDeadlineSeconds` are over, and the worker gives the pod an end ([`Ending::overdue`]).
    ///
    /// [`Ending::overdue`]: super::eviction::Ending::overdue
    Runs {
        deadline: Option<Timestamp>,
    },
    Succeeded,
    Failed {
        reason: String,
        message: String,
    },
}

/// A pod that has ended stays ended, whatever is left of it here.
pub(super) fn verdict(pod: &Pod, seen: &Observed) -> Verdict {
    let status = pod.status();
    match status.phase.as_str() {
        "Succeeded" => return Verdict::Succeeded,
        "Failed" => {
            return Verdict::Failed { reason: status.reason.clone(), message: status.message.clone() };
        }
        _ => {}
    }
    if let Some(ending) = &seen.ending {
        return Verdict::Failed { reason: ending.reason.clone(), message: ending.message.clone() };
    }
    let deadline = deadline(pod);
    let failed_init = pod.spec().init_containers.iter().find(|container| {
        let last = seen.latest(&container.name).and_then(exit);
        last.is_some_and(|exit| exit.code != 0 && !runs_again(pod, container, true, exit))
    });
    if failed_init.is_some() && !has_begun(pod, seen) {
        return Verdict::Failed { reason: String::new(), message: String::new() };
    }
    let ends = pod.spec().containers.iter().map(|container| {
        let exit = seen.latest(&container.name).and_then(exit)?;
        (!runs_again(pod, container, false, exit)).then_some(exit.code)
    });
    match ends.collect::<Option<Vec<i32>>>() {
        Some(codes) if codes.is_empty() => Verdict::Runs { deadline },
        Some(codes) if codes.iter().all(|code| *code == 0) => Verdict::Succeeded,
        Some(_) => Verdict::Failed { reason: String::new(), message: String::new() },
        None => Verdict::Runs { deadline },
    }
}

/// Whether a container has ever been made, after which init containers are history.
pub(super) fn has_begun(pod: &Pod, seen: &Observed) -> bool {
    pod.spec().containers.iter().any(|container| seen.latest(&container.name).is_some())
}

/// Whether an init container has done its work.
pub(super) fn is_complete(seen: &Observed, container: &Container) -> bool {
    seen.latest(&container.name).and_then(exit).is_some_and(|exit| exit.code == 0)
}

/// Whether all init containers are through.
pub(super) fn is_initialized(pod: &Pod, seen: &Observed) -> bool {
    has_begun(pod, seen) || incomplete_init(pod, seen).is_empty()
}

/// Names of the init containers that are not through.
pub(super) fn incomplete_init(pod: &Pod, seen: &Observed) -> Vec<String> {
    let through = |container: &&Container| {
        if is_sidecar(container) { seen.is_started(&container.name) } else { is_complete(seen, container) }
    };
    let all = pod.spec().init_containers.iter();
    all.filter(|container| !through(container)).map(|container| container.name.clone()).collect()
}

/// Kubernetes' `status.phase`.
pub(super) fn phase(pod: &Pod, seen: &Observed, verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Succeeded => return "Succeeded",
        Verdict::Failed { .. } => return "Failed",
        Verdict::Runs { .. } => {}
    }
    let all_begun = pod.spec().containers.iter().all(|container| {
        let runs = seen.runs.get(&container.name).map_or(&[][..], Vec::as_slice);
        runs.len() > 1
            || runs.last().is_some_and(|run| exit(run).is_some())
            || seen.is_running(&container.name)
    });
    if all_begun { "Running" } else { "Pending" }
}

pub(super) fn deadline(pod: &Pod) -> Option<Timestamp> {
    let seconds = pod.spec().active_deadline_seconds?;
    let start = pod.status().start_time?;
    Timestamp::from_second(start.unix().saturating_add(seconds)).ok()
}
