//! Feeds the caches of all kinds from one watch of the store: list, follow, and begin again when the store is away or
//! has moved on.
//!
//! One watch for all kinds, because then every write tells every cache how new it is: a list of pods need not
//! wait for news of pods to know that there are none. (etcd answers the question "how far are you" only from 3.4.25
//! on.) And changes of different kinds arrive in the order in which they were made.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use weir_store::{Batch, Error as StoreError, Event, EventKind, ListOptions, Store};

use super::{CachedObject, KindCache};

/// Under this all kinds are kept.
const ROOT: &str = "/registry/";
/// Keys read at once.
const PAGE: usize = 1000;
/// Changes after which the caches are told, at the latest, how new they are.
const AT_ONCE: usize = 64;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// After so long without the store those who watch are sent to other servers.
const PATIENCE: Duration = Duration::from_secs(5);

/// The caches of all kinds.
#[derive(Debug)]
pub(crate) struct Feed {
    by_prefix: HashMap<String, Arc<KindCache>>,
    /// What has been read up to; 0: nothing.
    revision: i64,
    /// Since when the store is out of reach.
    lost: Option<Instant>,
}

impl Feed {
    pub(crate) fn new(caches: impl IntoIterator<Item = Arc<KindCache>>) -> Self {
        let by_prefix = caches.into_iter().map(|cache| (cache.kind.prefix(None), cache)).collect();
        Feed { by_prefix, revision: 0, lost: None }
    }

    /// Follows the store until cancelled.
    pub(crate) async fn run(mut self, store: Arc<dyn Store>, stop: CancellationToken) {
        let mut wait = FIRST_WAIT;
        loop {
            let before = self.revision;
            let failed = tokio::select! {
                () = stop.cancelled() => return,
                failed = self.follow(store.as_ref()) => failed,
            };
            if self.revision > before {
                wait = FIRST_WAIT;
            }
            if self.lost.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                self.by_prefix.values().for_each(|cache| cache.leave());
            }
            match failed {
                StoreError::Compacted { compacted } => {
                    tracing::info!(compacted, "the store has moved on; reading all anew");
                    self.revision = 0;
                }
                error => tracing::warn!(%error, ?wait, "cannot follow the store"),
            }
            // Servers lose the store together; they should not return in step.
            let jitter = crate::random::below(100).unwrap_or(0);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait + wait.mul_f64(f64::from(jitter) / 200.0)) => {}
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn follow(&mut self, store: &dyn Store) -> StoreError {
        match self.try_follow(store).await {
            Ok(()) => StoreError::Unavailable { operation: "watch", reason: "the stream ended".to_owned() },
            Err(error) => error,
        }
    }

    async fn try_follow(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        if self.revision == 0 {
            self.revision = self.read_all(store).await?;
        }
        let mut ready = store.watch(ROOT, self.revision + 1).await?.ready_chunks(AT_ONCE);
        self.lost = None;
        self.by_prefix.values().for_each(|cache| cache.come_back());
        while let Some(batches) = ready.next().await {
            for batch in batches {
                let batch = batch?;
                self.revision = self.revision.max(batch.revision);
                self.apply(batch);
            }
            // The others once for all that had come: whoever waits for a revision is woken each time.
            self.by_prefix.values().for_each(|cache| cache.advance(self.revision));
        }
        Ok(())
    }

    /// Fills every cache with what is there at one revision.
    async fn read_all(&self, store: &dyn Store) -> Result<i64, StoreError> {
        let mut found: HashMap<&str, BTreeMap<String, Arc<CachedObject>>> = HashMap::new();
        let mut options = ListOptions { limit: PAGE, ..ListOptions::default() };
        let revision = loop {
            let page = store.list(ROOT, options.clone()).await?;
            options.revision = Some(page.revision);
            options.after = page.items.last().map(|last| last.key.clone());
            for kv in page.items {
                let Some((prefix, cache)) = self.cache_of(&kv.key) else { continue };
                if let Some(object) = cache.decode(&kv) {
                    found.entry(prefix).or_default().insert(kv.key, Arc::new(object));
                }
            }
            if !page.more || options.after.is_none() {
                break page.revision;
            }
        };
        for (prefix, cache) in &self.by_prefix {
            cache.replace(found.remove(prefix.as_str()).unwrap_or_default(), revision);
        }
        Ok(revision)
    }

    /// Hands each cache its changes, and tells it, once it has all of them, how new it is.
    fn apply(&self, batch: Batch) {
        let mut changes: Vec<(&Arc<KindCache>, Event)> = Vec::with_capacity(batch.events.len());
        for event in batch.events {
            if let Some((_, cache)) = self.cache_of(&event.kv.key) {
                changes.push((cache, event));
            }
        }
        let concerned: Vec<&Arc<KindCache>> = changes.iter().map(|(cache, _)| *cache).collect();
        for (cache, event) in changes {
            // Decoding happens outside of the lock. What cannot be decoded is gone, as far as readers can see.
            let object = match event.kind {
                EventKind::Put => cache.decode(&event.kv),
                EventKind::Delete => None,
            };
            cache.change(event.kv, object);
        }
        for cache in concerned {
            cache.advance(batch.revision);
        }
    }

    /// Keys are `/registry/PLURAL/…` or `/registry/GROUP/PLURAL/…`; there are others, which hold no objects.
    fn cache_of(&self, key: &str) -> Option<(&str, &Arc<KindCache>)> {
        let ends = key.match_indices('/').map(|(at, _)| at + 1).skip(2).take(2);
        ends.filter_map(|end| self.by_prefix.get_key_value(&key[..end]))
            .next()
            .map(|(key, cache)| (key.as_str(), cache))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_find_their_kind() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(weir_store::embedded::open(dir.path().join("db")).unwrap());
        let feed = Feed::new(weir_proto::kinds().iter().map(|kind| KindCache::new(kind, store.clone())));
        let kind = |key: &str| feed.cache_of(key).map(|(_, cache)| cache.kind.plural);
        assert_eq!(kind("/registry/pods/default/web"), Some("pods"));
        assert_eq!(kind("/registry/nodes/n1"), Some("nodes"));
        assert_eq!(kind("/registry/apps/deployments/default/web"), Some("deployments"));
        assert_eq!(kind("/registry/allocations/node-ports/30000"), None);
        assert_eq!(kind("/registry/apps"), None);
    }
}
