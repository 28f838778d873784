//! Container log files in the CRI format: `2026-01-02T03:04:05.000000006Z stdout F text`, one entry a line; `P` marks a
//! part of a longer line. Written by the shim, read here.
//!
//! A log is all of its files: what it was rotated into ([`rotation`]) is read before the one that is being written, and
//! a reader that follows goes from one to the next.

mod files;
mod reader;
pub(crate) mod rotation;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;

pub use reader::LogReader;
pub use rotation::RotationPolicy;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot read log {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("log {path}: entry is not in the CRI format: {line:?}")]
    Malformed { path: PathBuf, line: String },
}

/// Which entries to read, as in Kubernetes' `PodLogOptions`.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Only the last so many lines of those already written.
    pub tail_lines: Option<u64>,
    /// Only entries at or after this time.
    pub since: Option<Timestamp>,
    /// Stop after so many bytes of output.
    pub limit_bytes: Option<u64>,
    /// Wait for more at the end, until the container has ended or the reader is cancelled.
    pub follow: bool,
    /// Put each line's time in front of it.
    pub timestamps: bool,
}

/// Stops a following reader from another thread, within a fraction of a second.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
