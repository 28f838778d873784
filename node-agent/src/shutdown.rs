//! Graceful shutdown of the node: the machine is about to go, so its pods are told to, the important ones last.
//!
//! Begun by SIGPWR; SIGTERM ends the agent alone and leaves the pods running. A systemd unit with `KillMode=process` tells
//! the two apart:
//!
//! ```text
//! ExecStop=/bin/sh -c 'test "$(systemctl is-system-running)" != stopping || \
//!          { kill -PWR $MAINPID; tail --pid=$MAINPID -f /dev/null; }'
//! ```
//!
//! The node says that it is not ready, takes no more pods, and ends the ones it has in two groups, as the kubelet does:
//! all but the critical ones in `--shutdown-grace-period` less the critical ones' part, then those.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use weir_client::Informer;
use weir_proto::core::v1::Pod;
use weir_runtime::{ContainerState, Runtime};

use crate::node::Readiness;
use crate::pods::mirror;
use crate::pods::{Ending, Endings, own_grace};
use crate::static_pods::Wanted;

/// Priorities from here on belong to the last group.
const CRITICAL: i32 = 2_000_000_000;
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// For a killed container to be gone and the pod's status written.
const SETTLE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Shutdown {
    pub(crate) grace: Duration,
    pub(crate) critical_grace: Duration,
    pub(crate) pods: Informer<Pod>,
    pub(crate) static_pods: watch::Receiver<Option<Wanted>>,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) endings: Endings,
    pub(crate) shutting_down: Arc<AtomicBool>,
    pub(crate) ready: watch::Sender<Readiness>,
}

/// Pods that end together, and how long they have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    grace: Duration,
    /// Uid, and what the pod itself asks for.
    pods: Vec<(String, Duration)>,
}

/// Pure.
fn groups<'a>(pods: impl Iterator<Item = &'a Pod>, grace: Duration, critical_grace: Duration) -> [Group; 2] {
    let group = |grace| Group { grace, pods: Vec::new() };
    let mut groups = [group(grace.saturating_sub(critical_grace)), group(critical_grace.min(grace))];
    for pod in pods {
        let critical = pod.spec().priority.is_some_and(|priority| priority >= CRITICAL);
        let group = &mut groups[usize::from(critical)];
        let own = own_grace(pod).min(group.grace);
        group.pods.push((pod.meta().uid.clone(), own));
    }
    groups
}

impl Shutdown {
    /// Returns when no pod is left running, or the time is over.
    pub(crate) async fn perform(self) {
        if self.grace.is_zero() {
            tracing::warn!(
                "graceful node shutdown is off (--shutdown-grace-period): pods go with the machine"
            );
            return;
        }
        tracing::info!(grace = ?self.grace, critical = ?self.critical_grace, "the node is shutting down");
        self.shutting_down.store(true, Ordering::SeqCst);
        self.ready.send_replace(Readiness::NotReady("node is shutting down".to_owned()));
        let of_api = self.pods.list();
        let of_files = self.static_pods.borrow().clone().unwrap_or_default();
        let own = of_api.iter().filter(|pod| !mirror::is_mirror(pod)).chain(of_files.values());
        for group in groups(own.map(AsRef::as_ref), self.grace, self.critical_grace) {
            let ended: Vec<&str> = group
                .pods
                .iter()
                .filter(|(uid, grace)| self.endings.order(uid, Ending::of_running(REASON, MESSAGE, *grace)))
                .map(|(uid, _)| uid.as_str())
                .collect();
            let gone = async {
                while self.alive().iter().any(|uid| ended.contains(&uid.as_str())) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            if tokio::time::timeout(group.grace + SETTLE, gone).await.is_err() {
                tracing::warn!("pods are left running at the end of their time");
            }
        }
        // Statuses are written a moment after the last container's end.
        let written = async {
            while self.pods.list().iter().any(|pod| !mirror::is_mirror(pod) && is_unwritten(pod)) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(SETTLE, written).await.is_err() {
            tracing::warn!("not every pod's end could be told to the control plane");
        }
        tracing::info!("no pod is left running");
    }

    /// Uids of pods with containers that have not ended.
    fn alive(&self) -> Vec<String> {
        let runs = self.runtime.list().into_iter();
        runs.filter(|run| !matches!(run.state, ContainerState::Exited(_)))
            .map(|run| run.key.pod_uid)
            .collect()
    }
}

fn is_unwritten(pod: &Pod) -> bool {
    pod.meta().deletion_timestamp.is_none() && !matches!(pod.status().phase.as_str(), "Succeeded" | "Failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, priority: Option<i32>, grace: i64) -> Pod {
        let mut pod = Pod::default();
        pod.meta_mut().uid = uid.to_owned();
        pod.spec_mut().priority = priority;
        pod.spec_mut().termination_grace_period_seconds = Some(grace);
        pod
    }

    #[test]
    fn critical_pods_end_last_and_nobody_has_longer_than_its_group() {
        let pods = [pod("a", None, 60), pod("b", Some(CRITICAL), 60), pod("c", Some(1000), 5)];
        let second = Duration::from_secs;
        let [first, last] = groups(pods.iter(), second(30), second(10));
        assert_eq!(first.pods, [("a".to_owned(), second(20)), ("c".to_owned(), second(5))]);
        assert_eq!((last.grace, last.pods), (second(10), vec![("b".to_owned(), second(10))]));
    }
}
