//! Reads a backup, and believes nothing that it has not checked.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{BackupError, END, FORMAT, HEADER, KEY, LEASE, LONGEST_FRAME, MAGIC, TRAILER};
use crate::{KeyValue, LeaseId};

/// What a backup says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// The revision that it shows.
    pub revision: i64,
    /// When it was taken, in seconds since the epoch.
    pub taken: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Lease { id: LeaseId, left: Duration },
    Key(KeyValue),
}

/// What is in a backup that was read to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub header: Header,
    pub keys: u64,
    pub leases: u64,
    pub bytes: u64,
}

/// Reads one record after another; whether the file is whole is known only once [`Reader::next`] gave `None`.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    input: BufReader<File>,
    hash: Sha256,
    summary: Summary,
    last: Option<String>,
    ended: bool,
}

impl Reader {
    /// Opens a backup that was found whole: reads all of it first.
    pub fn verified(path: &Path) -> Result<Self, BackupError> {
        let mut reader = Self::open(path)?;
        reader.finish()?;
        let mut file = reader.input.into_inner();
        file.rewind().map_err(BackupError::file("read", path))?;
        Self::over(file, path)
    }

    pub fn open(path: &Path) -> Result<Self, BackupError> {
        Self::over(File::open(path).map_err(BackupError::file("open", path))?, path)
    }

    fn over(file: File, path: &Path) -> Result<Self, BackupError> {
        let mut reader = Self {
            path: path.to_owned(),
            input: BufReader::with_capacity(1 << 20, file),
            hash: Sha256::new(),
            summary: Summary::default(),
            last: None,
            ended: false,
        };
        let foreign = |reason: String| BackupError::Foreign { path: path.to_owned(), reason };
        let mut magic = [0; MAGIC.len()];
        match reader.fill(&mut magic) {
            Err(BackupError::Damaged { .. }) => return Err(foreign("it does not start like one".to_owned())),
            result => result?,
        }
        if magic != *MAGIC {
            return Err(foreign("it does not start like one".to_owned()));
        }
        let mut format = [0; 4];
        reader.fill(&mut format)?;
        let format = u32::from_le_bytes(format);
        if format != FORMAT {
            return Err(foreign(format!("format is {format}, this version reads {FORMAT}")));
        }
        match reader.frame()? {
            (HEADER, body) => {
                let mut fields = Fields(&body);
                let header = fields.i64().zip(fields.i64()).filter(|_| fields.0.is_empty());
                let header = header.ok_or_else(|| reader.damaged("the header is of another length"))?;
                reader.summary.header = Header { revision: header.0, taken: header.1 };
            }
            (kind, _) => return Err(reader.damaged(format!("it begins with a frame of kind {kind}"))),
        }
        if reader.summary.header.revision < 0 {
            return Err(reader.damaged("its revision is negative"));
        }
        Ok(reader)
    }

    pub fn header(&self) -> Header {
        self.summary.header
    }

    /// `None` at the end of a backup that is whole.
    #[expect(clippy::should_implement_trait, reason = "an iterator would let errors be skipped")]
    pub fn next(&mut self) -> Result<Option<Record>, BackupError> {
        if self.ended {
            return Ok(None);
        }
        let (kind, body) = self.frame()?;
        let mut fields = Fields(&body);
        match kind {
            LEASE => {
                let lease = fields.i64().zip(fields.u64()).filter(|_| fields.0.is_empty());
                let (id, left) = lease.ok_or_else(|| self.damaged("a lease is of another length"))?;
                self.summary.leases += 1;
                Ok(Some(Record::Lease { id: LeaseId(id), left: Duration::from_secs(left) }))
            }
            KEY => {
                let kv = fields.key_value().ok_or_else(|| self.damaged("a key cannot be read"))?;
                if self.last.as_ref().is_some_and(|last| *last >= kv.key) {
                    return Err(self.damaged(format!("key {:?} is out of order", kv.key)));
                }
                if kv.mod_revision > self.summary.header.revision {
                    return Err(self.damaged(format!("key {:?} is from the future", kv.key)));
                }
                self.last = Some(kv.key.clone());
                self.summary.keys += 1;
                Ok(Some(Record::Key(kv)))
            }
            END => {
                let keys = fields.u64().filter(|_| fields.0.is_empty());
                if keys != Some(self.summary.keys) {
                    let found = self.summary.keys;
                    return Err(self.damaged(format!("it holds {found} keys and says otherwise")));
                }
                self.check_trailer()?;
                self.ended = true;
                Ok(None)
            }
            other => Err(self.damaged(format!("a frame is of kind {other}"))),
        }
    }

    /// Reads what is left of it.
    pub fn finish(&mut self) -> Result<Summary, BackupError> {
        while self.next()?.is_some() {}
        Ok(self.summary)
    }

    fn check_trailer(&mut self) -> Result<(), BackupError> {
        let expected = self.hash.clone().finalize();
        let mut trailer = [0; TRAILER];
        self.fill(&mut trailer)?;
        if expected.as_slice() != trailer {
            return Err(self.damaged("its checksum does not match"));
        }
        match self.input.read(&mut [0]).map_err(BackupError::file("read", &self.path))? {
            0 => Ok(()),
            _ => Err(self.damaged("something follows its end")),
        }
    }

    fn frame(&mut self) -> Result<(u8, Vec<u8>), BackupError> {
        let mut length = [0; 4];
        self.fill(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length == 0 || length > LONGEST_FRAME {
            return Err(self.damaged(format!("a frame is {length} bytes long")));
        }
        let mut kind = [0];
        self.fill(&mut kind)?;
        let mut body = vec![0; length as usize - 1];
        self.fill(&mut body)?;
        Ok((kind[0], body))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), BackupError> {
        match self.input.read_exact(buffer) {
            Ok(()) => {
                self.hash.update(&*buffer);
                self.summary.bytes += buffer.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.damaged("it ends early")),
            Err(error) => Err(BackupError::file("read", &self.path)(error)),
        }
    }

    fn damaged(&self, reason: impl Into<String>) -> BackupError {
        BackupError::Damaged { path: self.path.clone(), reason: reason.into() }
    }
}

/// What is left of a frame.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.bytes().map(i64::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn key_value(&mut self) -> Option<KeyValue> {
        let (create_revision, mod_revision, version) = (self.i64()?, self.i64()?, self.i64()?);
        let lease = self.i64()?;
        let length = u32::from_le_bytes(self.bytes()?) as usize;
        let (key, value) = self.0.split_at_checked(length)?;
        let key = std::str::from_utf8(key).ok().filter(|key| !key.is_empty())?.to_owned();
        let value = Bytes::copy_from_slice(value);
        let lease = (lease != 0).then_some(LeaseId(lease));
        Some(KeyValue { key, value, create_revision, mod_revision, version, lease })
    }
}
