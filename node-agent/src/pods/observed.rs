//! What is known of one pod on this node at one moment: the input of planning and of the status.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use weir_proto::core::v1::{Container, ContainerUser, Pod};
use weir_runtime::{ContainerKey, ContainerState, ContainerStatus, Exit};

use super::end::Hold;
use super::ephemeral;
use super::eviction::Ending;

/// Delays between restarts, as Kubernetes has them.
const FIRST_DELAY: SignedDuration = SignedDuration::from_secs(10);
const LONGEST_DELAY: SignedDuration = SignedDuration::from_mins(5);
/// A container that ran this long has not crashed "again".
const GOOD_RUN: SignedDuration = SignedDuration::from_mins(10);

/// Something that failed and will be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Kubernetes' word for it.
    pub reason: String,
    pub message: String,
    /// The image that could not be had, where that is not the container's own.
    pub image: Option<String>,
    /// How often in a row, from 1.
    pub attempts: u32,
    pub at: Timestamp,
}

impl Failure {
    /// The failure after `before`, which was of the same thing.
    pub(super) fn again(before: Option<&Self>, reason: &str, message: String, at: Timestamp) -> Self {
        let attempts = before.map_or(1, |before| before.attempts.saturating_add(1));
        Self { reason: reason.to_owned(), message, image: None, attempts, at }
    }

    pub(super) fn retry_at(&self) -> Timestamp {
        later(self.at, delay(self.attempts))
    }
}

/// What probes have found out about a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Probed {
    pub started: bool,
    pub ready: bool,
    /// Why the container must be restarted.
    pub unhealthy: Option<String>,
}

/// The pod as this node sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Observed {
    pub sandbox: bool,
    /// On the network (or, of a pod in the node's own network, nothing to do).
    pub attached: bool,
    pub volumes: bool,
    /// The volumes of a pod that is over hold nothing any more.
    pub released: bool,
    /// Anything on disk, complete or not.
    pub leftovers: bool,
    /// The API has been told that nothing is left.
    pub confirmed: bool,
    /// The end that this node gave the pod.
    pub ending: Option<Ending>,
    /// By container name; runs in the order of restarts.
    pub runs: BTreeMap<String, Vec<ContainerStatus>>,
    /// Containers that were told to end, and when they will be killed.
    pub stopping: BTreeMap<ContainerKey, Timestamp>,
    /// Of sandbox, network or volumes.
    pub setup: Option<Failure>,
    /// Of starting, by container name.
    pub starts: BTreeMap<String, Failure>,
    /// Short runs in a row, by container name.
    pub crashes: BTreeMap<String, u32>,
    /// Of runs that have ended, what they left to say.
    pub last_words: BTreeMap<ContainerKey, String>,
    /// As whom the first process of a run is executed.
    pub users: BTreeMap<ContainerKey, ContainerUser>,
    /// Of the latest run, by container name; absent without probes.
    pub probed: BTreeMap<String, Probed>,
    pub hold: Hold,
}

impl Observed {
    pub(super) fn latest(&self, container: &str) -> Option<&ContainerStatus> {
        self.runs.get(container)?.last()
    }

    pub(super) fn previous_exit(&self, container: &str) -> Option<(&ContainerStatus, &Exit)> {
        let run = self.runs.get(container)?.iter().rev().nth(1)?;
        Some((run, exit(run)?))
    }

    /// Whether anything of the pod is on this node.
    pub(super) fn anything(&self) -> bool {
        self.sandbox || self.attached || self.leftovers || !self.runs.is_empty()
    }

    /// Containers that have not ended.
    pub(super) fn alive(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.runs.values().flatten().filter(|run| exit(run).is_none())
    }

    pub(super) fn is_running(&self, container: &str) -> bool {
        self.latest(container).is_some_and(|run| matches!(run.state, ContainerState::Running { .. }))
    }

    /// Running, and started as its startup probe sees it.
    pub(super) fn is_started(&self, container: &str) -> bool {
        self.is_running(container) && self.probed.get(container).is_none_or(|probed| probed.started)
    }

    pub(super) fn is_ready(&self, container: &str) -> bool {
        self.is_started(container) && self.probed.get(container).is_none_or(|probed| probed.ready)
    }

    /// When a container that ended may run again.
    pub(super) fn restart_at(&self, container: &str, exit: &Exit) -> Timestamp {
        let crashes = self.crashes.get(container).copied().unwrap_or(0);
        let wait = if ran_well(exit) { SignedDuration::ZERO } else { delay(crashes) };
        later(exit.finished_at, wait)
    }
}

/// How many short runs in a row there are once the run that ended so is followed by another.
pub(super) fn crashes_after(before: u32, exit: &Exit) -> u32 {
    if ran_well(exit) { 1 } else { before.saturating_add(1) }
}

pub(super) fn exit(run: &ContainerStatus) -> Option<&Exit> {
    match &run.state {
        ContainerState::Exited(exit) => Some(exit),
        _ => None,
    }
}

/// An init container that runs beside the containers.
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether a container that ended so is to run again.
pub(super) fn runs_again(pod: &Pod, container: &Container, is_init: bool, exit: &Exit) -> bool {
    if is_sidecar(container) {
        return true;
    }
    if ephemeral::is_ephemeral(pod, &container.name) {
        return false;
    }
    match pod.spec().restart_policy.as_str() {
        "Never" => false,
        "OnFailure" => exit.code != 0,
        _ => !is_init || exit.code != 0,
    }
}

/// None before the first crash, then ten seconds, doubling up to five minutes.
fn delay(crashes: u32) -> SignedDuration {
    let Some(doublings) = crashes.checked_sub(1) else { return SignedDuration::ZERO };
    FIRST_DELAY.checked_mul(1 << doublings.min(10)).map_or(LONGEST_DELAY, |delay| delay.min(LONGEST_DELAY))
}

fn ran_well(exit: &Exit) -> bool {
    exit.started_at.is_some_and(|started| exit.finished_at.duration_since(started) >= GOOD_RUN)
}

fn later(time: Timestamp, wait: SignedDuration) -> Timestamp {
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_from_ten_seconds_to_five_minutes() {
        let seconds: Vec<i64> = (0..8).map(|crashes| delay(crashes).as_secs()).collect();
        assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(delay(u32::MAX).as_secs(), 300);
    }

    #[test]
    fn a_run_of_ten_minutes_is_forgiven_what_came_before() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let exit = |seconds: i64| Exit {
            code: 1,
            signal: None,
            oom_killed: false,
            reason: weir_runtime::ExitReason::Error,
            message: String::new(),
            started_at: Some(at(1_000)),
            finished_at: at(1_000 + seconds),
        };
        let mut crashes = 0;
        let mut waits = Vec::new();
        for seconds in [1, 1, 599, 1, 600, 1, 1] {
            let exit = exit(seconds);
            let seen = Observed { crashes: [("c".to_owned(), crashes)].into(), ..Observed::default() };
            waits.push(seen.restart_at("c", &exit).duration_since(exit.finished_at).as_secs());
            crashes = crashes_after(crashes, &exit);
        }
        assert_eq!(waits, [0, 10, 20, 40, 0, 10, 20]);
    }
}
