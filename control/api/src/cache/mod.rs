//! The watch cache: one store watch however many watch us, each object decoded once and encoded once, shared by
//! every reader and any number of watchers.
//!
//! A [task](feed) lists, then follows the store. When the store is away it waits and resumes where it was, and
//! nobody notices; when it stays away, watchers are sent to other servers, which may reach it. Only when the store has forgotten that revision are the caches rebuilt and every watcher cut
//! with 410. Readers who need the newest state wait until the cache has caught up with the store
//! ([`KindCache::fresh`]).
//!
//! **Invariant:** lists and watches show the state of exactly one store revision.
//! **Invariant:** memory is bounded by what is stored, a ring of changes, and a queue per watcher; a watcher that
//! does not keep up is cut.
//!
//! Left out: the past. Lists at an older revision (further pages) go to the store.

mod event;
mod feed;
mod filter;
mod object;
mod queue;
mod state;
mod watcher;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::watch;
use tokio::time::timeout;
use weir_proto::Kind;
use weir_proto::core::v1::Pod;
use weir_proto::status::ApiError;
use weir_store::{KeyValue, Store};

pub use event::ChangeType;
pub(crate) use feed::Feed;
pub use filter::Filter;
pub use object::CachedObject;
use state::{State, Trigger};
use watcher::Start;
pub use watcher::{WatchEvent, Watcher};

use crate::metrics;
use crate::store_error;

/// How long a reader waits for the cache to reach the store's revision before it is told to come again.
const CATCH_UP: Duration = Duration::from_secs(3);
/// How long a list waits, before it is read from the store.
const FRESHNESS: Duration = Duration::from_millis(200);
/// How long before it asks the store to say how far it is.
const PATIENCE: Duration = Duration::from_millis(20);

/// A part of a list.
#[derive(Debug)]
pub struct CachePage {
    pub revision: i64,
    pub items: Vec<Arc<CachedObject>>,
    /// Key of the last item, if others follow.
    pub after: Option<String>,
    /// How many follow; not known when a selector filters.
    pub remaining: Option<usize>,
}

/// Where a watch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The present state as additions and a bookmark, then changes.
    Present,
    /// The changes after this revision.
    Revision(i64),
}

/// The cache of one kind.
pub struct KindCache {
    kind: &'static Kind,
    store: Arc<dyn Store>,
    trigger: Option<Trigger>,
    counted: Counted,
    state: RwLock<State>,
    /// Repeats the state's revision (0 until ready), for those who wait for it.
    progress: watch::Sender<i64>,
    /// Whether the store has been out of reach for so long that whoever follows should ask another server.
    away: watch::Sender<bool>,
}

impl std::fmt::Debug for KindCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KindCache").field("kind", &self.kind.kind).finish_non_exhaustive()
    }
}

impl KindCache {
    pub fn new(kind: &'static Kind, store: Arc<dyn Store>) -> Arc<Self> {
        let trigger: Option<Trigger> = match (kind.group, kind.kind) {
            ("", "Pod") => Some(node_of_pod),
            _ => None,
        };
        let counted = Counted::of(kind);
        let (state, progress, away) = (RwLock::default(), watch::channel(0).0, watch::channel(false).0);
        Arc::new(KindCache { kind, store, trigger, counted, state, progress, away })
    }

    pub fn kind(&self) -> &'static Kind {
        self.kind
    }

    // A panic while the lock is held cannot leave the state half changed in a way that a reader could meet: each
    // change is an insertion or removal of one object.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the store holds under a key of ours. What cannot be read is left out of lists and watches, and said; a
    /// get of it answers with the error.
    fn decode(&self, kv: &KeyValue) -> Option<CachedObject> {
        match CachedObject::decode(self.kind, kv) {
            Ok(object) => Some(object),
            Err(error) => {
                tracing::error!(key = kv.key, revision = kv.mod_revision, %error, "cannot decode a stored object");
                None
            }
        }
    }

    fn replace(&self, objects: BTreeMap<String, Arc<CachedObject>>, revision: i64) {
        self.write().replace(objects, revision, self.trigger);
        self.progress.send_replace(revision);
    }

    /// `None`: the key is gone.
    fn change(&self, kv: KeyValue, object: Option<CachedObject>) {
        self.counted.dispatched.inc();
        if let Some(object) = &object {
            // Outside of the lock: it is going to be kept in this form.
            object.protobuf();
        }
        let mut state = self.write();
        match object {
            Some(object) => state.put(kv.key, object, self.trigger),
            None => state.delete(&kv.key, kv.mod_revision, self.trigger),
        }
    }

    fn advance(&self, revision: i64) {
        self.write().advance(revision);
        self.progress.send_replace(revision);
    }

    /// Cuts all watchers, and takes no new ones until the store is back.
    fn leave(&self) {
        self.away.send_replace(true);
        self.write().cut();
    }

    fn come_back(&self) {
        self.away.send_if_modified(std::mem::take);
    }

    pub(crate) fn check_present(&self) -> Result<(), ApiError> {
        if *self.away.borrow() {
            let message = format!("{}: this server cannot reach the store", self.kind.plural);
            return Err(ApiError::unavailable(message));
        }
        Ok(())
    }

    /// Returns once the store is out of reach, and why nobody should wait here.
    pub(crate) async fn left(&self) -> ApiError {
        let mut away = self.away.subscribe();
        // The sender lives in `self`.
        let _ = away.wait_for(|away| *away).await;
        ApiError::unavailable("this server cannot reach the store")
    }

    /// The revision that the cache shows; 0 before its first listing.
    pub fn revision(&self) -> i64 {
        self.read().revision
    }

    /// Whether the first listing has been read.
    pub fn is_ready(&self) -> bool {
        self.read().ready
    }

    /// Waits for the first listing.
    pub async fn ready(&self) -> Result<(), ApiError> {
        self.reach(1).await
    }

    /// Waits until the cache shows everything that the store held when this was called. `false` if that takes
    /// longer than reading from the store: not every etcd tells a watcher that nothing happened.
    pub async fn fresh(&self) -> Result<bool, ApiError> {
        self.ready().await?;
        let revision = self.store_revision().await?;
        if self.revision() >= revision {
            return Ok(true);
        }
        match timeout(FRESHNESS, self.reach(revision)).await {
            Ok(reached) => reached.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// The store's newest revision.
    pub async fn store_revision(&self) -> Result<i64, ApiError> {
        let any = self.store.get(&self.kind.prefix(None)).await;
        Ok(any.map_err(store_error::during("read"))?.revision)
    }

    /// Waits until the cache shows `revision`.
    pub async fn reach(&self, revision: i64) -> Result<(), ApiError> {
        let mut progress = self.progress.subscribe();
        if *progress.borrow_and_update() >= revision {
            return Ok(());
        }
        let reached = async {
            if timeout(PATIENCE, progress.wait_for(|now| *now >= revision)).await.is_ok() {
                return Ok(());
            }
            self.store.request_progress().await.map_err(store_error::during("follow"))?;
            // The sender lives as long as the cache, which we borrow.
            let _ = progress.wait_for(|now| *now >= revision).await;
            Ok(())
        };
        timeout(CATCH_UP, reached).await.unwrap_or_else(|_| {
            let message = format!(
                "the cache of {} has not caught up with revision {revision} of the store",
                self.kind.plural
            );
            Err(ApiError::unavailable(message))
        })
    }

    /// The cached object, which may be a little older than the store's.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<CachedObject>> {
        self.read().get(&self.kind.key(namespace, name))
    }

    /// All that match, at the cache's present revision.
    pub fn list(&self, filter: &Filter) -> (i64, Vec<Arc<CachedObject>>) {
        let prefix = self.prefix(filter);
        let state = self.read();
        (state.revision, state.matching(&prefix, filter, self.picked(filter)))
    }

    /// The value that the kind's trigger picks for everything that the filter lets through, where that is known.
    fn picked<'a>(&self, filter: &'a Filter) -> Option<&'a str> {
        self.trigger.and_then(|_| filter.fields.as_ref()?.pinned("spec.nodeName"))
    }

    /// Whether any of the objects for which the trigger picks `value` (the pods of a node) passes.
    pub fn any_picked(&self, value: &str, passes: impl Fn(&CachedObject) -> bool) -> bool {
        let prefix = self.kind.prefix(None);
        self.read().range_picked(value, &prefix, None).any(|(_, object)| passes(object))
    }

    /// At most `limit` of them (0 = all) behind the key `after`. `at` is the revision of the first page: `None`
    /// comes back if the cache no longer shows the state of that revision.
    pub fn page(
        &self,
        filter: &Filter,
        limit: usize,
        after: Option<&str>,
        at: Option<i64>,
    ) -> Option<CachePage> {
        let prefix = self.prefix(filter);
        let state = self.read();
        if at.is_some_and(|at| at < state.changed || at > state.revision) {
            return None;
        }
        let revision = at.unwrap_or(state.revision);
        let mut range: Box<dyn Iterator<Item = _>> = match self.picked(filter) {
            Some(value) => Box::new(state.range_picked(value, &prefix, after)),
            None => Box::new(state.range(&prefix, after)),
        };
        let mut items = Vec::new();
        let mut last = None;
        for (key, object) in range.by_ref() {
            if filter.matches(object) {
                items.push(object.clone());
                last = Some(key);
                if limit > 0 && items.len() == limit {
                    break;
                }
            }
        }
        let more = range.filter(|(_, object)| filter.matches(object)).count();
        let after = last.filter(|_| more > 0).cloned();
        Some(CachePage { revision, items, after, remaining: (!filter.is_selective()).then_some(more) })
    }

    fn prefix(&self, filter: &Filter) -> String {
        self.kind.prefix((!filter.namespace.is_empty()).then_some(filter.namespace.as_str()))
    }

    /// Starts a watch. `bookmarks` sends one now and then.
    pub fn watch(self: &Arc<Self>, filter: Filter, from: From, bookmarks: bool) -> Result<Watcher, ApiError> {
        let mut state = self.write();
        // Under the lock: whoever subscribes is then cut, or was refused.
        self.check_present()?;
        let start = match from {
            From::Present => Start::Present {
                objects: state.matching(&self.prefix(&filter), &filter, self.picked(&filter)).into(),
                revision: state.revision,
            },
            From::Revision(revision) => match state.replay(revision) {
                Ok(events) => Start::Past(events.into()),
                Err(old) => {
                    let message = format!("too old resource version: {revision} ({})", old.floor);
                    return Err(ApiError::expired(message));
                }
            },
        };
        let triggered = self.picked(&filter).map(str::to_owned);
        let receiver = state.subscribe(triggered);
        drop(state);
        let known = match from {
            From::Present => 0,
            From::Revision(revision) => revision,
        };
        let sent = self.counted.sent.clone();
        Ok(Watcher::new(Arc::downgrade(self), filter, start, receiver, known, bookmarks, sent))
    }

    fn expired(&self, reason: &str) -> ApiError {
        ApiError::expired(format!("{}: {reason}", self.kind.plural))
    }

    /// Brings the gauges up to date.
    pub(crate) fn measure(&self) {
        let labels = [self.kind.group, self.kind.plural];
        let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        metrics::STORAGE_OBJECTS.with_label_values(&[self.kind.resource_name()]).set(number(self.len()));
        metrics::CACHE_CAPACITY.with_label_values(&labels).set(number(state::RING));
        metrics::CACHE_REVISION.with_label_values(&labels).set(self.revision());
    }

    pub fn len(&self) -> usize {
        self.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What happens too often to look its counter up each time.
struct Counted {
    dispatched: IntCounter,
    sent: IntCounter,
}

impl Counted {
    fn of(kind: &Kind) -> Self {
        Counted {
            dispatched: metrics::CACHE_DISPATCHED.with_label_values(&[kind.group, kind.plural]),
            sent: metrics::WATCH_EVENTS.with_label_values(&[kind.group, kind.version, kind.kind]),
        }
    }
}

fn node_of_pod(cached: &CachedObject) -> Option<&str> {
    let node = cached.typed::<Pod>()?.spec.as_ref()?.node_name.as_str();
    (!node.is_empty()).then_some(node)
}
