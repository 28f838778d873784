//! What a watch has told of the pods, and when.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weir_client::{Api, WatchEvent, WatchOptions, WatchStream};
use weir_proto::core::v1::Pod;

use crate::objects;

/// How long one wait may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// By name, when it was first seen so.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) running: HashMap<String, Instant>,
    pub(super) ready: HashMap<String, Instant>,
    pub(super) gone: HashMap<String, Instant>,
}

/// A watch that was begun. Dropping it ends it.
pub(super) struct Watched {
    seen: watch::Receiver<Seen>,
    following: JoinSet<()>,
}

impl Watched {
    pub(super) async fn start(api: &Api<Pod>) -> Result<Self> {
        let options =
            WatchOptions { label_selector: format!("app={}", objects::APP), ..WatchOptions::default() };
        let events = api.watch(&options).await.context("watch the pods")?;
        let (sender, seen) = watch::channel(Seen::default());
        let mut following = JoinSet::new();
        following.spawn(follow(events, sender));
        Ok(Self { seen, following })
    }

    /// Waits for all of it. The watch's end is an error.
    pub(super) async fn until(&mut self, what: &str, enough: impl Fn(&Seen) -> bool) -> Result<()> {
        let reached = tokio::select! {
            reached = tokio::time::timeout(PATIENCE, self.seen.wait_for(|seen| enough(seen))) => reached.is_ok(),
            _ = self.following.join_next() => bail!("the watch of the pods ended"),
        };
        if !reached {
            let seen = self.seen.borrow();
            let (running, ready, gone) = (seen.running.len(), seen.ready.len(), seen.gone.len());
            bail!(
                "not all are {what} within {PATIENCE:?}: {running} were running, {ready} ready, {gone} gone"
            );
        }
        Ok(())
    }

    pub(super) fn look<T>(&self, at: impl FnOnce(&Seen) -> T) -> T {
        at(&self.seen.borrow())
    }
}

async fn follow(mut events: WatchStream<Pod>, seen: watch::Sender<Seen>) {
    while let Some(Ok(event)) = events.next().await {
        let now = Instant::now();
        seen.send_modify(|seen| match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                let name = &pod.meta().name;
                if pod.status().phase == "Running" {
                    seen.running.entry(name.clone()).or_insert(now);
                }
                let mut conditions = pod.status().conditions.iter();
                if conditions.any(|condition| condition.r#type == "Ready" && condition.status == "True") {
                    seen.ready.entry(name.clone()).or_insert(now);
                }
            }
            WatchEvent::Deleted(pod) => {
                seen.gone.entry(pod.meta().name.clone()).or_insert(now);
            }
            WatchEvent::Bookmark(_) => {}
        });
    }
}
