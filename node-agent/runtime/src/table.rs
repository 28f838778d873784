//! What is known of each container, and who waits for its end.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::container::{ContainerEvent, ContainerKey, ContainerState, ContainerStatus, Exit};

#[derive(Debug, Default)]
pub(crate) struct Table {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    containers: BTreeMap<ContainerKey, ContainerStatus>,
    subscriber: Option<mpsc::Sender<ContainerEvent>>,
    /// Exits that nobody has subscribed to yet.
    backlog: Vec<ContainerEvent>,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change is one assignment: a panic elsewhere leaves nothing half-done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, status: ContainerStatus) {
        self.lock().containers.insert(status.key.clone(), status);
    }

    pub(crate) fn remove(&self, key: &ContainerKey) {
        self.lock().containers.remove(key);
        self.changed.notify_all();
    }

    pub(crate) fn get(&self, key: &ContainerKey) -> Option<ContainerStatus> {
        self.lock().containers.get(key).cloned()
    }

    pub(crate) fn list(&self) -> Vec<ContainerStatus> {
        self.lock().containers.values().cloned().collect()
    }

    /// Unless the container has ended meanwhile.
    pub(crate) fn mark_started(&self, key: &ContainerKey, started_at: Timestamp) {
        if let Some(status) = self.lock().containers.get_mut(key)
            && let ContainerState::Created { pid } = status.state
        {
            status.state = ContainerState::Running { pid, started_at };
        }
    }

    pub(crate) fn mark_exited(&self, key: &ContainerKey, exit: Exit) {
        let mut inner = self.lock();
        let Some(status) = inner.containers.get_mut(key) else { return };
        if matches!(status.state, ContainerState::Exited(_)) {
            return;
        }
        status.state = ContainerState::Exited(exit.clone());
        let event = ContainerEvent { key: key.clone(), exit };
        match &inner.subscriber {
            Some(subscriber) => {
                if let Err(mpsc::SendError(event)) = subscriber.send(event) {
                    inner.subscriber = None;
                    inner.backlog.push(event);
                }
            }
            None => inner.backlog.push(event),
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// The runs of one pod's containers, in the order of their keys.
    pub(crate) fn of_pod(&self, uid: &str) -> Vec<ContainerStatus> {
        let inner = self.lock();
        let from = inner.containers.range(ContainerKey::new(uid, "", 0)..);
        from.map(|(_, status)| status).take_while(|status| status.key.pod_uid == uid).cloned().collect()
    }

    pub(crate) fn subscribe(&self) -> mpsc::Receiver<ContainerEvent> {
        let (sender, receiver) = mpsc::channel();
        let mut inner = self.lock();
        for event in inner.backlog.drain(..) {
            // The receiver is right here.
            let _ = sender.send(event);
        }
        inner.subscriber = Some(sender);
        receiver
    }

    /// `None`: no such container. `Some(None)`: still there after `timeout`.
    pub(crate) fn wait(&self, key: &ContainerKey, timeout: Duration) -> Option<Option<Exit>> {
        let deadline = Instant::now() + timeout;
        let mut inner = self.lock();
        loop {
            if let ContainerState::Exited(exit) = &inner.containers.get(key)?.state {
                return Some(Some(exit.clone()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(None);
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
