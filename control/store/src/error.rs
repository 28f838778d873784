//! What can go wrong with a store, in terms that mean the same for every backend.

use crate::LeaseId;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation of a [`Store`](crate::Store).
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The revision asked for has been forgotten. `compacted` is the newest compaction known to have happened; etcd
    /// does not tell it to a list, which then gets the lower bound that follows from the refusal.
    #[error("revision is compacted: what came before revision {compacted} is gone")]
    Compacted { compacted: i64 },

    #[error("revision {requested} is in the future")]
    FutureRevision { requested: i64 },

    /// Nothing was changed. Trying again later may work.
    #[error("store is unavailable to {operation}: {reason}")]
    Unavailable { operation: &'static str, reason: String },

    /// A change was sent off and its answer lost: it may have been applied.
    #[error("outcome of {operation} is unknown: {reason}")]
    OutcomeUnknown { operation: &'static str, reason: String },

    /// The disk is full, or etcd's quota is used up. Reading still works; writing does again once there is room.
    #[error("store is out of space")]
    NoSpace,

    #[error("transaction of {size} {unit} is too large: at most {limit}")]
    TooLarge { unit: &'static str, size: usize, limit: usize },

    #[error("transaction names key {key:?} more than once")]
    DuplicateKey { key: String },

    #[error("key is empty")]
    EmptyKey,

    #[error("lease {0} does not exist or has ended")]
    LeaseNotFound(LeaseId),

    /// The credentials do not allow it.
    #[error("store refuses to {operation}: {reason}")]
    Denied { operation: &'static str, reason: String },

    /// The file is not one of ours, or of a format this version does not know.
    #[error("{path} is not a store of this version: {reason}")]
    Foreign { path: String, reason: String },

    /// The file was ours and is damaged.
    #[error("store {path} is damaged: {reason}")]
    Corrupt { path: String, reason: String },

    /// A restore was cut off, and what is there is only a part.
    #[error("restore of {target} was not finished: run it again, or {remedy} to begin with nothing")]
    Unfinished { target: String, remedy: String },

    /// Another process has the file open.
    #[error("store {path} is in use by another process")]
    InUse { path: String },

    /// The file or directory cannot be opened.
    #[error("store {path} cannot be opened: {reason}")]
    Open { path: String, reason: String },

    /// Options that can never work: a URL that is none, a certificate that cannot be read.
    #[error("store cannot be configured: {reason}")]
    Config { reason: String },

    /// A key under the prefix is not UTF-8: not written by us.
    #[error("store holds a foreign key {key:?}")]
    ForeignKey { key: String },
}

impl Error {
    /// Whether the same call may work later, nothing having been changed by this one.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::NoSpace)
    }
}
