//! Forgets the store's past, a few minutes after it happened: what nobody pages through or resumes from any more.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use weir_store::Store;

/// The past stays for one to two of these.
const EVERY: Duration = Duration::from_secs(300);
/// Read for the store's revision only.
const ANY_KEY: &str = "/registry/namespaces/default";

pub(crate) fn start(store: Arc<dyn Store>, stop: CancellationToken) {
    tokio::spawn(async move {
        let mut keep_from = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            keep_from = step(store.as_ref(), keep_from).await;
        }
    });
}

/// Compacts to what was the newest revision at the step before; returns what is the newest now.
async fn step(store: &dyn Store, keep_from: Option<i64>) -> Option<i64> {
    if let Some(revision) = keep_from {
        match store.compact(revision).await {
            Ok(()) => tracing::debug!(revision, "compacted the store"),
            Err(error) => tracing::warn!(revision, %error, "cannot compact the store"),
        }
    }
    match store.get(ANY_KEY).await {
        Ok(found) => Some(found.revision),
        Err(error) => {
            tracing::warn!(%error, "cannot read the store's revision");
            keep_from
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_store::{ListOptions, Txn};

    use super::*;

    #[tokio::test]
    async fn what_was_at_the_step_before_stays_and_what_was_earlier_goes() {
        let dir = tempfile::tempdir().unwrap();
        let store = weir_store::embedded::open(dir.path().join("db")).unwrap();
        let before = store.txn(Txn::new().put("/registry/a", "1")).await.unwrap().revision;
        store.txn(Txn::new().put("/registry/a", "2")).await.unwrap();
        let kept = step(&store, None).await;
        store.txn(Txn::new().put("/registry/a", "3")).await.unwrap();
        step(&store, kept).await;
        let at = |revision| ListOptions { revision: Some(revision), ..ListOptions::default() };
        assert!(store.list("/registry/", at(before)).await.is_err());
        assert_eq!(store.list("/registry/", at(kept.unwrap())).await.unwrap().items[0].value, "2");
    }
}
