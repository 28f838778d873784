//! The promises, by what they are about.

pub(crate) mod history;
pub(crate) mod leases;
pub(crate) mod reading;
pub(crate) mod watching;
pub(crate) mod writing;

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use weir_store::{Batch, Event, KeyValue, Result, Store, Txn, TxnOutcome, WatchStream};

pub(crate) type AnyStore = Arc<dyn Store>;

/// Long enough for a busy machine, short enough to notice a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn put(store: &AnyStore, key: &str, value: &str) -> i64 {
    commit(store, Txn::new().put(key, value.to_owned())).await.revision
}

pub(crate) async fn delete(store: &AnyStore, key: &str) -> i64 {
    commit(store, Txn::new().delete(key)).await.revision
}

pub(crate) async fn commit(store: &AnyStore, txn: Txn) -> TxnOutcome {
    let outcome = store.txn(txn).await.unwrap();
    assert!(outcome.committed);
    outcome
}

pub(crate) async fn get(store: &AnyStore, key: &str) -> Option<KeyValue> {
    store.get(key).await.unwrap().value
}

pub(crate) fn keys(items: &[KeyValue]) -> Vec<&str> {
    items.iter().map(|kv| kv.key.as_str()).collect()
}

/// The next item of a watch, of either kind.
pub(crate) async fn next(watch: &mut WatchStream) -> Result<Batch> {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("watch says nothing").expect("watch has ended")
}

/// The next batch that has events.
pub(crate) async fn next_events(watch: &mut WatchStream) -> Result<Batch> {
    loop {
        let batch = next(watch).await?;
        if !batch.events.is_empty() {
            return Ok(batch);
        }
    }
}

/// The next `count` events, one after another.
pub(crate) async fn events(watch: &mut WatchStream, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(next_events(watch).await.unwrap().events);
    }
    assert_eq!(events.len(), count);
    events
}

/// Puts `count` keys under `prefix` from several tasks at once; returns the newest revision.
pub(crate) async fn fill(store: &AnyStore, prefix: &str, count: usize, size: usize) -> i64 {
    let value = "v".repeat(size);
    let write = |index: usize| {
        let txn = Txn::new().put(format!("{prefix}{index:06}"), value.clone());
        async move { store.txn(txn).await.unwrap().revision }
    };
    let writes = futures::stream::iter(0..count).map(write).buffer_unordered(64);
    writes.fold(0, async |newest, revision| newest.max(revision)).await
}
