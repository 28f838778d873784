//! Where the file lies: how it is made, looked at before anything trusts it, and opened (again, after a fault).
//!
//! redb repairs a damaged file in place by going back to the commit before. After a crash that is right: the last commit
//! was torn and nobody had been told of it. After a clean end it would hide damage, and lose what was acknowledged. So the
//! first look at a file goes through an [`Overlay`] that keeps all writes in memory: what redb would have to
//! repair in a cleanly closed file is reported instead, and the file stays as it is.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    ops::Bound,
    os::unix::fs::OpenOptionsExt,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{BackendError, Builder, Database, StorageBackend, backends::FileBackend};

use super::disk::{Disk, Fault};

/// What redb may keep of the file in memory. Reads are served from memory of our own: it needs the pages it writes to,
/// and those of the past that somebody pages through.
const CACHE_BYTES: usize = 3 << 20;

/// How every redb file starts.
const REDB_MAGIC: &[u8] = b"redb\x1A\x0A\xA9\x0D\x0A";

/// Something that holds the database's bytes.
pub(super) trait Medium: Send + Sync + 'static {
    fn open(&self) -> Result<Database, Fault>;
}

/// A file on disk.
#[derive(Debug)]
pub(super) struct FileMedium {
    path: PathBuf,
}

impl Medium for FileMedium {
    fn open(&self) -> Result<Database, Fault> {
        Ok(builder().create_with_backend(FileBackend::new(open_file(&self.path)?)?)?)
    }
}

impl FileMedium {
    /// The file at `path`, which is made if nothing is there, and examined if something is.
    pub(super) fn prepare(path: &Path) -> Result<Self, Fault> {
        if !fs::exists(path).map_err(|error| Fault::from_io(&error))? {
            create(path)?;
        } else {
            examine(path)?;
        }
        Ok(Self { path: path.to_owned() })
    }
}

pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn open_file(path: &Path) -> Result<File, Fault> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|error| Fault::from_io(&error))
}

/// Makes an empty store. It appears under its name only when it is whole, and never in place of another.
fn create(path: &Path) -> Result<(), Fault> {
    let io_fault = |error: io::Error| Fault::from_io(&error);
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".new-{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let write = || {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&draft);
        let database = builder().create_with_backend(FileBackend::new(file.map_err(io_fault)?)?)?;
        Disk::initialise(&database)?;
        drop(database);
        match fs::hard_link(&draft, path) {
            // Another process was faster; its lock decides who works with it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result.map_err(io_fault),
        }
    };
    let written = write();
    let removed = fs::remove_file(&draft).map_err(io_fault);
    written.and(removed)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io_fault)
}

/// Whether the file is a redb database in good order, without changing it.
fn examine(path: &Path) -> Result<(), Fault> {
    let mut file = open_file(path)?;
    let mut start = Vec::new();
    let limit = REDB_MAGIC.len() as u64;
    (&mut file).take(limit).read_to_end(&mut start).map_err(|error| Fault::from_io(&error))?;
    if start.is_empty() {
        return Err(Fault::Damaged("file is empty".to_owned()));
    }
    if start != REDB_MAGIC {
        return Err(Fault::Foreign("file does not start like one".to_owned()));
    }
    let overlay = Overlay::new(FileBackend::new(file)?)?;
    // redb checks what it reads, but a file made up of arbitrary bytes may still trip one of its assertions.
    panic::catch_unwind(AssertUnwindSafe(|| check(overlay)))
        .unwrap_or_else(|_| Err(Fault::Damaged("structure is broken".to_owned())))
}

fn check(overlay: Overlay) -> Result<(), Fault> {
    let crashed = Arc::new(AtomicBool::new(false));
    let mut builder = builder();
    let seen = Arc::clone(&crashed);
    builder.set_repair_callback(move |_| seen.store(true, Ordering::Relaxed));
    let mut database = builder.create_with_backend(overlay)?;
    if crashed.load(Ordering::Relaxed) {
        // Opening has just verified every page.
        tracing::info!("store was not closed cleanly: recovering");
        return Ok(());
    }
    if database.check_integrity()? {
        Ok(())
    } else {
        Err(Fault::Damaged("a page does not match its checksum".to_owned()))
    }
}

/// A file as it would be after writes that stay in memory.
#[derive(Debug)]
struct Overlay {
    below: FileBackend,
    above: Mutex<Above>,
}

#[derive(Debug)]
struct Above {
    length: u64,
    /// Bytes by where they start; none overlap.
    pieces: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    fn new(below: FileBackend) -> Result<Self, Fault> {
        let length = below.len().map_err(|error| Fault::from_io(&error))?;
        Ok(Self { below, above: Mutex::new(Above { length, pieces: BTreeMap::new() }) })
    }

    fn above(&self) -> std::sync::MutexGuard<'_, Above> {
        self.above.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Above {
    /// Makes room for `start..end`: shortens or splits the pieces there.
    fn clear(&mut self, start: u64, end: u64) {
        let before = self.pieces.range(..end).map(|(at, piece)| (*at, piece.len() as u64));
        let touched: Vec<u64> = before.filter(|(at, length)| at + length > start).map(|(at, _)| at).collect();
        for at in touched {
            let Some(mut piece) = self.pieces.remove(&at) else { continue };
            if at + piece.len() as u64 > end {
                self.pieces.insert(end, piece.split_off((end - at) as usize));
            }
            if at < start {
                piece.truncate((start - at) as usize);
                self.pieces.insert(at, piece);
            }
        }
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.above().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let above = self.above();
        let end = offset + out.len() as u64;
        if end > above.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let stored = self.below.len()?.saturating_sub(offset).min(out.len() as u64) as usize;
        self.below.read(offset, &mut out[..stored])?;
        out[stored..].fill(0);
        for (at, piece) in above.pieces.range(..end) {
            let (from, to) = ((*at).max(offset), (at + piece.len() as u64).min(end));
            if from < to {
                let bytes = &piece[(from - at) as usize..(to - at) as usize];
                out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(bytes);
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut above = self.above();
        above.clear(length, u64::MAX);
        above.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut above = self.above();
        above.clear(offset, offset + data.len() as u64);
        above.pieces.insert(offset, data.to_vec());
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.below.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.below.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.below.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.below.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.below.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.below.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.below.query_lock_range(start, end)
    }
}
