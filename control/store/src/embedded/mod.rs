//! The embedded store: everything in one file, for one machine.
//!
//! ```text
//!   txn ──► queue ──► writer thread: decide a group ─► one redb commit (fsync) ─► show ─► answer
//!                                                                                  │
//!   get, list ◄──────────── index (all keys, newest values) ◄──────────────────────┤
//!   watch     ◄── recent changes (bounded) ◄───────────────────────────────────────┘
//!        └─────── the file, for what is older
//! ```
//!
//! - `record`, `disk`, `medium`: what the file holds, and how it is opened and examined.
//! - `index`, `recent`, `lease`, `batch`: pure parts.
//! - `restore`: makes the file of a backup.
//! - `state`: what readers see. `writer`: the one thread that changes it. `watch`: a reader's place in history.
//!
//! **Invariant:** nothing is shown or answered before it is durable.
//!
//! **Invariant:** a file that is not ours, or damaged, is reported and left as it is.
//!
//! Memory: all keys with their newest values, about [`Options::recent_bytes`] of recent changes, and redb's cache.
//!
//! A crash may tear the commit that was being written; redb then goes back to the one before, and nobody was told of the
//! torn one. Commits use redb's one-phase protocol (one fsync): its checksums are not made to withstand someone who
//! chooses the values, and crashes the machine, and controls the order in which the disk writes.

mod batch;
mod disk;
#[cfg(test)]
mod faults;
mod index;
mod lease;
mod medium;
mod recent;
mod record;
mod restore;
mod state;
mod watch;
mod writer;

use std::{
    path::Path,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};

use disk::{Disk, Fault};
use index::Index;
use lease::Leases;
use medium::{FileMedium, Medium};
use recent::Recent;
pub use restore::restore;
use state::{Shared, State};
use writer::{Request, Writer};

use crate::{
    Error, KeyValue, LeaseId, ListOptions, Page, Result, Snapshot, Store, Txn, TxnOutcome, WatchStream,
};

/// Bytes of transactions that may wait for the writer, in [`WAITING_UNIT`]s.
const WAITING_UNITS: usize = 64 << 10;
const WAITING_UNIT: usize = 1 << 10;

#[derive(Debug, Clone)]
pub struct Options {
    /// Memory for recent changes, from which watches are served. Older changes are read from the file.
    pub recent_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { recent_bytes: 4 << 20 }
    }
}

/// Opens the store at `path`, or makes an empty one if nothing is there. The directory must exist.
///
/// Reads the whole file, so it blocks: about a second for each few hundred megabytes.
///
/// Fails with [`Error::Foreign`] or [`Error::Corrupt`] if the file is not a store in good order, with
/// [`Error::InUse`] if another process has it open, and with [`Error::Unfinished`] if it was to be restored and that was
/// cut off.
pub fn open(path: impl AsRef<Path>) -> Result<Embedded> {
    open_with(path, &Options::default())
}

/// [`open`] with other than the default options.
pub fn open_with(path: impl AsRef<Path>, options: &Options) -> Result<Embedded> {
    let path = path.as_ref();
    restore::check_finished(path)?;
    let start = || start(Box::new(FileMedium::prepare(path)?), options);
    start().map_err(|fault| fault.opening(path))
}

fn start(medium: Box<dyn Medium>, options: &Options) -> Result<Embedded, Fault> {
    let disk = Disk::open(&*medium)?;
    let mut index = Index::default();
    let (meta, granted) = disk.load(|place, record| match &record.put {
        Some(put) => index.put(place.1, &record.key_value(place.0), put.lease),
        None => index.delete(place, record.key),
    })?;
    // A compaction that was not finished in the file is finished now.
    let garbage = index.compact(meta.compacted);
    let mut leases = Leases::default();
    for (id, ttl) in granted {
        leases.grant(id, ttl, Instant::now());
    }
    for (id, key) in index.leased() {
        leases.attach(id, key);
    }
    let state = State {
        revision: meta.revision,
        compacted: meta.compacted,
        index,
        recent: Recent::new(options.recent_bytes),
        closed: false,
    };
    let shared = Arc::new(Shared::new(state, leases, disk));
    let (queue, requests) = mpsc::channel();
    let writer = Writer::new(Arc::clone(&shared), medium, requests, (meta.serial, meta.last_lease), garbage);
    let thread = thread::Builder::new().name("weir-store".to_owned()).spawn(move || writer.run());
    let thread = thread.map_err(|error| Fault::from_io(&error))?;
    Ok(Embedded {
        shared,
        queue: Some(queue),
        waiting: Arc::new(Semaphore::new(WAITING_UNITS)),
        thread: Some(thread),
    })
}

/// The embedded store. Dropping it finishes what has been queued, closes the file, and ends open watches.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    /// `None` only while being dropped.
    queue: Option<mpsc::Sender<Request>>,
    waiting: Arc<Semaphore>,
    thread: Option<JoinHandle<()>>,
}

impl Embedded {
    async fn ask<T>(
        &self,
        operation: &'static str,
        request: impl FnOnce(writer::Reply<T>) -> Request,
    ) -> Result<T> {
        let closed = |change: bool| {
            let reason = "store is closed".to_owned();
            if change {
                Error::OutcomeUnknown { operation, reason }
            } else {
                Error::Unavailable { operation, reason }
            }
        };
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(|| closed(false))?;
        queue.send(request(reply)).map_err(|_| closed(false))?;
        answer.await.map_err(|_| closed(true))?
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("writer of the store had panicked");
        }
    }
}

#[async_trait]
impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<Snapshot<Option<KeyValue>>> {
        let state = self.shared.read("get")?;
        Ok(Snapshot { revision: state.revision, value: state.index.latest(key).map(|live| live.kv) })
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let (revision, found, remaining) = {
            let state = self.shared.read("list")?;
            let revision = options.revision.unwrap_or(state.revision);
            if revision > state.revision {
                return Err(Error::FutureRevision { requested: revision });
            }
            if revision < state.compacted {
                return Err(Error::Compacted { compacted: state.compacted });
            }
            let (found, remaining) =
                state.index.list(prefix, options.after.as_deref(), revision, options.limit);
            (revision, found, remaining)
        };
        let items = if found.iter().all(|found| found.stored.is_none()) {
            found.into_iter().map(|found| found.kv).collect()
        } else {
            let shared = Arc::clone(&self.shared);
            let read = tokio::task::spawn_blocking(move || shared.fill(found, revision));
            read.await
                .map_err(|error| Error::Unavailable { operation: "list", reason: error.to_string() })??
        };
        Ok(Page { revision, items, more: remaining > 0, remaining })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        txn.check()?;
        let units = u32::try_from(txn.size() / WAITING_UNIT + 1).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.waiting).acquire_many_owned(units).await;
        let permit =
            permit.map_err(|error| Error::Unavailable { operation: "write", reason: error.to_string() })?;
        self.ask("write", |reply| Request::Txn { txn, reply, permit }).await
    }

    async fn watch(&self, prefix: &str, from_revision: i64) -> Result<WatchStream> {
        watch::open(&self.shared, prefix, from_revision)
    }

    async fn compact(&self, revision: i64) -> Result<()> {
        self.ask("compact", |reply| Request::Compact { revision, reply }).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId> {
        self.ask("grant a lease", |reply| Request::Grant { ttl, reply }).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        drop(self.shared.read("keep a lease alive")?);
        if self.shared.leases().keep_alive(lease, Instant::now()) {
            Ok(())
        } else {
            Err(Error::LeaseNotFound(lease))
        }
    }

    async fn time_left(&self, lease: LeaseId) -> Result<Duration> {
        drop(self.shared.read("read a lease")?);
        self.shared.leases().time_left(lease, Instant::now()).ok_or(Error::LeaseNotFound(lease))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.ask("end a lease", |reply| Request::Revoke { lease, reply }).await
    }
}
