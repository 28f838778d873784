//! What one layer may come to: a few kilobytes that were compressed may stand for more than the node has.
//!
//! Counted are the bytes of the stream after decompression, the bytes written (a sparse file stands for more than the stream
//! holds), the entries, and what has to be kept in memory meanwhile.

use std::cell::Cell;
use std::io::{self, Read, Write};

/// What comes between two entries: headers, long names, extended attributes. It is read into memory.
const HEADERS: u64 = 1 << 20;
/// Names of directories, which are kept until the end of the layer.
const NAMES: u64 = 64 << 20;
const BLOCK: usize = 64 * 1024;

/// Of each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerLimits {
    /// Unpacked.
    pub bytes: u64,
    /// Files, directories, links, deletions.
    pub entries: u64,
}

impl Default for LayerLimits {
    fn default() -> Self {
        Self { bytes: 32 << 30, entries: 2_000_000 }
    }
}

/// What is left of a layer's limits.
#[derive(Debug)]
pub(super) struct Gauge {
    limits: LayerLimits,
    read: Cell<u64>,
    written: Cell<u64>,
    entries: Cell<u64>,
    names: Cell<u64>,
    /// While headers are read.
    headers: Cell<Option<u64>>,
    exceeded: Cell<Option<Excess>>,
}

/// Which limit was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    Bytes(u64),
    Entries(u64),
    Headers,
    Names,
}

impl std::fmt::Display for Excess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(limit) => write!(f, "more than {limit} bytes (--image-layer-max-size)"),
            Self::Entries(limit) => write!(f, "more than {limit} files"),
            Self::Headers => write!(f, "an entry whose header is larger than {HEADERS} bytes"),
            Self::Names => write!(f, "directories whose names alone are larger than {NAMES} bytes"),
        }
    }
}

impl Gauge {
    pub(super) fn new(limits: LayerLimits) -> Self {
        Self {
            limits,
            read: Cell::new(limits.bytes),
            written: Cell::new(limits.bytes),
            entries: Cell::new(limits.entries),
            names: Cell::new(NAMES),
            headers: Cell::new(None),
            exceeded: Cell::new(None),
        }
    }

    /// Why nothing more is to be read; an error that follows it is only its echo.
    pub(super) fn exceeded(&self) -> Option<Excess> {
        self.exceeded.get()
    }

    pub(super) fn entry(&self) -> io::Result<()> {
        self.take(&self.entries, 1, Excess::Entries(self.limits.entries))
    }

    pub(super) fn directory(&self, name: &[u8]) -> io::Result<()> {
        self.take(&self.names, name.len() as u64, Excess::Names)
    }

    /// What is read until the answer is dropped is headers.
    pub(super) fn begin_headers(&self) {
        self.headers.set(Some(HEADERS));
    }

    pub(super) fn end_headers(&self) {
        self.headers.set(None);
    }

    /// Everything that `from` has, as far as it may be written.
    pub(super) fn copy(&self, from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
        let mut buffer = vec![0; BLOCK];
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.take(&self.written, count as u64, Excess::Bytes(self.limits.bytes))?;
            to.write_all(&buffer[..count])?;
        }
    }

    fn take(&self, from: &Cell<u64>, count: u64, excess: Excess) -> io::Result<()> {
        match from.get().checked_sub(count) {
            Some(left) => {
                from.set(left);
                Ok(())
            }
            None => {
                self.exceeded.set(Some(excess));
                Err(io::Error::other(excess.to_string()))
            }
        }
    }
}

/// A decompressed stream under its gauge.
pub(super) struct Gauged<'g, R> {
    inner: R,
    gauge: &'g Gauge,
}

impl<'g, R> Gauged<'g, R> {
    pub(super) fn new(inner: R, gauge: &'g Gauge) -> Self {
        Self { inner, gauge }
    }
}

impl<R: Read> Read for Gauged<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let gauge = self.gauge;
        gauge.take(&gauge.read, count as u64, Excess::Bytes(gauge.limits.bytes))?;
        if let Some(left) = gauge.headers.get() {
            let headers = Cell::new(left);
            gauge.take(&headers, count as u64, Excess::Headers)?;
            gauge.headers.set(Some(headers.get()));
        }
        Ok(count)
    }
}
