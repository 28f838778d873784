//! The file: a redb database with three tables.
//!
//! | table  | key                                   | value |
//! |--------|---------------------------------------|-------|
//! | `meta` | name                                  | `magic`, `format`; `revision`, `compacted`, `serial` (counts commits), `lease` (last one granted), `records` (entries in `log`) |
//! | `log`  | (revision, place in the transaction)  | one change, see [`record`](super::record) |
//! | `leases` | lease                               | its duration in seconds |
//!
//! `log` is written at its end only and removed from only by compaction, as in etcd. All of a group of transactions is one
//! redb commit: one fsync, after which either all or nothing of it is there.
//!
//! **Invariant:** above `compacted` no revision is missing. With `records` and the checksums this lets [`Disk::load`]
//! notice a file that has lost something.

use std::{
    io,
    ops::{ControlFlow, RangeInclusive},
    path::Path,
    time::Duration,
};

use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};

use super::{
    index::Place,
    medium::Medium,
    record::{self, Record},
};
use crate::{Error, LeaseId};

const META: TableDefinition<'_, &str, i64> = TableDefinition::new("meta");
const LOG: TableDefinition<'_, (i64, u32), &[u8]> = TableDefinition::new("log");
const LEASES: TableDefinition<'_, i64, i64> = TableDefinition::new("leases");

const MAGIC: i64 = i64::from_be_bytes(*b"weirstor");
const FORMAT: i64 = 1;

/// What went wrong with the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("disk is full")]
    Full,
    #[error("file is open elsewhere")]
    InUse,
    #[error("{0}")]
    Foreign(String),
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Io(String),
}

impl Fault {
    /// As the answer to an operation that changed nothing.
    pub(super) fn refusal(&self, operation: &'static str) -> Error {
        match self {
            Self::Full => Error::NoSpace,
            other => Error::Unavailable { operation, reason: other.to_string() },
        }
    }

    /// As the answer to opening `path`.
    pub(super) fn opening(self, path: &Path) -> Error {
        let path = path.display().to_string();
        match self {
            Self::Full => Error::NoSpace,
            Self::InUse => Error::InUse { path },
            Self::Foreign(reason) => Error::Foreign { path, reason },
            Self::Damaged(reason) => Error::Corrupt { path, reason },
            Self::Io(reason) => Error::Open { path, reason },
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Io(error) => Self::from_io(&error),
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            redb::Error::UpgradeRequired(version) => Self::Foreign(format!("redb file format {version}")),
            error @ (redb::Error::Corrupted(_) | redb::Error::RepairAborted) => {
                Self::Damaged(error.to_string())
            }
            error @ (redb::Error::TableDoesNotExist(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }) => Self::Foreign(error.to_string()),
            other => Self::Io(other.to_string()),
        }
    }
}

impl Fault {
    pub(super) fn from_io(error: &io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, InvalidData, QuotaExceeded, StorageFull, UnexpectedEof};
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::Full,
            UnexpectedEof | InvalidData => Self::Damaged(error.to_string()),
            _ => Self::Io(error.to_string()),
        }
    }
}

/// One commit.
#[derive(Debug, Default)]
pub(super) struct Write {
    /// Number of the commit, by which it is found again after a fault.
    pub(super) serial: i64,
    /// The store's revision afterwards.
    pub(super) revision: i64,
    pub(super) records: Vec<(Place, Vec<u8>)>,
    pub(super) compacted: Option<i64>,
    pub(super) garbage: Vec<Place>,
    pub(super) grant: Option<(LeaseId, Duration)>,
    pub(super) end: Option<LeaseId>,
}

/// The numbers of `meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) serial: i64,
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) last_lease: i64,
    records: i64,
}

#[derive(Debug)]
pub(super) struct Disk {
    database: Database,
}

impl Disk {
    /// Lays out an empty store in a database that has no table yet.
    pub(super) fn initialise(database: &Database) -> Result<(), Fault> {
        let txn = database.begin_write()?;
        {
            let mut meta = txn.open_table(META)?;
            let numbers = [("magic", MAGIC), ("format", FORMAT), ("revision", 1)];
            let zeros = ["compacted", "serial", "lease", "records"].map(|name| (name, 0));
            for (name, value) in numbers.into_iter().chain(zeros) {
                meta.insert(name, value)?;
            }
            txn.open_table(LOG)?;
            txn.open_table(LEASES)?;
        }
        Ok(txn.commit()?)
    }

    pub(super) fn open(medium: &dyn Medium) -> Result<Self, Fault> {
        Ok(Self { database: medium.open()? })
    }

    /// Reads everything: each change in order, then the leases. Fails if anything is missing or damaged.
    pub(super) fn load(
        &self,
        mut visit: impl FnMut(Place, &Record<'_>),
    ) -> Result<(Meta, Vec<(LeaseId, Duration)>), Fault> {
        let txn = self.database.begin_read()?;
        let meta = read_meta(&txn.open_table(META)?)?;
        let (mut records, mut revisions, mut last) = (0, 0, 0);
        for entry in txn.open_table(LOG)?.iter()? {
            let (place, bytes) = entry?;
            let (place, record) = (place.value(), decode(place.value(), bytes.value())?);
            records += 1;
            revisions += i64::from(place.0 > meta.compacted && place.0 != last);
            last = place.0;
            visit(place, &record);
        }
        // The empty store is of revision 1, which no change carries.
        let expected = meta.revision - meta.compacted.max(1);
        if records != meta.records || revisions != expected || last > meta.revision {
            let found = format!("{records} changes of {revisions} revisions up to {last}");
            let wanted = format!("{} of {expected} up to {}", meta.records, meta.revision);
            return Err(Fault::Damaged(format!("holds {found} where {wanted} should be")));
        }
        let mut leases = Vec::new();
        for entry in txn.open_table(LEASES)?.iter()? {
            let (id, seconds) = entry?;
            leases.push((LeaseId(id.value()), Duration::from_secs(seconds.value().unsigned_abs())));
        }
        Ok((meta, leases))
    }

    pub(super) fn meta(&self) -> Result<Meta, Fault> {
        read_meta(&self.database.begin_read()?.open_table(META)?)
    }

    /// Makes a commit durable: all of it or nothing.
    pub(super) fn commit(&self, write: &Write) -> Result<(), Fault> {
        let txn = self.database.begin_write()?;
        {
            let mut meta = txn.open_table(META)?;
            let mut log = txn.open_table(LOG)?;
            let mut records = number(&meta, "records")?;
            for (place, bytes) in &write.records {
                log.insert(*place, bytes.as_slice())?;
                records += 1;
            }
            for place in &write.garbage {
                records -= i64::from(log.remove(*place)?.is_some());
            }
            for (name, value) in
                [("serial", write.serial), ("revision", write.revision), ("records", records)]
            {
                meta.insert(name, value)?;
            }
            if let Some(compacted) = write.compacted {
                meta.insert("compacted", compacted)?;
            }
            if let Some((id, ttl)) = write.grant {
                meta.insert("lease", id.0)?;
                txn.open_table(LEASES)?.insert(id.0, ttl.as_secs().cast_signed())?;
            }
            if let Some(id) = write.end {
                txn.open_table(LEASES)?.remove(id.0)?;
            }
        }
        Ok(txn.commit()?)
    }

    /// The changes as they are now, unmoved by later commits.
    pub(super) fn snapshot(&self) -> Result<Snapshot, Fault> {
        Ok(Snapshot { log: self.database.begin_read()?.open_table(LOG)? })
    }
}

/// Fills a database that has just been laid out with what a backup holds. Only [`Filling::finish`] makes a store of it.
pub(super) struct Filling<'a> {
    database: &'a Database,
    records: i64,
}

impl<'a> Filling<'a> {
    pub(super) fn new(database: &'a Database) -> Self {
        Self { database, records: 0 }
    }

    /// Not durable before the end, which spares one fsync for each group.
    pub(super) fn add(
        &mut self,
        records: &[(Place, Vec<u8>)],
        leases: &[(LeaseId, u64)],
    ) -> Result<(), Fault> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(Durability::None).map_err(|error| Fault::Io(error.to_string()))?;
        {
            let mut log = txn.open_table(LOG)?;
            for (place, bytes) in records {
                log.insert(*place, bytes.as_slice())?;
                self.records += 1;
            }
            let mut table = txn.open_table(LEASES)?;
            for (id, seconds) in leases {
                table.insert(id.0, seconds.cast_signed())?;
            }
        }
        Ok(txn.commit()?)
    }

    pub(super) fn finish(self, revision: i64, last_lease: LeaseId) -> Result<(), Fault> {
        let txn = self.database.begin_write()?;
        {
            let mut meta = txn.open_table(META)?;
            let numbers = [
                ("revision", revision),
                ("compacted", revision),
                ("lease", last_lease.0),
                ("records", self.records),
            ];
            for (name, value) in numbers {
                meta.insert(name, value)?;
            }
        }
        Ok(txn.commit()?)
    }
}

/// The changes as of one moment.
pub(super) struct Snapshot {
    log: ReadOnlyTable<(i64, u32), &'static [u8]>,
}

impl Snapshot {
    /// The value of the put at `place`; `None` if it is not there (any more).
    pub(super) fn value(&self, place: Place) -> Result<Option<bytes::Bytes>, Fault> {
        let Some(bytes) = self.log.get(place)? else { return Ok(None) };
        let record = decode(place, bytes.value())?;
        Ok(record.put.map(|put| bytes::Bytes::copy_from_slice(put.value)))
    }

    /// Visits the changes of these revisions in order, until told to stop.
    pub(super) fn changes(
        &self,
        revisions: RangeInclusive<i64>,
        mut visit: impl FnMut(Place, &Record<'_>) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        for entry in self.log.range((*revisions.start(), 0)..=(*revisions.end(), u32::MAX))? {
            let (place, bytes) = entry?;
            let place = place.value();
            if visit(place, &decode(place, bytes.value())?).is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn decode(place: Place, bytes: &[u8]) -> Result<Record<'_>, Fault> {
    record::decode(bytes)
        .map_err(|damage| Fault::Damaged(format!("change {} of revision {}: {damage}", place.1, place.0)))
}

fn number(meta: &impl ReadableTable<&'static str, i64>, name: &str) -> Result<i64, Fault> {
    let value = meta.get(name)?.ok_or_else(|| Fault::Foreign(format!("has no {name}")))?;
    Ok(value.value())
}

fn read_meta(meta: &impl ReadableTable<&'static str, i64>) -> Result<Meta, Fault> {
    if number(meta, "magic")? != MAGIC {
        return Err(Fault::Foreign("magic number is another".to_owned()));
    }
    let format = number(meta, "format")?;
    if format != FORMAT {
        return Err(Fault::Foreign(format!("format is {format}, this version reads {FORMAT}")));
    }
    Ok(Meta {
        serial: number(meta, "serial")?,
        revision: number(meta, "revision")?,
        compacted: number(meta, "compacted")?,
        last_lease: number(meta, "lease")?,
        records: number(meta, "records")?,
    })
}
