//! Ends that the node gives pods by itself: eviction, shutdown, refusal. The pod becomes Failed and never runs again.
//!
//! Whoever wants a pod to end orders it by its uid ([`Endings::order`]); the pod's worker takes the order up before it
//! plans, tells of it once, and stops what runs. A worker that finds the reason itself calls [`Worker::evict`].
//!
//! **Invariant:** an end that was taken up stays, also over the agent's death: it lies beside the pod's files and goes with
//! them. (A static pod's does not: the machine that comes back runs it again.)

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::Notify;
use weir_client::Severity;
use weir_proto::core::v1::Pod;

use super::phase;
use super::worker::Worker;

/// In the pod's directory, where no container has this name.
const FILE: &str = ".ending";
const OVERDUE: &str = "DeadlineExceeded";

/// Why the node ended a pod, and how long its containers have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// As in the pod's `status.reason`.
    pub reason: String,
    pub message: String,
    /// When containers that still run are killed.
    pub deadline: Timestamp,
    /// Since when nodes are waited for to turn away from the pod, before its containers are told to end; None where
    /// nobody is waited for.
    pub waits_since: Option<Timestamp>,
    /// Whether the pod was at work, and so gets the condition DisruptionTarget.
    pub disruption: bool,
}

impl Ending {
    /// Of a pod that may have been running; `grace` from now, in part of which the nodes turn away from it.
    pub fn of_running(reason: &str, message: impl Into<String>, grace: Duration) -> Self {
        let waits_since = (!grace.is_zero()).then(Timestamp::now);
        Self { waits_since, ..Self::at_once(reason, message, grace) }
    }

    /// The same, but the containers are told at once: what the pod holds is needed.
    pub fn at_once(reason: &str, message: impl Into<String>, grace: Duration) -> Self {
        let grace = SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX);
        let deadline = Timestamp::now().checked_add(grace).unwrap_or(Timestamp::MAX);
        let (reason, message) = (reason.to_owned(), message.into());
        Self { reason, message, deadline, waits_since: None, disruption: true }
    }

    /// Of a pod whose `activeDeadlineSeconds` are over.
    pub(super) fn overdue(pod: &Pod) -> Self {
        let message = "Pod was active on the node longer than the specified deadline";
        Self { disruption: false, ..Self::of_running(OVERDUE, message, own_grace(pod)) }
    }

    /// Of a pod that is not let in.
    pub fn refusal(reason: &str, message: &str) -> Self {
        let message = format!("Pod was rejected: {message}");
        Self { disruption: false, ..Self::at_once(reason, message, Duration::ZERO) }
    }

    fn save(&self, pod_dir: &Path) -> std::io::Result<()> {
        let text = json!({
            "reason": self.reason,
            "message": self.message,
            "deadline": self.deadline.as_second(),
            "waitsSince": self.waits_since.map(Timestamp::as_millisecond),
            "disruption": self.disruption,
        });
        fs::create_dir_all(pod_dir)?;
        let beside = pod_dir.join(format!("{FILE}.new"));
        fs::write(&beside, text.to_string())?;
        fs::rename(beside, pod_dir.join(FILE))
    }

    pub(super) fn load(pod_dir: &Path) -> Option<Self> {
        let value: Value = serde_json::from_slice(&fs::read(pod_dir.join(FILE)).ok()?).ok()?;
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        Some(Self {
            reason: text("reason")?,
            message: text("message")?,
            deadline: Timestamp::from_second(value["deadline"].as_i64()?).ok()?,
            waits_since: value["waitsSince"].as_i64().and_then(|at| Timestamp::from_millisecond(at).ok()),
            disruption: value["disruption"].as_bool()?,
        })
    }
}

pub(super) type Wakes = Arc<Mutex<HashMap<String, Arc<Notify>>>>;

/// Orders to workers, by pod uid. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Endings {
    orders: Arc<Mutex<HashMap<String, Ending>>>,
    /// One for each worker.
    pub(super) wakes: Wakes,
}

impl Endings {
    /// Has the pod's worker end it. False when the pod has none: there is nothing of it on this node.
    pub fn order(&self, uid: &str, ending: Ending) -> bool {
        let wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(wake) = wakes.get(uid) else { return false };
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), ending);
        wake.notify_one();
        true
    }

    pub(super) fn take(&self, uid: &str) -> Option<Ending> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).remove(uid)
    }
}

impl Worker {
    /// Ends the pod with phase Failed. The first reason counts, unless a later order leaves less time.
    pub(super) fn evict(&mut self, pod: &Pod, ending: Ending) {
        if let Some(present) = &mut self.memory.ending {
            present.deadline = present.deadline.min(ending.deadline);
            present.waits_since = present.waits_since.filter(|_| ending.waits_since.is_some());
            return;
        }
        tracing::info!(
            pod = pod.meta().name,
            namespace = pod.meta().namespace,
            uid = self.uid,
            reason = ending.reason,
            message = ending.message,
            "ending a pod"
        );
        if !super::mirror::is_static(pod) {
            let dir = self.context.runtime.pod_directory(&self.uid);
            if let Err(error) = dir.map_err(|error| error.to_string()).and_then(|dir| {
                self.memory.leftovers = true;
                ending.save(&dir).map_err(|error| format!("{}: {error}", dir.display()))
            }) {
                tracing::warn!(uid = self.uid, error, "cannot note down that a pod ended");
            }
        }
        let severity = if ending.reason == OVERDUE { Severity::Normal } else { Severity::Warning };
        self.context.recorder.tell(self.about(pod, ""), severity, &ending.reason, ending.message.clone());
        self.memory.ending = Some(ending);
    }

    /// Ends a pod whose `activeDeadlineSeconds` are over.
    pub(super) fn end_overdue(&mut self, pod: Option<&Pod>) {
        let Some(pod) = pod.filter(|pod| pod.meta().deletion_timestamp.is_none()) else { return };
        let over = phase::deadline(pod).is_some_and(|deadline| deadline <= Timestamp::now());
        if over
            && self.memory.ending.is_none()
            && !matches!(pod.status().phase.as_str(), "Succeeded" | "Failed")
        {
            self.evict(pod, Ending::overdue(pod));
        }
    }

    /// Takes up what was ordered since the last round.
    pub(super) fn take_ending(&mut self, pod: Option<&Pod>) {
        let Some(ending) = self.context.endings.take(&self.uid) else { return };
        if let Some(pod) = pod.filter(|pod| !matches!(pod.status().phase.as_str(), "Succeeded" | "Failed")) {
            self.evict(pod, ending);
        }
    }
}

/// What the pod itself asks for.
pub fn own_grace(pod: &Pod) -> Duration {
    let own = pod.spec().termination_grace_period_seconds.and_then(|own| u64::try_from(own).ok());
    Duration::from_secs(own.unwrap_or(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_found_again_and_half_a_file_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(Ending::load(dir.path()), None);
        let deadline = Timestamp::from_second(1000).expect("a time");
        let ending = Ending {
            deadline,
            ..Ending::of_running("Evicted", "The node was low on resource: memory. ", Duration::ZERO)
        };
        ending.save(dir.path()).expect("saved");
        assert_eq!(Ending::load(dir.path()), Some(ending.clone()));
        let waiting = Ending { waits_since: Timestamp::from_millisecond(999_001).ok(), ..ending };
        waiting.save(dir.path()).expect("saved");
        assert_eq!(Ending::load(dir.path()), Some(waiting));
        fs::write(dir.path().join(FILE), "{\"reason\": \"Ev").expect("written");
        assert_eq!(Ending::load(dir.path()), None);
    }

    #[test]
    fn an_order_reaches_only_pods_that_have_a_worker() {
        let endings = Endings::default();
        let ending = Ending::of_running("Evicted", "", Duration::ZERO);
        assert!(!endings.order("u", ending.clone()));
        endings.wakes.lock().expect("a lock").insert("u".to_owned(), Arc::default());
        assert!(endings.order("u", ending.clone()));
        assert_eq!((endings.take("u"), endings.take("u")), (Some(ending), None));
    }
}
