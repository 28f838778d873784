//! Lifecycle hooks: `postStart`, right after a container was started, and `preStop`, before it is told to end.
//!
//! A hook that fails is told by an event. After a failed postStart the container is stopped, and restarts by its policy;
//! a failed preStop changes nothing. The grace period begins before preStop; what it leaves, and two seconds at least, is
//! the container's.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use weir_client::Severity;
use weir_proto::core::v1::{Container, LifecycleHandler, Pod, Probe};
use weir_runtime::{ContainerKey, ContainerState};

use super::perform::{PerformError, Result, find_container};
use super::plan::Why;
use super::probes::{self, Target};
use super::worker::Worker;

/// A command of a postStart hook may take long; not for ever.
const LONGEST: Duration = Duration::from_secs(3600);
/// What a container has at least between preStop and SIGKILL, as in Kubernetes.
const LEAST_GRACE: Duration = Duration::from_secs(2);

impl Worker {
    /// Calls the postStart hook, if there is one. The container is not ready before that.
    pub(super) async fn post_start(
        &mut self,
        pod: &Arc<Pod>,
        container: &Container,
        key: &ContainerKey,
    ) -> Result {
        let Some(handler) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone())
        else {
            return Ok(());
        };
        let target = self.target(pod, container, key);
        let mut commands = self.commands();
        let outcome = tokio::select! {
            outcome = call(&handler, &target, LONGEST) => outcome,
            () = commands.dismissed() => return Err(PerformError::Dismissed),
        };
        if let Err(problem) = outcome {
            self.warn(
                pod,
                &container.name,
                "FailedPostStartHook",
                format!("PostStartHook failed: {problem}"),
            );
            let seconds = pod.spec().termination_grace_period_seconds.unwrap_or(30).max(0);
            let grace = jiff::SignedDuration::from_secs(seconds);
            let deadline = Timestamp::now().checked_add(grace).unwrap_or(Timestamp::MAX);
            self.stop(Some(pod), key, deadline, &Why::Unhealthy("FailedPostStartHook".to_owned()));
        }
        Ok(())
    }

    /// Lets a task call preStop and a thread wait for the container's end; its exit wakes this worker.
    pub(super) fn end_container(&self, pod: Option<&Arc<Pod>>, key: &ContainerKey, deadline: Timestamp) {
        let hook = pod.and_then(|pod| self.pre_stop(pod, key));
        let (runtime, key) = (Arc::clone(&self.context.runtime), key.clone());
        let (wake, stopping) = (Arc::clone(&self.wake), Arc::clone(&self.memory.stopping));
        tokio::spawn(async move {
            let left = || Duration::try_from(deadline.duration_since(Timestamp::now())).unwrap_or_default();
            let mut least = Duration::ZERO;
            if let Some((handler, target)) = hook.filter(|_| !left().is_zero()) {
                let outcome = tokio::time::timeout(left(), call(&handler, &target, left())).await;
                let outcome =
                    outcome.unwrap_or_else(|_| Err("it did not end within the grace period".to_owned()));
                if let Err(problem) = outcome {
                    let message = format!("PreStopHook failed: {problem}");
                    target.recorder.tell(
                        target.about.clone(),
                        Severity::Warning,
                        "FailedPreStopHook",
                        message,
                    );
                }
                least = LEAST_GRACE;
            }
            let grace = left().max(least);
            let waits = move || {
                if let Err(error) = runtime.stop_container(&key, grace) {
                    tracing::warn!(container = %key, %error, "cannot stop a container");
                    std::thread::sleep(Duration::from_secs(1));
                }
                stopping.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                wake.notify_one();
            };
            if let Err(error) = tokio::task::spawn_blocking(waits).await {
                tracing::error!(%error, "the wait for a container's end was cut off");
            }
        });
    }

    /// The hook of a container that runs: one that was never started, or has ended, has nothing to prepare.
    fn pre_stop(&self, pod: &Arc<Pod>, key: &ContainerKey) -> Option<(LifecycleHandler, Target)> {
        let container = find_container(pod, &key.name)?;
        let handler = container.lifecycle.as_ref()?.pre_stop.clone()?;
        let state = self.context.runtime.status(key).ok()?.state;
        matches!(state, ContainerState::Running { .. }).then(|| (handler, self.target(pod, &container, key)))
    }

    fn target(&self, pod: &Pod, container: &Container, key: &ContainerKey) -> Target {
        Target {
            runtime: Arc::clone(&self.context.runtime),
            key: key.clone(),
            address: self.addresses(pod).first().copied().unwrap_or(self.context.node_ip),
            container: container.clone(),
            about: self.about(pod, &container.name),
            recorder: self.context.recorder.clone(),
            wake: Arc::clone(&self.wake),
        }
    }
}

async fn call(
    handler: &LifecycleHandler,
    target: &Target,
    timeout: Duration,
) -> std::result::Result<(), String> {
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
        return Ok(());
    }
    let question = Probe {
        exec: handler.exec.clone(),
        http_get: handler.http_get.clone(),
        tcp_socket: handler.tcp_socket.clone(),
        ..Probe::default()
    };
    probes::ask(&question, target, timeout).await
}
