//! Tests of what the writer does when the file cannot be written: a medium that fails on command.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use futures::StreamExt;
use redb::{BackendError, Database, StorageBackend, backends::FileBackend};
use tempfile::TempDir;

use super::{
    Embedded, Options,
    disk::Fault,
    medium::{FileMedium, Medium, builder},
    start,
};
use crate::{Error, Result, Store, Txn};

/// What fails at present.
#[derive(Debug, Default)]
struct Switches {
    write: AtomicBool,
    sync: AtomicBool,
    open: AtomicBool,
}

struct Faulty {
    path: PathBuf,
    switches: Arc<Switches>,
}

impl Medium for Faulty {
    fn open(&self) -> Result<Database, Fault> {
        if self.switches.open.load(SeqCst) {
            return Err(Fault::Io("cannot be opened".to_owned()));
        }
        let file: File = OpenOptions::new().read(true).write(true).open(&self.path).unwrap();
        let backend = FaultyBackend { file: FileBackend::new(file)?, switches: Arc::clone(&self.switches) };
        Ok(builder().create_with_backend(backend)?)
    }
}

#[derive(Debug)]
struct FaultyBackend {
    file: FileBackend,
    switches: Arc<Switches>,
}

impl StorageBackend for FaultyBackend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.switches.sync.swap(false, SeqCst) {
            Err(io::Error::other("sync fails once"))
        } else {
            self.file.sync_data()
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.switches.write.load(SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}

fn faulty(path: &Path) -> (Embedded, Arc<Switches>) {
    let switches = Arc::new(Switches::default());
    FileMedium::prepare(path).unwrap();
    let medium = Faulty { path: path.to_owned(), switches: Arc::clone(&switches) };
    (start(Box::new(medium), &Options::default()).unwrap(), switches)
}

async fn put(store: &Embedded, key: &str) -> Result<i64> {
    store.txn(Txn::new().put(key, "value")).await.map(|outcome| outcome.revision)
}

/// Puts until it works.
async fn put_again(store: &Embedded, key: &str) -> i64 {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match put(store, key).await {
            Ok(revision) => return revision,
            Err(error) => assert!(Instant::now() < deadline, "does not recover: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_clearly_serves_reads_and_recovers() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store");
    let (store, switches) = faulty(&path);
    assert_eq!(put(&store, "/before").await.unwrap(), 2);
    let mut watch = store.watch("/", 2).await.unwrap();
    switches.write.store(true, SeqCst);
    for _ in 0..20 {
        let error = put(&store, "/during").await.unwrap_err();
        assert!(matches!(error, Error::NoSpace | Error::OutcomeUnknown { .. }), "{error:?}");
    }
    assert!(matches!(put(&store, "/during").await, Err(Error::NoSpace)));
    let read = store.get("/before").await.unwrap();
    assert_eq!((read.revision, read.value.unwrap().value), (2, "value".into()));
    switches.write.store(false, SeqCst);
    assert_eq!(put_again(&store, "/after").await, 3);
    assert_eq!(watch.next().await.unwrap().unwrap().revision, 2);
    assert_eq!(watch.next().await.unwrap().unwrap().events[0].kv.key, "/after");
    drop((store, watch));
    let (store, _) = faulty(&path);
    assert_eq!(store.get("/during").await.unwrap().value, None);
    assert_eq!(store.get("/after").await.unwrap().value.unwrap().mod_revision, 3);
}

#[tokio::test]
async fn a_write_that_reached_the_file_in_spite_of_an_error_is_shown_once_and_answered_as_done() {
    let directory = TempDir::new().unwrap();
    let (store, switches) = faulty(&directory.path().join("store"));
    put(&store, "/a").await.unwrap();
    switches.sync.store(true, SeqCst);
    let answer = put(&store, "/b").await;
    let present = store.get("/b").await.unwrap().value;
    assert_eq!(answer.is_ok(), present.is_some(), "{answer:?}");
    let next = put_again(&store, "/c").await;
    assert_eq!(next, if present.is_some() { 4 } else { 3 });
}

#[tokio::test]
async fn a_write_of_unknown_outcome_is_resolved_once_the_file_can_be_opened() {
    let directory = TempDir::new().unwrap();
    let (store, switches) = faulty(&directory.path().join("store"));
    put(&store, "/a").await.unwrap();
    let mut watch = store.watch("/", 3).await.unwrap();
    switches.sync.store(true, SeqCst);
    switches.open.store(true, SeqCst);
    assert!(matches!(put(&store, "/b").await, Err(Error::OutcomeUnknown { .. })));
    assert!(matches!(put(&store, "/c").await, Err(Error::Unavailable { .. })));
    assert_eq!(store.get("/b").await.unwrap().value, None);
    switches.open.store(false, SeqCst);
    let revision = put_again(&store, "/d").await;
    // Whichever it was, the watch and the present tell the same, without a gap.
    let mut seen = Vec::new();
    while seen.len() < usize::try_from(revision - 2).unwrap() {
        seen.extend(watch.next().await.unwrap().unwrap().events);
    }
    assert_eq!(seen.last().unwrap().kv.key, "/d");
    let present = store.get("/b").await.unwrap().value;
    assert_eq!(seen.len() == 2, present.is_some());
}
