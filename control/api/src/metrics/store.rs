//! A store whose latency is measured, whichever backend it is.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use weir_store::{
    KeyValue, LeaseId, ListOptions, Op, Page, Result, Snapshot, Store, Txn, TxnOutcome, WatchStream,
};

use super::{STORE_DURATION, STORE_ERRORS};

/// Passes everything on to the store it was made from.
pub(crate) struct Measured(Arc<dyn Store>);

impl Measured {
    pub(crate) fn over(store: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(Measured(store))
    }
}

async fn measured<T>(
    operation: &'static str,
    about: &'static str,
    run: impl Future<Output = Result<T>>,
) -> Result<T> {
    let start = Instant::now();
    let outcome = run.await;
    STORE_DURATION.with_label_values(&[operation, about]).observe(start.elapsed().as_secs_f64());
    if outcome.is_err() {
        STORE_ERRORS.with_label_values(&[operation, about]).inc();
    }
    outcome
}

/// What a key is about: the resource of its kind, "allocations", or "other".
fn about(key: &str) -> &'static str {
    static RESOURCES: LazyLock<HashMap<String, &'static str>> = LazyLock::new(|| {
        let kinds = weir_proto::kinds().iter().filter(|kind| !kind.plural.is_empty());
        let named = kinds.map(|kind| (kind.prefix(None), &*kind.resource_name().leak()));
        named.chain([("/registry/allocations/".to_owned(), "allocations")]).collect()
    });
    let ends = key.match_indices('/').map(|(at, _)| at + 1).skip(2).take(2);
    ends.filter_map(|end| RESOURCES.get(&key[..end]).copied()).next().unwrap_or("other")
}

/// What a transaction is for is told by its first operation.
fn purpose(txn: &Txn) -> (&'static str, &'static str) {
    let Some(op) = txn.ops.first() else { return ("txn", "other") };
    let creates = txn.compares.iter().any(|compare| compare.key == op.key() && compare.mod_revision == 0);
    let operation = match op {
        Op::Delete { .. } => "delete",
        Op::Put { .. } if creates => "create",
        Op::Put { .. } => "update",
    };
    (operation, about(op.key()))
}

#[async_trait]
impl Store for Measured {
    async fn get(&self, key: &str) -> Result<Snapshot<Option<KeyValue>>> {
        measured("get", about(key), self.0.get(key)).await
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        measured("list", about(prefix), self.0.list(prefix, options)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        let (operation, about) = purpose(&txn);
        measured(operation, about, self.0.txn(txn)).await
    }

    async fn watch(&self, prefix: &str, from_revision: i64) -> Result<WatchStream> {
        self.0.watch(prefix, from_revision).await
    }

    async fn request_progress(&self) -> Result<()> {
        self.0.request_progress().await
    }

    async fn compact(&self, revision: i64) -> Result<()> {
        measured("compact", "other", self.0.compact(revision)).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId> {
        measured("grant_lease", "other", self.0.grant_lease(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        measured("keep_alive", "other", self.0.keep_alive(lease)).await
    }

    async fn time_left(&self, lease: LeaseId) -> Result<Duration> {
        measured("time_left", "other", self.0.time_left(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        measured("revoke", "other", self.0.revoke(lease)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_transactions_are_named_by_what_they_are_about() {
        assert_eq!(about("/registry/pods/default/web"), "pods");
        assert_eq!(about("/registry/apps/deployments/default/web"), "deployments.apps");
        assert_eq!(about("/registry/allocations/node-ports/30000"), "allocations");
        assert_eq!(about("/elsewhere"), "other");
        let key = "/registry/pods/default/web";
        assert_eq!(purpose(&Txn::new().absent(key).put(key, "")), ("create", "pods"));
        assert_eq!(purpose(&Txn::new().unchanged(key, 7).put(key, "")), ("update", "pods"));
        assert_eq!(purpose(&Txn::new().unchanged(key, 7).delete(key)), ("delete", "pods"));
    }
}
