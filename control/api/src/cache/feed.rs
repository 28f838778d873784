//! Feeds a cache from the store: list, follow, and begin again when the store is away or has moved on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use weir_store::{Error as StoreError, EventKind, KeyValue, ListOptions};

use super::{CachedObject, KindCache};

/// Keys read at once.
const PAGE: usize = 1000;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

impl KindCache {
    /// Follows the store until cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut wait = FIRST_WAIT;
        loop {
            let before = self.revision();
            let failed = tokio::select! {
                () = stop.cancelled() => return,
                failed = self.follow() => failed,
            };
            if self.revision() > before {
                wait = FIRST_WAIT;
            }
            match failed {
                StoreError::Compacted { compacted } => {
                    tracing::info!(
                        kind = self.kind.kind,
                        compacted,
                        "the store has moved on; reading all anew"
                    );
                    self.write().ready = false;
                }
                error => tracing::warn!(kind = self.kind.kind, %error, ?wait, "cannot follow the store"),
            }
            // Caches fail together when the store does; they should not return in step.
            let jitter = crate::random::below(100).unwrap_or(0);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait + wait.mul_f64(f64::from(jitter) / 200.0)) => {}
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn follow(&self) -> StoreError {
        match self.try_follow().await {
            Ok(()) => StoreError::Unavailable { operation: "watch", reason: "the stream ended".to_owned() },
            Err(error) => error,
        }
    }

    async fn try_follow(&self) -> Result<(), StoreError> {
        if !self.is_ready() {
            let (objects, revision) = self.read_all().await?;
            self.write().replace(objects, revision);
            self.progress.send_replace(revision);
        }
        let mut batches = self.store.watch(&self.kind.prefix(None), self.revision() + 1).await?;
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            // Decoding happens outside of the lock.
            let changes: Vec<_> = batch
                .events
                .into_iter()
                .map(|event| match event.kind {
                    EventKind::Put => (self.decode(&event.kv), event.kv),
                    EventKind::Delete => (None, event.kv),
                })
                .collect();
            let mut state = self.write();
            for (object, kv) in changes {
                match object {
                    Some(object) => state.put(kv.key, object, self.trigger),
                    None => state.delete(&kv.key, kv.mod_revision, self.trigger),
                }
            }
            state.advance(batch.revision);
            drop(state);
            self.progress.send_replace(batch.revision);
        }
        Ok(())
    }

    async fn read_all(&self) -> Result<(BTreeMap<String, Arc<CachedObject>>, i64), StoreError> {
        let mut objects = BTreeMap::new();
        let mut options = ListOptions { limit: PAGE, ..ListOptions::default() };
        loop {
            let page = self.store.list(&self.kind.prefix(None), options.clone()).await?;
            options.revision = Some(page.revision);
            options.after = page.items.last().map(|last| last.key.clone());
            for kv in page.items {
                if let Some(object) = self.decode(&kv) {
                    objects.insert(kv.key, Arc::new(object));
                }
            }
            if !page.more || options.after.is_none() {
                return Ok((objects, page.revision));
            }
        }
    }

    /// What cannot be read is left out of lists and watches, and said; a get of it answers with the error.
    fn decode(&self, kv: &KeyValue) -> Option<CachedObject> {
        match CachedObject::decode(self.kind, kv) {
            Ok(object) => Some(object),
            Err(error) => {
                tracing::error!(key = kv.key, revision = kv.mod_revision, %error, "cannot decode a stored object");
                None
            }
        }
    }
}
