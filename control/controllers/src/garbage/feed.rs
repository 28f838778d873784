//! Keeps the graph up to date: one watch for each kind, of which only the metadata is kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use weir_client::{Backoff, Client, DynamicApi, ObjectKey, WatchEvent, WatchOptions, WatchStream};
use weir_proto::{Kind, Object};

use super::graph::{Entry, Graph};
use crate::runner::Queue;

/// Events own nothing, are owned by nothing, and are many.
const IGNORED: &str = "Event";

#[derive(Debug, Clone, Default)]
pub(super) struct SharedGraph(Arc<Mutex<Graph>>);

impl SharedGraph {
    pub(super) fn lock(&self) -> MutexGuard<'_, Graph> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn kinds() -> impl Iterator<Item = &'static Kind> {
    weir_proto::kinds().iter().copied().filter(|kind| kind.kind != IGNORED)
}

/// The key of an object in the collector's queue: uids are unique over all kinds.
pub(super) fn key(uid: String) -> ObjectKey {
    ObjectKey::new("", uid)
}

pub(super) struct Feed {
    api: DynamicApi,
    graph: SharedGraph,
    queue: Arc<Queue>,
}

impl Feed {
    pub(super) fn new(client: &Client, kind: &'static Kind, graph: &SharedGraph, queue: &Arc<Queue>) -> Feed {
        Feed { api: client.dynamic(kind, None), graph: graph.clone(), queue: queue.clone() }
    }

    pub(super) async fn run(self) {
        let mut from = String::new();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        loop {
            let before = from.clone();
            if let Err(error) = self.follow(&mut from).await {
                if error.is_gone() {
                    from.clear();
                } else {
                    tracing::warn!(kind = self.api.kind().plural, %error, "the collector's watch broke");
                }
            }
            if from != before {
                backoff.reset();
            }
            tokio::time::sleep(backoff.delay()).await;
        }
    }

    async fn follow(&self, from: &mut String) -> weir_client::Result<()> {
        let options =
            WatchOptions { resource_version: from.clone(), bookmarks: true, ..WatchOptions::default() };
        let mut events = self.api.watch(&options).await?;
        if from.is_empty() {
            *from = self.begin(&mut events).await?;
        }
        while let Some(event) = events.try_next().await? {
            *from = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.tell(self.graph.lock().put(Entry::of(object.as_ref())));
                    object.meta().resource_version.clone()
                }
                WatchEvent::Deleted(object) => {
                    self.tell(self.graph.lock().remove(&object.meta().uid));
                    object.meta().resource_version.clone()
                }
                WatchEvent::Bookmark(revision) => revision,
            };
        }
        Ok(())
    }

    /// The present state, up to the bookmark that ends it.
    async fn begin(&self, events: &mut WatchStream<Box<dyn Object>>) -> weir_client::Result<String> {
        let mut entries = Vec::new();
        loop {
            match events.try_next().await? {
                Some(WatchEvent::Bookmark(revision)) => {
                    self.tell(self.graph.lock().replace(self.api.kind(), entries));
                    return Ok(revision);
                }
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    entries.push(Entry::of(object.as_ref()));
                }
                Some(WatchEvent::Deleted(object)) => entries.retain(|entry| entry.uid != object.meta().uid),
                None => return Ok(String::new()),
            }
        }
    }

    fn tell(&self, concerned: Vec<String>) {
        for uid in concerned {
            self.queue.add(key(uid));
        }
    }
}
