//! The embedded store against a model that keeps every version of everything in a map: after any sequence of operations,
//! closing and opening among them, both show the same present, the same past, and the same history.

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt;
use proptest::prelude::*;
use tempfile::TempDir;
use weir_store::{
    Error, EventKind, KeyValue, ListOptions, Store, Txn,
    embedded::{self, Embedded, Options},
};

const KEYS: usize = 6;

#[derive(Debug, Clone)]
enum Step {
    /// For each change: which key, and the value to put, or none to delete. `stale`: with a compare that fails.
    Txn {
        changes: Vec<(usize, Option<usize>)>,
        stale: bool,
    },
    /// Compacts so many revisions behind the newest.
    Compact {
        behind: i64,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0..KEYS, prop::option::weighted(0.7, 0..2000_usize));
    let changes = prop::collection::vec(change, 1..4);
    prop_oneof![
        12 => (changes, prop::bool::weighted(0.2)).prop_map(|(changes, stale)| Step::Txn { changes, stale }),
        2 => (0..8_i64).prop_map(|behind| Step::Compact { behind }),
        1 => Just(Step::Reopen),
    ]
}

/// What the store should hold: the state at each revision from the compaction on.
struct Model {
    compacted: i64,
    revision: i64,
    states: BTreeMap<i64, BTreeMap<String, KeyValue>>,
}

impl Model {
    fn new() -> Self {
        Self { compacted: 0, revision: 1, states: BTreeMap::from([(1, BTreeMap::new())]) }
    }

    fn newest(&self) -> &BTreeMap<String, KeyValue> {
        &self.states[&self.revision]
    }

    fn apply(&mut self, changes: &[(String, Option<Vec<u8>>)]) {
        let revision = self.revision + 1;
        let mut state = self.newest().clone();
        let mut changed = false;
        for (key, value) in changes {
            let former = state.remove(key);
            changed |= former.is_some() || value.is_some();
            if let Some(value) = value {
                let (create_revision, version) =
                    former.map_or((revision, 1), |kv| (kv.create_revision, kv.version + 1));
                let value = value.clone().into();
                let (key, lease) = (key.clone(), None);
                let kv = KeyValue {
                    key: key.clone(),
                    value,
                    create_revision,
                    mod_revision: revision,
                    version,
                    lease,
                };
                state.insert(key, kv);
            }
        }
        if changed {
            self.revision = revision;
            self.states.insert(revision, state);
        }
    }

    /// The changes of one revision, as (key, value before, value after).
    fn changes(&self, revision: i64) -> Vec<(String, Option<KeyValue>, Option<KeyValue>)> {
        let (before, after) = (&self.states[&(revision - 1)], &self.states[&revision]);
        let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let changed = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
        changed.map(|key| (key.clone(), before.get(key).cloned(), after.get(key).cloned())).collect()
    }
}

fn key(index: usize) -> String {
    format!("/{}/{}", index % 2, index)
}

/// Little memory for recent changes, so that the file is read too.
fn open(directory: &TempDir) -> Embedded {
    embedded::open_with(directory.path().join("store"), &Options { recent_bytes: 3000 }).unwrap()
}

async fn check(store: &Embedded, model: &Model) {
    for revision in model.compacted.max(1)..=model.revision {
        for prefix in ["/", "/1/"] {
            let options = ListOptions { revision: Some(revision), ..ListOptions::default() };
            let page = store.list(prefix, options).await.unwrap();
            let expected: Vec<_> =
                model.states[&revision].values().filter(|kv| kv.key.starts_with(prefix)).cloned().collect();
            assert_eq!(page.items, expected, "{prefix} at {revision}");
        }
    }
    if model.compacted > 1 {
        let options = ListOptions { revision: Some(model.compacted - 1), ..ListOptions::default() };
        assert!(matches!(store.list("/", options).await, Err(Error::Compacted { .. })));
    }
    let now = store.get(&key(0)).await.unwrap();
    assert_eq!((now.revision, now.value.as_ref()), (model.revision, model.newest().get(&key(0))));
    check_history(store, model).await;
}

async fn check_history(store: &Embedded, model: &Model) {
    let first = model.compacted.max(1) + 1;
    let mut watch = store.watch("/", first).await.unwrap();
    for revision in first..=model.revision {
        let batch =
            tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(batch.revision, revision);
        let mut seen: Vec<_> = batch
            .events
            .into_iter()
            .map(|event| {
                let after = (event.kind == EventKind::Put).then(|| event.kv.clone());
                (event.kv.key, event.prev, after)
            })
            .collect();
        seen.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(seen, model.changes(revision), "changes of {revision}");
    }
}

async fn run(steps: Vec<Step>) {
    let directory = TempDir::new().unwrap();
    let (mut store, mut model) = (open(&directory), Model::new());
    for step in steps {
        match step {
            Step::Txn { changes, stale } => {
                // The last change of a key counts: a transaction names it once.
                let changes: BTreeMap<usize, Option<usize>> = changes.into_iter().collect();
                let changes: Vec<_> = changes
                    .into_iter()
                    .map(|(index, size)| (key(index), size.map(|size| vec![b'v'; size])))
                    .collect();
                let actual = model.newest().get(&changes[0].0).map_or(0, |kv| kv.mod_revision);
                let compare = if stale { actual + 1 } else { actual };
                let txn = Txn::new().unchanged(changes[0].0.as_str(), compare);
                let txn = changes.iter().fold(txn, |txn, (key, value)| match value {
                    Some(value) => txn.put(key.as_str(), value.clone()),
                    None => txn.delete(key.as_str()),
                });
                let outcome = store.txn(txn).await.unwrap();
                assert_eq!(outcome.committed, !stale);
                if !stale {
                    model.apply(&changes);
                }
                assert_eq!(outcome.revision, model.revision);
            }
            Step::Compact { behind } => {
                let revision = (model.revision - behind).max(1);
                store.compact(revision).await.unwrap();
                model.compacted = model.compacted.max(revision);
            }
            Step::Reopen => {
                drop(store);
                store = open(&directory);
            }
        }
        check(&store, &model).await;
    }
    drop(store);
    check(&open(&directory), &model).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_embedded_store_behaves_as_its_model(steps in prop::collection::vec(step(), 1..40)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}
