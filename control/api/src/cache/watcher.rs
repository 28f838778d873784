//! One watcher's view: first the past or the present, then what the cache is told, filtered.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use weir_proto::status::ApiError;

use super::event::{CacheEvent, ChangeType, PastEvent};
use super::queue::Receiver;
use super::{CachedObject, Filter, KindCache};

/// How often a watcher that asked for bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);

/// What a watcher receives.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    Change {
        change: ChangeType,
        object: Arc<CachedObject>,
    },
    /// Everything up to `revision` has been delivered.
    Bookmark {
        revision: i64,
    },
}

#[derive(Debug)]
pub(super) enum Start {
    /// The present state as additions, then a bookmark.
    Present {
        objects: VecDeque<Arc<CachedObject>>,
        revision: i64,
    },
    /// The changes after a revision.
    Past(VecDeque<PastEvent>),
    Done,
}

/// A stream of changes; ends with an error when the client must list again.
#[derive(Debug)]
pub struct Watcher {
    cache: Weak<KindCache>,
    filter: Filter,
    start: Start,
    receiver: Receiver,
    /// Changes up to this revision are known to the watcher, even if the cache hears of them only now.
    known: i64,
    bookmarks: Option<Interval>,
    due: Option<i64>,
    sent: IntCounter,
}

enum Step {
    Event(Option<Arc<CacheEvent>>),
    Tick,
}

impl Watcher {
    pub(super) fn new(
        cache: Weak<KindCache>,
        filter: Filter,
        start: Start,
        receiver: Receiver,
        known: i64,
        bookmarks: bool,
        sent: IntCounter,
    ) -> Self {
        let bookmarks = bookmarks.then(|| {
            let mut interval = interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        Watcher { cache, filter, start, receiver, known, bookmarks, due: None, sent }
    }

    /// The next event. After an error, or `None`, there is no other. Safe to cancel.
    pub async fn next(&mut self) -> Option<Result<WatchEvent, ApiError>> {
        let next = self.find_next().await;
        if matches!(next, Some(Ok(WatchEvent::Change { .. }))) {
            self.sent.inc();
        }
        next
    }

    async fn find_next(&mut self) -> Option<Result<WatchEvent, ApiError>> {
        if let Some(event) = self.next_of_start() {
            return Some(event);
        }
        loop {
            if let Some(revision) = self.due
                && self.receiver.is_empty()
            {
                self.due = None;
                return Some(Ok(WatchEvent::Bookmark { revision }));
            }
            match self.step().await {
                Step::Event(Some(event)) if event.revision <= self.known => {}
                Step::Event(Some(event)) => {
                    if let Some((change, object)) = event.seen_through(&self.filter) {
                        return Some(Ok(WatchEvent::Change { change, object }));
                    }
                }
                Step::Event(None) => return self.cut(),
                // The revision is read first: what led to it is then in the queue, and is delivered before it.
                Step::Tick => self.due = Some(self.cache.upgrade()?.revision().max(self.known)),
            }
        }
    }

    fn next_of_start(&mut self) -> Option<Result<WatchEvent, ApiError>> {
        loop {
            match &mut self.start {
                Start::Present { objects, revision } => {
                    if let Some(object) = objects.pop_front() {
                        return Some(Ok(WatchEvent::Change { change: ChangeType::Added, object }));
                    }
                    let revision = *revision;
                    self.start = Start::Done;
                    return Some(Ok(WatchEvent::Bookmark { revision }));
                }
                Start::Past(events) => match events.pop_front() {
                    Some(past) => match past.recall() {
                        Ok(event) => {
                            if let Some((change, object)) = event.seen_through(&self.filter) {
                                return Some(Ok(WatchEvent::Change { change, object }));
                            }
                        }
                        Err(error) => {
                            return Some(Err(ApiError::internal(format!("recall a change: {error}"))));
                        }
                    },
                    None => self.start = Start::Done,
                },
                Start::Done => return None,
            }
        }
    }

    async fn step(&mut self) -> Step {
        match &mut self.bookmarks {
            None => Step::Event(self.receiver.recv().await),
            Some(interval) => tokio::select! {
                biased;
                event = self.receiver.recv() => Step::Event(event),
                _ = interval.tick() => Step::Tick,
            },
        }
    }

    fn cut(&mut self) -> Option<Result<WatchEvent, ApiError>> {
        // Told once; the next call finds no cache and ends.
        let cache = std::mem::take(&mut self.cache).upgrade()?;
        if let Err(away) = cache.check_present() {
            return Some(Err(away));
        }
        Some(Err(cache.expired("the watch fell behind, or the cache was rebuilt: list again")))
    }
}
