//! Follows the watch caches of Services, EndpointSlices and Nodes, and shares what comes of them among all nodes.
//!
//! Each change is compiled once and put into a bounded ring; a session that falls behind the ring starts over with
//! a snapshot, which is shared too.
//!
//! The three caches follow the store independently, so a change at revision 12 may be known before one at 10 of
//! another kind. A batch is therefore labelled with the revision that *all three* have reached; once they have
//! reached the change's own, an empty batch says so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use weir_proto::core::v1::{Node, Service};
use weir_proto::discovery::v1::EndpointSlice;
use weir_proto::status::ApiError;
use weir_proto::weir::v1::DataplaneBatch;

use super::index::{Difference, Index};
use crate::cache::{ChangeType, Filter, From, KindCache, WatchEvent, Watcher};
use crate::registry::Registry;

/// Batches that a session may be behind.
pub(super) const RING: usize = 1024;
/// Before following anew what broke off.
const PAUSE: Duration = Duration::from_millis(100);

/// The caches that the compiled state is made from.
#[derive(Clone, Debug)]
pub struct Caches {
    services: Arc<KindCache>,
    slices: Arc<KindCache>,
    nodes: Arc<KindCache>,
}

impl Caches {
    pub fn of(registry: &Registry) -> Result<Self, ApiError> {
        Ok(Self {
            services: registry.cache_of::<Service>()?,
            slices: registry.cache_of::<EndpointSlice>()?,
            nodes: registry.cache_of::<Node>()?,
        })
    }

    fn all(&self) -> [&Arc<KindCache>; 3] {
        [&self.services, &self.slices, &self.nodes]
    }

    /// What was told up to this revision has been told by all.
    fn revision(&self) -> i64 {
        self.all().map(|cache| cache.revision()).into_iter().min().unwrap_or(0)
    }

    async fn reach(&self, revision: i64) -> Result<(), ApiError> {
        let (services, slices, nodes) = tokio::join!(
            self.services.reach(revision),
            self.slices.reach(revision),
            self.nodes.reach(revision)
        );
        services.and(slices).and(nodes)
    }
}

/// The compiled state and those who follow it.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    changes: broadcast::Sender<Arc<DataplaneBatch>>,
    /// Up to where everything is in the index; `None` before there is anything.
    reached: watch::Sender<Option<i64>>,
    /// Somebody waits for a revision that no change has brought.
    asked: Notify,
}

#[derive(Debug, Default)]
struct State {
    index: Index,
    /// Everything up to here is in the index.
    revision: i64,
    /// A revision that followers wait to see reached.
    owed: i64,
    snapshot: Option<Arc<DataplaneBatch>>,
}

impl Hub {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changes: broadcast::Sender::new(RING),
            reached: watch::Sender::new(None),
            asked: Notify::new(),
        })
    }

    /// Follows the caches until stopped.
    pub async fn run(self: Arc<Self>, caches: Caches, stop: CancellationToken) {
        // Unconstrained: `now_or_never` must not mistake the scheduler's "yield now" for "nothing there".
        let follow = tokio::task::unconstrained(async {
            loop {
                let error = self.follow(&caches).await;
                tracing::debug!(%error, "following services and nodes anew");
                sleep(PAUSE).await;
            }
        });
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow => {}
        }
    }

    /// Joins in once everything up to `from` is known here: a snapshot, and every batch after it.
    pub async fn subscribe(self: &Arc<Self>, from: i64) -> Subscription {
        {
            let mut state = self.state();
            state.owed = state.owed.max(from);
        }
        self.asked.notify_one();
        // The sender lives in `self`.
        let known = |reached: &Option<i64>| reached.is_some_and(|revision| revision >= from);
        let _ = self.reached.subscribe().wait_for(known).await;
        let (snapshot, changes) = self.join();
        Subscription { hub: self.clone(), snapshot: Some(snapshot), changes }
    }

    fn join(&self) -> (Arc<DataplaneBatch>, broadcast::Receiver<Arc<DataplaneBatch>>) {
        // Batches are sent under the same lock: none is missed, none comes twice.
        let mut state = self.state();
        let changes = self.changes.subscribe();
        let State { index, revision, snapshot, .. } = &mut *state;
        let snapshot = snapshot.get_or_insert_with(|| Arc::new(index.snapshot(*revision)));
        (snapshot.clone(), changes)
    }

    async fn follow(&self, caches: &Caches) -> ApiError {
        match self.try_follow(caches).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_follow(&self, caches: &Caches) -> Result<std::convert::Infallible, ApiError> {
        for cache in caches.all() {
            cache.ready().await?;
        }
        let mut feeds = Feeds::start(caches)?;
        self.state().index.begin_anew();
        let mut revision = i64::MAX;
        for feed in &mut feeds.0 {
            revision = revision.min(self.take_present(feed).await?);
        }
        self.publish(revision);
        loop {
            let (owed, known) = {
                let state = self.state();
                (state.owed, state.revision)
            };
            tokio::select! {
                fed = feeds.next() => {
                    let (source, event) = fed?;
                    self.apply(source, event);
                }
                () = self.asked.notified() => {}
                reached = caches.reach(owed), if owed > known => if let Err(error) = reached {
                    tracing::debug!(%error, owed, "a cache is late");
                },
            }
            // Read before draining: what led up to it is in the feeds by now.
            let revision = caches.revision();
            while let Some(fed) = feeds.next().now_or_never() {
                let (source, event) = fed?;
                self.apply(source, event);
            }
            self.publish(revision);
        }
    }

    /// Reads what there is, up to the bookmark that ends it.
    async fn take_present(&self, (source, watcher): &mut (Source, Watcher)) -> Result<i64, ApiError> {
        loop {
            match told(watcher.next().await)? {
                WatchEvent::Bookmark { revision } => return Ok(revision),
                event => self.apply(*source, event),
            }
        }
    }

    fn apply(&self, source: Source, event: WatchEvent) {
        let WatchEvent::Change { change, object } = event else { return };
        let mut state = self.state();
        let gone = change == ChangeType::Deleted;
        let meta = object.object.meta();
        let name = (meta.namespace.clone(), meta.name.clone());
        let index = &mut state.index;
        match source {
            Source::Services if gone => index.remove_service(&name),
            Source::Services => object.typed().into_iter().for_each(|service| index.set_service(service)),
            Source::Slices if gone => index.remove_slice(&name),
            Source::Slices => object.typed().into_iter().for_each(|slice| index.set_slice(slice)),
            Source::Nodes if gone => index.remove_node(&name.1),
            Source::Nodes => object.typed().into_iter().for_each(|node| index.set_node(node)),
        }
        // Whoever wrote a service or a slice may wait for its revision, even if it changes nothing for the kernel.
        // Nodes are written all the time, and nobody waits for that.
        if !matches!(source, Source::Nodes) || state.index.has_new_routes() {
            state.owed = state.owed.max(object.revision);
        }
    }

    /// Sends what has changed, if anything, as of `revision`.
    fn publish(&self, revision: i64) {
        let mut state = self.state();
        let difference = state.index.difference();
        let before = state.revision;
        state.revision = revision.max(before);
        let changed = !difference.is_empty();
        let settled = before < state.owed && state.owed <= state.revision;
        if state.revision > before || changed {
            state.snapshot = None;
        }
        if changed || settled {
            let Difference { upserts, deletes, routes, names, unnamed } = difference;
            let revision = state.revision;
            let batch =
                DataplaneBatch { revision, snapshot: false, upserts, deletes, routes, names, unnamed };
            // An error only means that no node is connected.
            let _ = self.changes.send(Arc::new(batch));
        }
        self.reached.send_replace(Some(state.revision));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one node's session reads.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    snapshot: Option<Arc<DataplaneBatch>>,
    changes: broadcast::Receiver<Arc<DataplaneBatch>>,
}

impl Subscription {
    /// A snapshot first, and again whenever more was missed than the ring holds. Safe to cancel.
    pub async fn next(&mut self) -> Arc<DataplaneBatch> {
        if let Some(snapshot) = self.snapshot.take() {
            return snapshot;
        }
        match self.changes.recv().await {
            Ok(batch) => batch,
            // Closed cannot be: the hub, which we hold, holds the sender.
            Err(broadcast::error::RecvError::Lagged(_) | broadcast::error::RecvError::Closed) => {
                let (snapshot, changes) = self.hub.join();
                self.changes = changes;
                snapshot
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Services,
    Slices,
    Nodes,
}

struct Feeds([(Source, Watcher); 3]);

impl Feeds {
    fn start(caches: &Caches) -> Result<Self, ApiError> {
        let watch = |cache: &Arc<KindCache>| cache.watch(Filter::default(), From::Present, false);
        Ok(Self([
            (Source::Services, watch(&caches.services)?),
            (Source::Slices, watch(&caches.slices)?),
            (Source::Nodes, watch(&caches.nodes)?),
        ]))
    }

    /// Safe to cancel.
    async fn next(&mut self) -> Result<(Source, WatchEvent), ApiError> {
        let [(_, services), (_, slices), (_, nodes)] = &mut self.0;
        tokio::select! {
            event = services.next() => Ok((Source::Services, told(event)?)),
            event = slices.next() => Ok((Source::Slices, told(event)?)),
            event = nodes.next() => Ok((Source::Nodes, told(event)?)),
        }
    }
}

fn told(event: Option<Result<WatchEvent, ApiError>>) -> Result<WatchEvent, ApiError> {
    event.unwrap_or_else(|| Err(ApiError::expired("the watch has ended")))
}
