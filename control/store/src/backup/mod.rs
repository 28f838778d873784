//! Backups: everything a store holds at one revision, as one file that describes itself.
//!
//! ```text
//! magic    8 bytes  "weirback"
//! format   u32 LE   1
//! frames   u32 LE length of what follows, u8 kind, body
//!   header   revision i64, taken i64 (seconds since the epoch); first, once
//!   lease    id i64, seconds left u64; before the first key that ends with it
//!   key      create i64, mod i64, version i64, lease i64 (0 = none), key length u32, key, value; in order of key
//!   end      number of keys u64; last, once
//! trailer  32 bytes SHA-256 of everything before it
//! ```
//!
//! All numbers are little-endian. [`stream`] makes the bytes from any [`Store`], [`PartFile`] brings them to disk,
//! [`Reader`] reads them; [`embedded::restore`](crate::embedded::restore) and [`etcd::restore`](crate::etcd::restore)
//! make a store of them.
//!
//! **Invariant:** a file under its own name is whole: it was read back and checked under `NAME.part` before.
//!
//! **Invariant:** a restored store goes on [`REVISIONS_APART`] above the backup, and holds everything before that for
//! compacted. Whoever saw a revision of the lost future is so told that it is gone, and never takes another change
//! for the one it knows.
//!
//! Left out: the past (only the state at one revision is kept), and encryption: a backup holds every secret, the
//! cluster's signing key among them, and is readable by its owner alone.

mod encode;
mod file;
mod read;
mod stream;

use std::path::{Path, PathBuf};

pub use file::PartFile;
pub use read::{Header, Reader, Record, Summary};
pub use stream::stream;

/// What of a store belongs to us: an etcd may hold others' keys too.
pub const PREFIXES: [&str; 2] = ["/registry/", "/weir/"];

/// How far a restored store begins above the backup's revision: more than any cluster writes between a backup and
/// the restore of it.
pub const REVISIONS_APART: i64 = 1_000_000_000;

const MAGIC: &[u8; 8] = b"weirback";
const FORMAT: u32 = 1;
const TRAILER: usize = 32;
/// Longest frame: a key and a value of the largest transaction, with room.
const LONGEST_FRAME: u32 = 4 << 20;

const HEADER: u8 = 1;
const LEASE: u8 = 2;
const KEY: u8 = 3;
const END: u8 = 4;

/// Why a backup or a restore does not come about.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Store(#[from] crate::Error),
    #[error("the store was compacted while it was being read at revision {revision}: take the backup anew")]
    Overtaken { revision: i64 },
    #[error("{operation} {path}: {source}", path = path.display())]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path} exists already", path = path.display())]
    Exists { path: PathBuf },
    #[error("{path} is not a backup of this version: {reason}", path = path.display())]
    Foreign { path: PathBuf, reason: String },
    #[error("backup {path} is damaged: {reason}", path = path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{target} is not empty: it holds {found}; a restore needs an empty store")]
    NotEmpty { target: String, found: String },
    #[error("somebody else writes to {target}: {what}")]
    Disturbed { target: String, what: String },
}

impl BackupError {
    pub(crate) fn file(
        operation: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> BackupError + use<> {
        let path = path.to_owned();
        move |source| BackupError::File { operation, path, source }
    }
}
