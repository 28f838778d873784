//! From the container's output to its log file, in the CRI format (see [`crate::logs`]).
//!
//! Memory is bounded: a line is written when it is complete or has reached [`LINE_LIMIT`], in parts then. When the disk
//! refuses an entry it is dropped: a full disk must not block the container.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Longest content of one entry, as containerd and CRI-O have it.
const LINE_LIMIT: usize = 16 * 1024;

pub(super) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    pub(super) fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(&self.path)?;
        Ok(())
    }
}

/// One of the container's output streams.
pub(super) struct Stream {
    name: &'static str,
    pipe: Option<File>,
    /// The beginning of a line whose end has not been read.
    pending: Vec<u8>,
}

impl Stream {
    /// `pipe` does not block.
    pub(super) fn new(name: &'static str, pipe: File) -> Self {
        Self { name, pipe: Some(pipe), pending: Vec::with_capacity(LINE_LIMIT) }
    }

    /// One that ends before it begins.
    pub(super) fn absent(name: &'static str) -> Self {
        Self { name, pipe: None, pending: Vec::new() }
    }

    /// What to poll; nothing after the end of the stream.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads once and logs what came; `also` gets it as it is.
    pub(super) fn pump(&mut self, log: &mut Log, also: impl FnOnce(&[u8])) {
        let mut buffer = [0; LINE_LIMIT];
        let Some(pipe) = &mut self.pipe else { return };
        match pipe.read(&mut buffer) {
            Ok(count) if count > 0 => {
                also(&buffer[..count]);
                let entries = split(self.name, Timestamp::now(), &mut self.pending, &buffer[..count]);
                let _ = log.file.write_all(&entries);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            _ => self.close(log),
        }
    }

    /// Logs a last line that has no end.
    pub(super) fn close(&mut self, log: &mut Log) {
        self.pipe = None;
        if !self.pending.is_empty() {
            let mut entry = Vec::new();
            append(&mut entry, self.name, Timestamp::now(), b'F', &self.pending);
            self.pending.clear();
            let _ = log.file.write_all(&entry);
        }
    }
}

/// The entries that `input` completes; the rest of it stays in `pending`.
fn split(stream: &str, now: Timestamp, pending: &mut Vec<u8>, input: &[u8]) -> Vec<u8> {
    let mut entries = Vec::with_capacity(input.len() + 128);
    for piece in input.split_inclusive(|byte| *byte == b'\n') {
        let (mut piece, ends) = match piece.strip_suffix(b"\n") {
            Some(piece) => (piece, true),
            None => (piece, false),
        };
        while pending.len() + piece.len() > LINE_LIMIT {
            let (head, tail) = piece.split_at(LINE_LIMIT - pending.len());
            pending.extend(head);
            append(&mut entries, stream, now, b'P', pending);
            pending.clear();
            piece = tail;
        }
        pending.extend(piece);
        if ends {
            append(&mut entries, stream, now, b'F', pending);
            pending.clear();
        }
    }
    entries
}

fn append(entries: &mut Vec<u8>, stream: &str, now: Timestamp, tag: u8, content: &[u8]) {
    // Nine digits always, so that entries sort as text.
    entries.extend(format!("{now:.9} {stream} ").bytes());
    entries.extend([tag, b' ']);
    entries.extend(content);
    entries.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "1970-01-01T00:00:00.000000000Z";

    #[test]
    fn lines_are_logged_when_complete() {
        let mut pending = Vec::new();
        let first = split("stdout", Timestamp::UNIX_EPOCH, &mut pending, b"one\ntw");
        let second = split("stdout", Timestamp::UNIX_EPOCH, &mut pending, b"o\n\n");
        assert_eq!(String::from_utf8_lossy(&first), format!("{TIME} stdout F one\n"));
        assert_eq!(String::from_utf8_lossy(&second), format!("{TIME} stdout F two\n{TIME} stdout F \n"));
        assert!(pending.is_empty());
    }

    #[test]
    fn long_lines_are_logged_in_parts() {
        let mut pending = Vec::new();
        let mut line = vec![b'x'; LINE_LIMIT * 2 + 5];
        line.push(b'\n');
        let mut log = Vec::new();
        for chunk in line.chunks(1000) {
            log.extend(split("stderr", Timestamp::UNIX_EPOCH, &mut pending, chunk));
            assert!(pending.len() <= LINE_LIMIT);
        }
        let log = String::from_utf8_lossy(&log);
        let parts: Vec<_> =
            log.lines().map(|entry| (&entry[TIME.len()..TIME.len() + 10], entry.len())).collect();
        let full = TIME.len() + 10 + LINE_LIMIT;
        assert_eq!(parts, [(" stderr P ", full), (" stderr P ", full), (" stderr F ", TIME.len() + 15)]);
    }
}
