//! The loop behind an informer: watch, apply, and begin again after a break.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use weir_proto::Resource;

use super::{Change, Shared, revision};
use crate::api::Api;
use crate::backoff::Backoff;
use crate::key::ObjectKey;
use crate::verbs::WatchOptions;
use crate::watch::WatchEvent;
use crate::{Error, Result};

pub(super) struct Follower<R> {
    pub(super) api: Api<R>,
    pub(super) label_selector: String,
    pub(super) field_selector: String,
    pub(super) shared: Arc<Shared<R>>,
}

impl<R: Resource> Follower<R> {
    pub(super) async fn run(self) {
        // Empty: nothing is known, or what is known has become too old to go on from.
        let mut from = String::new();
        let mut failing = false;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(15));
        loop {
            let before = from.clone();
            match self.follow(&mut from).await {
                Ok(()) => tracing::debug!(kind = R::KIND.plural, from, "the watch ended"),
                Err(error) if error.is_gone() => {
                    tracing::debug!(kind = R::KIND.plural, from, "the watch is too old, listing anew");
                    from.clear();
                }
                // Once for each break, however long the server is away.
                Err(error) if from != before || !failing => {
                    failing = true;
                    tracing::warn!(kind = R::KIND.plural, %error, "the watch broke; trying on");
                }
                Err(error) => tracing::debug!(kind = R::KIND.plural, %error, "the watch broke"),
            }
            if from != before {
                failing = false;
                backoff.reset();
            }
            tokio::time::sleep(backoff.delay()).await;
        }
    }

    /// One watch, from `from` (or from the beginning) until it ends; moves `from` along.
    async fn follow(&self, from: &mut String) -> Result<(), Error> {
        let options = WatchOptions {
            label_selector: self.label_selector.clone(),
            field_selector: self.field_selector.clone(),
            resource_version: from.clone(),
            bookmarks: true,
        };
        let mut events = self.api.watch(&options).await?;
        if from.is_empty() {
            *from = self.begin(&mut events).await?;
        }
        while let Some(event) = events.try_next().await? {
            *from = event.resource_version().to_owned();
            self.apply(event);
        }
        Ok(())
    }

    /// Collects the present state, which ends with a bookmark, and makes it the copy.
    async fn begin(&self, events: &mut crate::WatchStream<R>) -> Result<String> {
        let mut present = Vec::new();
        loop {
            match events.try_next().await? {
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => present.push(object),
                Some(WatchEvent::Deleted(gone)) => {
                    let gone = ObjectKey::of(&gone);
                    present.retain(|object| ObjectKey::of(object) != gone);
                }
                Some(WatchEvent::Bookmark(revision)) => {
                    let changes = self.write(|objects| objects.replace(present));
                    self.tell(changes, &revision);
                    return Ok(revision);
                }
                // It broke off before the state was complete: nothing to go on from.
                None => return Ok(String::new()),
            }
        }
    }

    fn apply(&self, event: WatchEvent<R>) {
        let revision = event.resource_version().to_owned();
        let change = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.write(|objects| objects.put(object))
            }
            WatchEvent::Deleted(object) => self.write(|objects| objects.remove(&ObjectKey::of(&object))),
            WatchEvent::Bookmark(_) => None,
        };
        self.tell(change, &revision);
    }

    /// The copy is changed before anybody is told, so whoever is told finds at least that state.
    fn tell(&self, changes: impl IntoIterator<Item = Change<R>>, resource_version: &str) {
        for change in changes {
            // An error only means that nobody has subscribed.
            let _ = self.shared.changes.send(change);
        }
        self.shared.progress.send_modify(|progress| {
            progress.synced = true;
            progress.revision = progress.revision.max(revision(resource_version));
        });
    }

    fn write<T>(&self, change: impl FnOnce(&mut super::Objects<R>) -> T) -> T {
        change(&mut self.shared.objects.write().unwrap_or_else(PoisonError::into_inner))
    }
}
