//! What a watcher has not read yet: bounded in changes and in bytes.
//!
//! A change is shared by the queues of all watchers, and each queue holds the newest; so however many are slow, together
//! they keep no more alive than the slowest may.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::event::CacheEvent;

/// Changes a watcher may fall behind before it is cut.
pub(super) const CHANGES: usize = 8192;
/// Bytes that it may fall behind, of objects as they are sent.
pub(super) const BYTES: usize = 32 * 1024 * 1024;

/// Why a change was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The watcher is too far behind.
    Full,
    /// Nobody reads any more.
    Closed,
}

#[derive(Debug)]
pub(super) struct Sender {
    events: mpsc::Sender<Arc<CacheEvent>>,
    waiting: Arc<AtomicUsize>,
}

#[derive(Debug)]
pub(super) struct Receiver {
    events: mpsc::Receiver<Arc<CacheEvent>>,
    waiting: Arc<AtomicUsize>,
}

pub(super) fn channel() -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(CHANGES);
    let waiting = Arc::new(AtomicUsize::new(0));
    (Sender { events: sender, waiting: waiting.clone() }, Receiver { events: receiver, waiting })
}

impl Sender {
    /// Never waits. One change always finds its place, however large.
    pub(super) fn send(&self, event: &Arc<CacheEvent>) -> Result<(), Refused> {
        let size = event.size();
        let before = self.waiting.fetch_add(size, Ordering::Relaxed);
        let refused = if before > 0 && before + size > BYTES {
            Refused::Full
        } else {
            match self.events.try_send(event.clone()) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => Refused::Full,
                Err(mpsc::error::TrySendError::Closed(_)) => Refused::Closed,
            }
        };
        self.waiting.fetch_sub(size, Ordering::Relaxed);
        Err(refused)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.events.is_closed()
    }
}

impl Receiver {
    /// `None` once the watcher was cut and everything before that is read. Safe to cancel.
    pub(super) async fn recv(&mut self) -> Option<Arc<CacheEvent>> {
        let event = self.events.recv().await?;
        self.waiting.fetch_sub(event.size(), Ordering::Relaxed);
        Some(event)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::ConfigMap;

    use super::super::CachedObject;
    use super::*;

    fn event(bytes: usize) -> Arc<CacheEvent> {
        let mut map = ConfigMap::default();
        map.data.insert("value".to_owned(), "x".repeat(bytes));
        Arc::new(CacheEvent::put(Arc::new(CachedObject::new(Box::new(map), 1)), None))
    }

    #[tokio::test]
    async fn a_queue_is_full_by_bytes_or_by_changes_and_what_is_read_makes_room() {
        let (sender, mut receiver) = channel();
        let quarter = event(BYTES / 4);
        for _ in 0..3 {
            sender.send(&quarter).unwrap();
        }
        assert_eq!(sender.send(&quarter), Err(Refused::Full));
        assert!(receiver.recv().await.is_some());
        sender.send(&quarter).unwrap();
        while !receiver.is_empty() {
            receiver.recv().await.unwrap();
        }
        let small = event(1);
        for _ in 0..CHANGES {
            sender.send(&small).unwrap();
        }
        assert_eq!(sender.send(&small), Err(Refused::Full));
        drop(receiver);
        assert_eq!(sender.send(&small), Err(Refused::Closed));
    }

    #[tokio::test]
    async fn a_change_that_is_larger_than_the_bound_passes_alone() {
        let (sender, mut receiver) = channel();
        let large = event(BYTES + 1);
        sender.send(&large).unwrap();
        assert_eq!(sender.send(&event(1)), Err(Refused::Full));
        assert!(receiver.recv().await.is_some());
        sender.send(&large).unwrap();
    }
}
