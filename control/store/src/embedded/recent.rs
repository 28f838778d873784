//! The newest changes, kept in memory for the watches: a contiguous run of revisions that ends at the store's
//! revision, bounded by bytes. A watch that is further behind reads the file.

use std::{collections::VecDeque, sync::Arc};

use crate::Event;

/// All changes of one revision.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) revision: i64,
    pub(super) events: Vec<Event>,
}

impl Change {
    /// Memory it holds on to, roughly. A value still alive in the index counts all the same.
    fn weight(&self) -> usize {
        let event = |event: &Event| {
            let prev = event.prev.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
            size_of::<Event>() + event.kv.key.len() + event.kv.value.len() + prev
        };
        self.events.iter().map(event).sum::<usize>() + size_of::<Self>()
    }
}

#[derive(Debug)]
pub(super) struct Recent {
    changes: VecDeque<Arc<Change>>,
    weight: usize,
    limit: usize,
}

impl Recent {
    /// Holds changes of about `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { changes: VecDeque::new(), weight: 0, limit }
    }

    /// Adds the change that follows the last one.
    pub(super) fn push(&mut self, change: Arc<Change>) {
        self.weight += change.weight();
        self.changes.push_back(change);
        while self.weight > self.limit {
            self.pop();
        }
    }

    /// Drops what is not newer than `revision`.
    pub(super) fn compact(&mut self, revision: i64) {
        while self.changes.front().is_some_and(|change| change.revision <= revision) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(change) = self.changes.pop_front() {
            self.weight -= change.weight();
        }
    }

    /// The oldest revision held.
    pub(super) fn first(&self) -> Option<i64> {
        self.changes.front().map(|change| change.revision)
    }

    /// The changes from `revision` on, which must not be older than [`Recent::first`].
    pub(super) fn from(&self, revision: i64) -> impl Iterator<Item = &Arc<Change>> {
        let first = self.first().unwrap_or(revision);
        let skip = usize::try_from(revision - first).unwrap_or(0).min(self.changes.len());
        self.changes.range(skip..)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{EventKind, KeyValue};

    fn change(revision: i64, size: usize) -> Arc<Change> {
        let value = Bytes::from(vec![0; size]);
        let (key, lease) = ("k".into(), None);
        let kv = KeyValue { key, value, create_revision: 1, mod_revision: revision, version: 1, lease };
        Arc::new(Change { revision, events: vec![Event { kind: EventKind::Put, kv, prev: None }] })
    }

    fn revisions(recent: &Recent, from: i64) -> Vec<i64> {
        recent.from(from).map(|change| change.revision).collect()
    }

    #[test]
    fn the_oldest_changes_go_when_it_is_full() {
        let mut recent = Recent::new(10_000);
        for revision in 2..=30 {
            recent.push(change(revision, 1000));
        }
        let first = recent.first().unwrap();
        assert!(first > 20 && recent.weight <= 10_000);
        assert_eq!(revisions(&recent, 29), [29, 30]);
        assert_eq!(revisions(&recent, 31), [] as [i64; 0]);
    }

    #[test]
    fn a_compaction_drops_what_it_covers() {
        let mut recent = Recent::new(10_000);
        (2..=5).for_each(|revision| recent.push(change(revision, 1)));
        recent.compact(3);
        assert_eq!(revisions(&recent, 4), [4, 5]);
        recent.compact(9);
        assert_eq!((recent.first(), recent.weight), (None, 0));
    }
}
