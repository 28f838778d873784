//! Reads a store at one revision while others write to it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use super::encode::Encoder;
use super::{BackupError, PREFIXES};
use crate::{Error, KeyValue, LeaseId, ListOptions, Store};

/// Keys read at once: few, since each may be of a megabyte.
const PAGE: usize = 50;
/// Bytes handed on at once, roughly.
const CHUNK: usize = 128 << 10;

/// The bytes of a backup of `store`, as it is when the first of them is asked for. After an error it ends.
pub fn stream(store: Arc<dyn Store>) -> BoxStream<'static, Result<Bytes, BackupError>> {
    let dump = Dump { store, under_way: None, prefix: 0, after: None, leases: HashSet::new() };
    stream::try_unfold(Some(dump), async |dump| {
        let Some(mut dump) = dump else { return Ok(None) };
        Ok(Some(match dump.next().await? {
            Some(bytes) => (bytes, Some(dump)),
            None => (dump.end(), None),
        }))
    })
    .boxed()
}

struct Dump {
    store: Arc<dyn Store>,
    /// The revision, once it is known, and what was read of it.
    under_way: Option<(i64, Encoder)>,
    prefix: usize,
    after: Option<String>,
    /// Those that were written.
    leases: HashSet<LeaseId>,
}

impl Dump {
    /// `None` once everything was read.
    async fn next(&mut self) -> Result<Option<Bytes>, BackupError> {
        while let Some(prefix) = PREFIXES.get(self.prefix) {
            let revision = self.under_way.as_ref().map(|(revision, _)| *revision);
            let options = ListOptions { revision, limit: PAGE, after: self.after.take() };
            let page = self.store.list(prefix, options).await.map_err(|error| match (error, revision) {
                (Error::Compacted { .. }, Some(revision)) => BackupError::Overtaken { revision },
                (error, _) => BackupError::Store(error),
            })?;
            for kv in &page.items {
                self.note_lease(kv, page.revision).await?;
            }
            let (_, encoder) =
                self.under_way.get_or_insert_with(|| (page.revision, Encoder::begin(page.revision, now())));
            page.items.iter().for_each(|kv| encoder.key(kv));
            self.after = page.items.last().map(|last| last.key.clone()).filter(|_| page.more);
            if self.after.is_none() {
                self.prefix += 1;
            }
            if encoder.len() >= CHUNK {
                return Ok(Some(encoder.take()));
            }
        }
        Ok(None)
    }

    async fn note_lease(&mut self, kv: &KeyValue, revision: i64) -> Result<(), BackupError> {
        let Some(lease) = kv.lease.filter(|lease| self.leases.insert(*lease)) else { return Ok(()) };
        let seconds = match self.store.time_left(lease).await {
            Ok(left) => left.as_secs(),
            // It ended since; its keys end as soon as they are restored.
            Err(Error::LeaseNotFound(_)) => 0,
            Err(error) => return Err(error.into()),
        };
        let (_, encoder) = self.under_way.get_or_insert_with(|| (revision, Encoder::begin(revision, now())));
        encoder.lease(lease, seconds);
        Ok(())
    }

    fn end(self) -> Bytes {
        let (_, encoder) = self.under_way.unwrap_or_else(|| (0, Encoder::begin(0, now())));
        encoder.end()
    }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs().cast_signed()
}
