//! Makes a store of a backup.
//!
//! The file is filled beside its place and appears under its name only when it is whole and has been opened once. Keys
//! keep the revisions that they had; the store begins [`REVISIONS_APART`] above them, with all before compacted.
//!
//! **Invariant:** a restore that was cut off leaves `NAME.restoring`, and as long as that is there the store is not
//! opened: an empty one in its place would be worse than none.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;

use super::disk::{Disk, Fault, Filling};
use super::medium::builder;
use crate::backup::{BackupError, REVISIONS_APART, Reader, Record};
use crate::{Error, Event, EventKind, LeaseId};

/// Records of one commit, and their bytes.
const GROUP: usize = 4096;
const GROUP_BYTES: usize = 8 << 20;

/// Makes the store at `path`, where none may be, of a backup; returns the revision at which it begins. Blocks.
pub fn restore(path: impl AsRef<Path>, backup: Reader) -> Result<i64, BackupError> {
    let path = path.as_ref();
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let lock = File::open(directory).map_err(BackupError::file("open", directory))?;
    if lock.try_lock().is_err() {
        return Err(Error::InUse { path: path.display().to_string() }.into());
    }
    if fs::exists(path).map_err(BackupError::file("look for", path))? {
        let found = "a store (move it away first)".to_owned();
        return Err(BackupError::NotEmpty { target: path.display().to_string(), found });
    }
    let draft = draft(path);
    // Removed, not truncated: under another name it may be a whole store by now.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(BackupError::file("remove", &draft)(error));
        }
        _ => {}
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&draft);
    let file = file.map_err(BackupError::file("create", &draft))?;
    let revision = fill(file, backup, &draft)?;
    // Opening checks all of it.
    drop(super::open(&draft)?);
    match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let what = "a store has appeared".to_owned();
            return Err(BackupError::Disturbed { target: path.display().to_string(), what });
        }
        result => result.map_err(BackupError::file("name", path))?,
    }
    fs::remove_file(&draft).map_err(BackupError::file("remove", &draft))?;
    lock.sync_all().map_err(BackupError::file("write", directory))?;
    Ok(revision)
}

/// Refuses to go on where a restore was cut off.
pub(super) fn check_finished(path: &Path) -> Result<(), Error> {
    let draft = draft(path);
    if fs::exists(&draft).unwrap_or(false) && !fs::exists(path).unwrap_or(true) {
        let remedy = format!("remove {}", draft.display());
        return Err(Error::Unfinished { target: path.display().to_string(), remedy });
    }
    Ok(())
}

fn draft(path: &Path) -> PathBuf {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".restoring");
    draft.into()
}

fn fill(file: File, mut backup: Reader, draft: &Path) -> Result<i64, BackupError> {
    let broken = |fault: Fault| BackupError::Store(fault.opening(draft));
    let begun = || {
        let backend = FileBackend::new(file)?;
        let database = builder().create_with_backend(backend)?;
        Disk::initialise(&database)?;
        Ok(database)
    };
    let database = begun().map_err(broken)?;
    let mut filling = Filling::new(&database);
    let (mut ordinal, mut size, mut last_lease) = (0, 0, LeaseId(0));
    let mut group = Vec::with_capacity(GROUP);
    let mut leases = Vec::new();
    while let Some(record) = backup.next()? {
        match record {
            Record::Lease { id, left } => {
                last_lease = last_lease.max(id);
                leases.push((id, left.as_secs().max(1)));
            }
            Record::Key(kv) => {
                let (revision, lease) = (kv.mod_revision, kv.lease);
                let mut bytes = Vec::new();
                super::record::encode(&Event { kind: EventKind::Put, kv, prev: None }, lease, &mut bytes);
                size += bytes.len();
                // Nobody replays what is compacted: within a revision any order will do.
                group.push(((revision, ordinal), bytes));
                ordinal += 1;
            }
        }
        if group.len() == GROUP || size >= GROUP_BYTES {
            filling.add(&group, &leases).map_err(broken)?;
            group.clear();
            leases.clear();
            size = 0;
        }
    }
    filling.add(&group, &leases).map_err(broken)?;
    let revision = backup.header().revision + REVISIONS_APART;
    filling.finish(revision, last_lease).map_err(broken)?;
    Ok(revision)
}
