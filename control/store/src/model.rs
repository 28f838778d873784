//! The values that go in and out of a store: keys, pages, transactions, events.

use std::{collections::HashSet, fmt};

use bytes::Bytes;

use crate::{Error, Result};

/// Most operations, and most compares, of one transaction (etcd's default).
pub const MAX_TXN_OPS: usize = 128;

/// Most bytes of keys and values in one transaction: a little below etcd's default limit of a request.
pub const MAX_TXN_BYTES: usize = 1_500_000;

/// One key as of some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Bytes,
    /// Revision of the put that created the key; 0 in a delete event.
    pub create_revision: i64,
    /// Revision of the last change.
    pub mod_revision: i64,
    /// Number of puts since it was created; 0 in a delete event.
    pub version: i64,
    /// The lease it ends with.
    pub lease: Option<LeaseId>,
}

/// Something read, and the store's revision at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot<T> {
    pub revision: i64,
    pub value: T,
}

/// What to list. The default is everything at the newest revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Read the past at this revision; `None` = now.
    pub revision: Option<i64>,
    /// Most items of the page; 0 = all.
    pub limit: usize,
    /// Start behind this key (the last one of the page before).
    pub after: Option<String>,
}

/// A page of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The revision the page shows: the one asked for, or the newest.
    pub revision: i64,
    pub items: Vec<KeyValue>,
    /// Whether keys follow behind the last item.
    pub more: bool,
    /// How many.
    pub remaining: u64,
}

/// A lease's number, unique in its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Holds if the key's newest change is of this revision; 0 = the key is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    pub key: String,
    pub mod_revision: i64,
}

/// One change of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets a key. It belongs to `lease` from then on, and to no lease if that is `None`.
    Put { key: String, value: Bytes, lease: Option<LeaseId> },
    /// Deletes a key; nothing happens if it is absent.
    Delete { key: String },
}

impl Op {
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    /// The lease that the key will belong to.
    pub fn lease(&self) -> Option<LeaseId> {
        match self {
            Self::Put { lease, .. } => *lease,
            Self::Delete { .. } => None,
        }
    }
}

/// Changes to make together, if the compares hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub ops: Vec<Op>,
}

impl Txn {
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if `key` was last changed at `mod_revision`.
    pub fn unchanged(mut self, key: impl Into<String>, mod_revision: i64) -> Self {
        self.compares.push(Compare { key: key.into(), mod_revision });
        self
    }

    /// Only if `key` is absent.
    pub fn absent(self, key: impl Into<String>) -> Self {
        self.unchanged(key, 0)
    }

    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: None });
        self
    }

    pub fn put_leased(mut self, key: impl Into<String>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: Some(lease) });
        self
    }

    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }

    /// Bytes of all keys and values.
    pub fn size(&self) -> usize {
        let compares: usize = self.compares.iter().map(|compare| compare.key.len()).sum();
        let ops = self.ops.iter().map(|op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
        });
        compares + ops.sum::<usize>()
    }

    /// What every backend refuses alike, before it does anything.
    pub fn check(&self) -> Result<()> {
        let count = self.ops.len().max(self.compares.len());
        if count > MAX_TXN_OPS {
            return Err(Error::TooLarge { unit: "operations", size: count, limit: MAX_TXN_OPS });
        }
        let size = self.size();
        if size > MAX_TXN_BYTES {
            return Err(Error::TooLarge { unit: "bytes", size, limit: MAX_TXN_BYTES });
        }
        if self.compares.iter().any(|compare| compare.key.is_empty()) {
            return Err(Error::EmptyKey);
        }
        let mut seen = HashSet::with_capacity(self.ops.len());
        for key in self.ops.iter().map(Op::key) {
            if key.is_empty() {
                return Err(Error::EmptyKey);
            }
            if !seen.insert(key) {
                return Err(Error::DuplicateKey { key: key.to_owned() });
            }
        }
        Ok(())
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Whether all compares held, and so all operations were performed.
    pub committed: bool,
    /// The revision of the changes; the store's revision if there were none.
    pub revision: i64,
    /// The newest state of the compared keys, in order, when not committed; else empty.
    pub current: Vec<Option<KeyValue>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// The key after the change. Of a delete: no value, and the revision of the delete as `mod_revision`.
    pub kv: KeyValue,
    /// The key before the change. `None` if it was absent; also if that state has been compacted.
    pub prev: Option<KeyValue>,
}

/// All changes of one revision under the watched prefix, in the order of the transaction; or none, to tell that
/// everything up to `revision` has been delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub revision: i64,
    pub events: Vec<Event>,
}
