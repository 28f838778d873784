//! A watch is a place in history and nothing else: it takes the next changes from memory, or from the file if it is far
//! behind, when its reader asks for them. So a slow reader costs nothing and holds back nobody; if the compaction overtakes
//! it, it ends in [`Error::Compacted`].

use std::{collections::VecDeque, sync::Arc};

use futures::{StreamExt, stream};
use tokio::sync::watch;

use super::state::{Shared, Step};
use crate::{Batch, Error, Result, WatchStream};

struct Cursor {
    shared: Arc<Shared>,
    prefix: String,
    /// The revision to look at next.
    next: i64,
    /// The revision the reader knows to be complete.
    told: i64,
    ready: VecDeque<Batch>,
    head: watch::Receiver<i64>,
}

/// Watches from a revision (0 = from the next one).
pub(super) fn open(shared: &Arc<Shared>, prefix: &str, from: i64) -> Result<WatchStream> {
    let head = shared.head();
    let (revision, compacted) = {
        let state = shared.read("watch")?;
        (state.revision, state.compacted)
    };
    let next = if from == 0 { revision + 1 } else { from };
    if next <= compacted {
        return Err(Error::Compacted { compacted });
    }
    let cursor = Cursor {
        shared: Arc::clone(shared),
        prefix: prefix.to_owned(),
        next,
        told: next - 1,
        ready: VecDeque::new(),
        head,
    };
    let batches = stream::unfold(Some(cursor), async |cursor| {
        let mut cursor = cursor?;
        match cursor.next().await {
            Ok(batch) => Some((Ok(batch), Some(cursor))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(batches.boxed())
}

impl Cursor {
    async fn next(&mut self) -> Result<Batch> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                self.told = batch.revision;
                return Ok(batch);
            }
            let head = *self.head.borrow_and_update();
            let step = match self.shared.step(&self.prefix, self.next)? {
                Step::Stored { until } => self.stored(until).await?,
                step => step,
            };
            if let Step::Batches { batches, next } = step {
                self.ready.extend(batches);
                self.next = next;
            }
            if !self.ready.is_empty() {
                continue;
            }
            if self.told < self.next - 1 {
                self.told = self.next - 1;
                return Ok(Batch { revision: self.told, events: Vec::new() });
            }
            if self.next > head {
                // Never fails: the sender lives in `shared`.
                drop(self.head.changed().await);
            }
        }
    }

    async fn stored(&self, until: i64) -> Result<Step> {
        let (shared, prefix, from) = (Arc::clone(&self.shared), self.prefix.clone(), self.next);
        let read = tokio::task::spawn_blocking(move || shared.stored_step(&prefix, from, until));
        read.await.map_err(|error| Error::Unavailable { operation: "watch", reason: error.to_string() })?
    }
}
