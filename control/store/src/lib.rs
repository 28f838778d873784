//! Versioned keys with compare-and-swap, ordered watch and leases: what the API server stands on.
//!
//! [`Store`] is the promise; two backends keep it. [`embedded`] holds everything in one file, for one machine.
//! [`etcd`] speaks to an etcd cluster, for production. One contract suite (`tests/contract.rs`) holds both to the
//! same sentences, so a caller never asks which one it has.
//!
//! The model is etcd's:
//!
//! - The store has one **revision**, starting at 1 in an empty store. A transaction that changes something
//!   takes the next one; all its changes carry that revision. A transaction that changes nothing takes none.
//! - A key remembers the revision that created it, the one that last changed it, and its version (the number of puts
//!   since it was created).
//! - The past can be read ([`ListOptions::revision`]) and replayed ([`Store::watch`]) until it is compacted.
//!
//! **Invariant:** what a reader or watcher sees is durable; nothing seen is ever taken back.
//!
//! **Invariant:** a watch yields each change under its prefix once, in order, a whole revision at a time, or ends in an
//! error that says why. It never leaves a gap.
//!
//! **Invariant:** memory is bounded. A slow watcher holds back nobody and is never buffered for; one that falls behind
//! the compaction ends in [`Error::Compacted`].
//!
//! Left out on purpose: ranges other than prefixes, transactions with an else branch, compares other than by
//! revision. Nothing in Weir needs them.

pub mod backup;
pub mod embedded;
mod error;
pub mod etcd;
mod model;

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

pub use error::{Error, Result};
pub use model::{
    Batch, Compare, Event, EventKind, KeyValue, LeaseId, ListOptions, MAX_TXN_BYTES, MAX_TXN_OPS, Op, Page,
    Snapshot, Txn, TxnOutcome,
};

/// A stream of [`Batch`]es in order of revision. After an error it ends.
pub type WatchStream = BoxStream<'static, Result<Batch>>;

/// Versioned keys. See the crate's documentation for the model.
///
/// All methods may be called from any number of tasks. Dropping a future of [`Store::txn`] does not take the
/// transaction back: it may be applied or not.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest state of one key, and the revision at which it was read.
    async fn get(&self, key: &str) -> Result<Snapshot<Option<KeyValue>>>;

    /// The keys under `prefix` in byte order, at one revision. To page, pass the first page's revision and the last
    /// key seen to the next call.
    ///
    /// Fails with [`Error::Compacted`] if the revision is older than the compaction, and with
    /// [`Error::FutureRevision`] if it does not exist yet.
    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page>;

    /// Performs all operations at one new revision if all compares hold, else none.
    ///
    /// An answer means that the transaction is durable. [`Error::OutcomeUnknown`] means that it may have been applied:
    /// read again before repeating it.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome>;

    /// All changes under `prefix` from `from_revision` on (inclusive; 0 = whatever comes next), then live.
    ///
    /// The watch is in place when this returns. Batches without events tell that everything up to their revision has
    /// been delivered. Fails, at once or as the first item, with [`Error::Compacted`] if `from_revision` is not newer
    /// than the compaction. A lost connection ends the stream in [`Error::Unavailable`]; watch again from the last
    /// revision seen plus one.
    async fn watch(&self, prefix: &str, from_revision: i64) -> Result<WatchStream>;

    /// Asks all open watches to say soon how far they are, by a batch without events. The embedded store does so
    /// unasked, and so has nothing to do here; etcd servers before 3.4.25 cannot be asked, because their answer may overtake
    /// events, and answer in their own time only.
    async fn request_progress(&self) -> Result<()> {
        Ok(())
    }

    /// Forgets what only revisions before `revision` can see. The state at `revision` itself stays readable.
    /// Compacting what is compacted already does nothing; compacting the future is [`Error::FutureRevision`].
    async fn compact(&self, revision: i64) -> Result<()>;

    /// A lease that ends after `ttl` (rounded up to seconds, at least what the backend supports) unless kept alive.
    /// Keys put with it are deleted at its end, in one revision.
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId>;

    /// Starts the lease's time anew. [`Error::LeaseNotFound`] if it has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<()>;

    /// How long the lease goes on if it is not kept alive. [`Error::LeaseNotFound`] if it has ended.
    async fn time_left(&self, lease: LeaseId) -> Result<Duration>;

    /// Ends the lease now and deletes its keys. [`Error::LeaseNotFound`] if it has ended.
    async fn revoke(&self, lease: LeaseId) -> Result<()>;
}
