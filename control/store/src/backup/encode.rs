//! Makes the bytes of a backup.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{END, FORMAT, HEADER, KEY, LEASE, MAGIC};
use crate::{KeyValue, LeaseId};

/// Collects frames until they are taken.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    hash: Sha256,
    ready: Vec<u8>,
    keys: u64,
}

impl Encoder {
    pub(super) fn begin(revision: i64, taken: i64) -> Self {
        let mut encoder = Self::default();
        encoder.ready.extend_from_slice(MAGIC);
        encoder.ready.extend_from_slice(&FORMAT.to_le_bytes());
        encoder.frame(HEADER, &[&revision.to_le_bytes(), &taken.to_le_bytes()]);
        encoder
    }

    pub(super) fn lease(&mut self, lease: LeaseId, seconds: u64) {
        self.frame(LEASE, &[&lease.0.to_le_bytes(), &seconds.to_le_bytes()]);
    }

    pub(super) fn key(&mut self, kv: &KeyValue) {
        self.keys += 1;
        let lease = kv.lease.map_or(0, |lease| lease.0);
        let numbers = [kv.create_revision, kv.mod_revision, kv.version, lease].map(i64::to_le_bytes);
        // A key is far shorter than a frame may be.
        let length = (kv.key.len() as u32).to_le_bytes();
        self.frame(KEY, &[numbers.as_flattened(), &length, kv.key.as_bytes(), &kv.value]);
    }

    /// The last frame and the trailer; nothing may follow.
    pub(super) fn end(mut self) -> Bytes {
        self.frame(END, &[&self.keys.to_le_bytes()]);
        self.hash.update(&self.ready);
        self.ready.extend_from_slice(&self.hash.finalize());
        self.ready.into()
    }

    pub(super) fn len(&self) -> usize {
        self.ready.len()
    }

    pub(super) fn take(&mut self) -> Bytes {
        let ready = std::mem::take(&mut self.ready);
        self.hash.update(&ready);
        ready.into()
    }

    fn frame(&mut self, kind: u8, parts: &[&[u8]]) {
        let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
        self.ready.extend_from_slice(&(length as u32).to_le_bytes());
        self.ready.push(kind);
        parts.iter().for_each(|part| self.ready.extend_from_slice(part));
    }
}
