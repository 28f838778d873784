//! Decides a group of transactions, one after another, each upon the outcome of those before it. Pure: nothing is
//! written and nothing shown until the whole group is durable.

use std::collections::HashMap;

use bytes::Bytes;

use super::{
    index::{Index, Live},
    recent::Change,
    state::Leased,
};
use crate::{Compare, Error, Event, EventKind, KeyValue, LeaseId, Op, Result, Txn, TxnOutcome};

/// A group of transactions decided and not yet written.
pub(super) struct Batch<'a> {
    index: &'a Index,
    /// The store's revision once it is written.
    revision: i64,
    /// The keys it changes, as they will be.
    changed: HashMap<String, Option<Live>>,
    changes: Vec<Leased>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(index: &'a Index, revision: i64) -> Self {
        Self { index, revision, changed: HashMap::new(), changes: Vec::new() }
    }

    /// Decides the next transaction. `is_alive` tells which leases keys may be put with.
    pub(super) fn decide(&mut self, txn: Txn, is_alive: impl Fn(LeaseId) -> bool) -> Result<TxnOutcome> {
        txn.check()?;
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            let current = txn.compares.iter().map(|compare| self.latest(&compare.key).map(|live| live.kv));
            let current = current.collect();
            return Ok(TxnOutcome { committed: false, revision: self.revision, current });
        }
        let dead = txn.ops.iter().find_map(|op| match op {
            Op::Put { lease: Some(lease), .. } if !is_alive(*lease) => Some(*lease),
            _ => None,
        });
        if let Some(lease) = dead {
            return Err(Error::LeaseNotFound(lease));
        }
        self.perform(txn.ops);
        Ok(TxnOutcome { committed: true, revision: self.revision, current: Vec::new() })
    }

    /// Performs operations at a new revision, if they change anything.
    pub(super) fn perform(&mut self, ops: Vec<Op>) {
        let revision = self.revision + 1;
        let mut change = Leased { change: Change { revision, events: Vec::new() }, leases: Vec::new() };
        for op in ops {
            let prev = self.latest(op.key()).map(|live| live.kv);
            let (event, lease) = match op {
                Op::Put { key, value, lease } => (put(key, value, lease, revision, prev), lease),
                Op::Delete { key } => match prev {
                    Some(prev) => (delete(key, revision, prev), None),
                    None => continue,
                },
            };
            let live = (event.kind == EventKind::Put).then(|| Live { kv: event.kv.clone(), lease });
            self.changed.insert(event.kv.key.clone(), live);
            change.change.events.push(event);
            change.leases.push(lease);
        }
        if !change.change.events.is_empty() {
            self.revision = revision;
            self.changes.push(change);
        }
    }

    /// What is to be written: one entry for each new revision.
    pub(super) fn into_changes(self) -> Vec<Leased> {
        self.changes
    }

    fn holds(&self, compare: &Compare) -> bool {
        let newest = match self.changed.get(&compare.key) {
            Some(changed) => changed.as_ref().map(|live| live.kv.mod_revision),
            None => self.index.latest_revision(&compare.key),
        };
        newest.unwrap_or(0) == compare.mod_revision
    }

    fn latest(&self, key: &str) -> Option<Live> {
        match self.changed.get(key) {
            Some(changed) => changed.clone(),
            None => self.index.latest(key),
        }
    }
}

fn put(key: String, value: Bytes, lease: Option<LeaseId>, revision: i64, prev: Option<KeyValue>) -> Event {
    let (create_revision, version) =
        prev.as_ref().map_or((revision, 1), |prev| (prev.create_revision, prev.version + 1));
    let kv = KeyValue { key, value, create_revision, mod_revision: revision, version, lease };
    Event { kind: EventKind::Put, kv, prev }
}

fn delete(key: String, revision: i64, prev: KeyValue) -> Event {
    let kv = KeyValue {
        key,
        value: Bytes::new(),
        create_revision: 0,
        mod_revision: revision,
        version: 0,
        lease: None,
    };
    Event { kind: EventKind::Delete, kv, prev: Some(prev) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(outcome: Result<TxnOutcome>) -> (bool, i64) {
        let outcome = outcome.unwrap();
        (outcome.committed, outcome.revision)
    }

    #[test]
    fn a_transaction_sees_those_before_it_in_the_group() {
        let index = Index::default();
        let mut batch = Batch::new(&index, 1);
        assert_eq!(committed(batch.decide(Txn::new().absent("a").put("a", "1"), |_| true)), (true, 2));
        assert_eq!(committed(batch.decide(Txn::new().absent("a").put("a", "2"), |_| true)), (false, 2));
        assert_eq!(committed(batch.decide(Txn::new().unchanged("a", 2).delete("a"), |_| true)), (true, 3));
        assert_eq!(committed(batch.decide(Txn::new().absent("a").put("a", "3"), |_| true)), (true, 4));
        let changes = batch.into_changes();
        assert_eq!(changes.iter().map(|change| change.change.revision).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(changes[2].change.events[0].kv.version, 1);
    }

    #[test]
    fn a_transaction_that_changes_nothing_takes_no_revision() {
        let index = Index::default();
        let mut batch = Batch::new(&index, 7);
        assert_eq!(committed(batch.decide(Txn::new().delete("absent"), |_| true)), (true, 7));
        assert_eq!(committed(batch.decide(Txn::new(), |_| true)), (true, 7));
        assert!(batch.into_changes().is_empty());
    }

    #[test]
    fn a_put_with_a_dead_lease_is_refused_and_changes_nothing() {
        let index = Index::default();
        let mut batch = Batch::new(&index, 1);
        let txn = Txn::new().put("a", "1").put_leased("b", "1", LeaseId(9));
        assert!(matches!(batch.decide(txn, |_| false), Err(Error::LeaseNotFound(LeaseId(9)))));
        assert!(batch.into_changes().is_empty());
    }
}
