//! One pull, seen from outside: how far it is, and the way to end it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How soon a waiting pull notices that it was cancelled.
const LOOK: Duration = Duration::from_millis(50);

/// Shared between the thread that pulls and whoever watches it.
#[derive(Debug, Default)]
pub struct Progress {
    cancelled: AtomicBool,
    received: AtomicU64,
    size: AtomicU64,
    layers: AtomicU64,
    unpacked: AtomicU64,
}

/// How far a pull is. All is zero before the manifest has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stage {
    /// Bytes of layers that lie on the node, of `size`.
    pub received: u64,
    pub size: u64,
    /// Layers that are ready, of `layers`.
    pub unpacked: u64,
    pub layers: u64,
}

impl Progress {
    pub fn stage(&self) -> Stage {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Stage {
            received: load(&self.received),
            size: load(&self.size),
            unpacked: load(&self.unpacked),
            layers: load(&self.layers),
        }
    }

    /// The pull ends soon, with an error. What it has fetched stays for the next one.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self, layers: u64, size: u64) {
        self.layers.store(layers, Ordering::Relaxed);
        self.size.store(size, Ordering::Relaxed);
    }

    pub(super) fn receive(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was received is worth nothing and is fetched again.
    pub(super) fn discard(&self, bytes: u64) {
        self.received.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn unpack(&self) {
        self.unpacked.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits; false when the pull was cancelled.
    pub(super) fn wait(&self, delay: Duration) -> bool {
        let deadline = Instant::now() + delay;
        while !self.is_cancelled() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(LOOK));
        }
        false
    }
}
