//! What readers see, and how the writer changes it. Everything here is durable already.
//!
//! Readers take the lock shared and briefly; the writer takes it alone only to add what it has just made durable, never
//! across disk I/O. So no read waits for a disk's write.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use tokio::sync::watch;

use super::{
    disk::{Disk, Fault},
    index::{Found, Index},
    lease::Leases,
    recent::{Change, Recent},
};
use crate::{Batch, Error, Event, EventKind, KeyValue, LeaseId, Result};

/// How many changes and bytes of a watch's past are read from the file at a time.
const CHUNK_CHANGES: usize = 1024;
const CHUNK_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct State {
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) index: Index,
    pub(super) recent: Recent,
    /// Nothing is served any more.
    pub(super) closed: bool,
}

#[derive(Debug)]
pub(super) struct Shared {
    state: RwLock<State>,
    leases: Mutex<Leases>,
    /// The revision; woken at each change of it, and at the close.
    head: watch::Sender<i64>,
    /// `None` while a fault is being recovered from, and after the close.
    disk: RwLock<Option<Arc<Disk>>>,
}

/// The next part of a watch.
pub(super) enum Step {
    /// Everything under the prefix before `next`.
    Batches { batches: Vec<Batch>, next: i64 },
    /// Memory does not reach back so far: read the file up to here.
    Stored { until: i64 },
}

/// A change, and the lease of each key put.
#[derive(Debug)]
pub(super) struct Leased {
    pub(super) change: Change,
    pub(super) leases: Vec<Option<LeaseId>>,
}

impl Shared {
    pub(super) fn new(state: State, leases: Leases, disk: Disk) -> Self {
        let head = watch::Sender::new(state.revision);
        Self {
            state: RwLock::new(state),
            leases: Mutex::new(leases),
            head,
            disk: RwLock::new(Some(Arc::new(disk))),
        }
    }

    /// For reading, if the store is open. A writer that panicked has closed it, so a poisoned lock is never seen open.
    pub(super) fn read(&self, operation: &'static str) -> Result<RwLockReadGuard<'_, State>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(Error::Unavailable { operation, reason: "store is closed".to_owned() });
        }
        Ok(state)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn head(&self) -> watch::Receiver<i64> {
        self.head.subscribe()
    }

    pub(super) fn disk(&self) -> Option<Arc<Disk>> {
        self.disk.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_disk(&self, disk: Option<Arc<Disk>>) {
        *self.disk.write().unwrap_or_else(PoisonError::into_inner) = disk;
    }

    pub(super) fn close(&self) {
        self.write().closed = true;
        self.set_disk(None);
        self.head.send_modify(|_| {});
    }

    /// Shows changes that have become durable.
    pub(super) fn publish(&self, changes: Vec<Leased>) {
        let mut state = self.write();
        let mut leases = self.leases();
        for Leased { change, leases: granted } in changes {
            for (sub, (event, lease)) in (0..).zip(change.events.iter().zip(granted)) {
                let key = &event.kv.key;
                if let Some(former) = state.index.lease(key) {
                    leases.detach(former, key);
                }
                match event.kind {
                    EventKind::Put => state.index.put(sub, &event.kv, lease),
                    EventKind::Delete => state.index.delete((change.revision, sub), key),
                }
                if let Some(lease) = lease {
                    leases.attach(lease, key);
                }
            }
            state.revision = change.revision;
            state.recent.push(Arc::new(change));
        }
        let revision = state.revision;
        drop((state, leases));
        self.head.send_replace(revision);
    }

    /// Forgets what a durable compaction covers; returns what can be removed from the file.
    pub(super) fn compact(&self, revision: i64) -> Vec<super::index::Place> {
        let mut state = self.write();
        state.compacted = revision;
        state.recent.compact(revision);
        state.index.compact(revision)
    }

    /// The changes under `prefix` from `from` on that are in memory.
    pub(super) fn step(&self, prefix: &str, from: i64) -> Result<Step> {
        let state = self.read("watch")?;
        if from <= state.compacted {
            return Err(Error::Compacted { compacted: state.compacted });
        }
        let first = state.recent.first().unwrap_or(state.revision + 1);
        if from < first {
            return Ok(Step::Stored { until: first - 1 });
        }
        let mut batches = Vec::new();
        for change in state.recent.from(from) {
            if batches.len() == CHUNK_CHANGES {
                return Ok(Step::Batches { batches, next: change.revision });
            }
            let events: Vec<Event> =
                change.events.iter().filter(|event| event.kv.key.starts_with(prefix)).cloned().collect();
            if !events.is_empty() {
                batches.push(Batch { revision: change.revision, events });
            }
        }
        Ok(Step::Batches { batches, next: from.max(state.revision + 1) })
    }

    /// The changes under `prefix` of `from..=until`, or the first part of them, read from the file. Blocks.
    pub(super) fn stored_step(&self, prefix: &str, from: i64, until: i64) -> Result<Step> {
        let unreadable = |fault: Fault| fault.refusal("watch");
        let disk = self.disk().ok_or_else(|| recovering("watch"))?;
        let snapshot = disk.snapshot().map_err(unreadable)?;
        let mut changes: Vec<(i64, EventKind, KeyValue)> = Vec::new();
        let (mut bytes, mut next) = (0, until + 1);
        let visit = |(revision, _): (i64, u32), record: &super::record::Record<'_>| {
            let full = changes.len() >= CHUNK_CHANGES || bytes >= CHUNK_BYTES;
            // A revision is never torn apart.
            if full && changes.last().is_some_and(|(last, ..)| *last != revision) {
                next = revision;
                return ControlFlow::Break(());
            }
            if record.key.starts_with(prefix) {
                let kind = if record.put.is_some() { EventKind::Put } else { EventKind::Delete };
                let kv = record.key_value(revision);
                bytes += kv.key.len() + kv.value.len();
                changes.push((revision, kind, kv));
            }
            ControlFlow::Continue(())
        };
        snapshot.changes(from..=until, visit).map_err(unreadable)?;

        let mut batches: Vec<Batch> = Vec::new();
        for (revision, kind, kv) in changes {
            let found = self.read("watch")?.index.at(&kv.key, revision - 1);
            let prev = match found {
                Some(found) => fill(&snapshot, found).map_err(unreadable)?,
                None => None,
            };
            let event = Event { kind, kv, prev };
            match batches.last_mut() {
                Some(batch) if batch.revision == revision => batch.events.push(event),
                _ => batches.push(Batch { revision, events: vec![event] }),
            }
        }
        // A compaction meanwhile may have taken some of it away.
        let compacted = self.read("watch")?.compacted;
        if from <= compacted {
            return Err(Error::Compacted { compacted });
        }
        Ok(Step::Batches { batches, next })
    }

    /// Reads the values that are in the file only. Blocks.
    pub(super) fn fill(&self, found: Vec<Found>, revision: i64) -> Result<Vec<KeyValue>> {
        let disk = self.disk().ok_or_else(|| recovering("list"))?;
        let unreadable = |fault: Fault| fault.refusal("list");
        let snapshot = disk.snapshot().map_err(unreadable)?;
        let mut items = Vec::with_capacity(found.len());
        for found in found {
            match fill(&snapshot, found).map_err(unreadable)? {
                Some(kv) => items.push(kv),
                None => {
                    return Err(Error::Compacted {
                        compacted: self.read("list")?.compacted.max(revision + 1),
                    });
                }
            }
        }
        Ok(items)
    }
}

fn recovering(operation: &'static str) -> Error {
    Error::Unavailable { operation, reason: "file is being recovered after a fault".to_owned() }
}

fn fill(snapshot: &super::disk::Snapshot, found: Found) -> Result<Option<KeyValue>, Fault> {
    let Some(place) = found.stored else { return Ok(Some(found.kv)) };
    let value = snapshot.value(place)?;
    Ok(value.map(|value| KeyValue { value, ..found.kv }))
}
