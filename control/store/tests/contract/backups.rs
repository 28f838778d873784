//! Backups: taken while others write, restored into both backends, refused when anything is wrong with them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tempfile::TempDir;
use weir_store::backup::{self, BackupError, PartFile, REVISIONS_APART, Reader, Record, Summary};
use weir_store::{Error, KeyValue, ListOptions, Store, Txn, embedded, etcd};

use crate::backend::{Embedded, EtcdServer};
use crate::promises::{AnyStore, PATIENCE, commit, delete, fill, put};

async fn take(store: &AnyStore, path: &Path) -> Result<Summary, BackupError> {
    let mut file = PartFile::create(path)?;
    let mut chunks = backup::stream(store.clone());
    while let Some(chunk) = chunks.next().await {
        file.write(&chunk?)?;
    }
    file.finish()
}

async fn list(store: &dyn Store, revision: Option<i64>) -> BTreeMap<String, KeyValue> {
    let mut all = BTreeMap::new();
    for prefix in backup::PREFIXES {
        let page = store.list(prefix, ListOptions { revision, ..ListOptions::default() }).await.unwrap();
        all.extend(page.items.into_iter().map(|kv| (kv.key.clone(), kv)));
    }
    all
}

fn values(keys: &BTreeMap<String, KeyValue>) -> Vec<(&String, &[u8])> {
    keys.iter().map(|(key, kv)| (key, &*kv.value)).collect()
}

/// A store with history, deletes, leases, values of all sizes and keys of others.
async fn seed(store: &AnyStore) {
    fill(store, "/registry/pods/default/", 2000, 300).await;
    fill(store, "/registry/pods/default/", 500, 10).await;
    put(store, "/registry/configmaps/a/large", &"x".repeat(1_400_000)).await;
    put(store, "/registry/configmaps/a/empty", "").await;
    put(store, "/weir/cluster/ca.crt", "certificate").await;
    put(store, "/other/thing", "of somebody else").await;
    delete(store, "/registry/pods/default/000007").await;
    let lease = store.grant_lease(Duration::from_secs(3600)).await.unwrap();
    let txn = Txn::new().put_leased("/registry/events/a/1", "1", lease).put_leased(
        "/registry/events/a/2",
        "2",
        lease,
    );
    commit(store, txn).await;
}

/// A backup of a seeded embedded store, and what the store held at its revision.
async fn sample(directory: &TempDir) -> (PathBuf, BTreeMap<String, KeyValue>) {
    let backend = Embedded::start();
    let store = backend.store();
    seed(&store).await;
    let path = directory.path().join("sample.backup");
    let summary = take(&store, &path).await.unwrap();
    (path, list(&*store, Some(summary.header.revision)).await)
}

/// Takes a backup in the midst of writes, and holds it against what the store says of that revision.
async fn holds_one_revision(store: AnyStore) {
    seed(&store).await;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("backup");
    let before = store.get("/registry/").await.unwrap().revision;
    let stop = Arc::new(tokio::sync::Notify::new());
    let writer = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            let write = async {
                for round in 0.. {
                    fill(&store, "/registry/pods/default/", 300, round % 7).await;
                    delete(&store, &format!("/registry/pods/default/{:06}", round * 13 % 2000)).await;
                }
            };
            tokio::select! { () = write => {}, () = stop.notified() => {} }
        }
    });
    // Not before the writer is at it.
    while store.get("/registry/").await.unwrap().revision < before + 50 {
        tokio::task::yield_now().await;
    }
    let summary = take(&store, &path).await.unwrap();
    stop.notify_one();
    writer.await.unwrap();
    let newest = store.get("/registry/").await.unwrap().revision;
    assert!(before < summary.header.revision && summary.header.revision < newest, "{summary:?}");

    let mut found = BTreeMap::new();
    let mut reader = Reader::verified(&path).unwrap();
    while let Some(record) = reader.next().unwrap() {
        match record {
            Record::Key(kv) => drop(found.insert(kv.key.clone(), kv)),
            Record::Lease { left, .. } => assert!(left > Duration::from_secs(3000), "{left:?}"),
        }
    }
    assert_eq!(found, list(&*store, Some(summary.header.revision)).await);
    assert_eq!((summary.keys, summary.leases), (found.len() as u64, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_the_embedded_store_holds_one_revision_while_others_write() {
    holds_one_revision(Embedded::start().store()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_etcd_holds_one_revision_while_others_write() {
    let Some(server) = EtcdServer::start() else { return };
    holds_one_revision(server.store().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_store_is_restored_with_every_revision_and_goes_on_far_above() {
    let directory = TempDir::new().unwrap();
    let (backup, expected) = sample(&directory).await;
    let taken_at = Reader::open(&backup).unwrap().header().revision;
    let path = directory.path().join("store");
    let revision = embedded::restore(&path, Reader::verified(&backup).unwrap()).unwrap();
    assert_eq!(revision, taken_at + REVISIONS_APART);
    let store: AnyStore = Arc::new(embedded::open(&path).unwrap());
    assert_eq!(list(&*store, None).await, expected);
    let event = &expected["/registry/events/a/1"];
    assert!(store.time_left(event.lease.unwrap()).await.unwrap() > Duration::from_secs(3000));
    goes_on_above(&store, taken_at, revision).await;
    let newest = delete(&store, "/registry/pods/default/000008").await;
    store.compact(newest).await.unwrap();
    let before = list(&*store, None).await;
    drop(store);
    assert_eq!(list(&embedded::open(&path).unwrap(), None).await, before);
}

/// The past up to the restore is compacted, what was seen of a lost future included; changes are watched from there.
async fn goes_on_above(store: &AnyStore, taken_at: i64, now: i64) {
    for past in [1, taken_at, taken_at + 1, taken_at + 5000, now - 100_000] {
        let listed =
            store.list("/registry/", ListOptions { revision: Some(past), ..Default::default() }).await;
        assert!(matches!(listed, Err(Error::Compacted { .. })), "{past}: {listed:?}");
        let watched = store.watch("/registry/", past).await.err();
        assert!(matches!(watched, Some(Error::Compacted { .. })), "{past}: {watched:?}");
        let stale =
            store.txn(Txn::new().unchanged("/registry/configmaps/a/empty", past + 1).put("/never", "x"));
        assert!(!stale.await.unwrap().committed, "{past}");
    }
    assert_eq!(store.get("/registry/").await.unwrap().revision, now);
    let mut watch = store.watch("/registry/", now + 1).await.unwrap();
    assert_eq!(put(store, "/registry/new", "1").await, now + 1);
    let batch = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((batch.revision, batch.events[0].kv.mod_revision), (now + 1, now + 1));
    let at = ListOptions { revision: Some(now), ..ListOptions::default() };
    assert!(store.list("/registry/new", at).await.unwrap().items.is_empty());
    let new = store.get("/registry/new").await.unwrap().value.unwrap();
    assert!(commit_if(store, new.mod_revision).await);
}

async fn commit_if(store: &AnyStore, mod_revision: i64) -> bool {
    let txn = Txn::new().unchanged("/registry/new", mod_revision).put("/registry/new", "2");
    store.txn(txn).await.unwrap().committed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_restored_and_its_revisions_lie_far_above_the_backups() {
    let Some(server) = EtcdServer::start() else { return };
    let directory = TempDir::new().unwrap();
    let (backup, expected) = sample(&directory).await;
    let taken_at = Reader::open(&backup).unwrap().header().revision;
    // What is somebody else's stays, and is in nobody's way.
    server.ctl(&["put", "/other/thing", "theirs"]);
    let revision = etcd::restore([&server.url], None, Reader::verified(&backup).unwrap()).await.unwrap();
    assert!(revision > taken_at + REVISIONS_APART);
    let store = server.store().await;
    let found = list(&*store, None).await;
    assert_eq!(values(&found), values(&expected));
    assert!(found.values().all(|kv| kv.mod_revision > taken_at + REVISIONS_APART && kv.version == 1));
    let leases: Vec<_> = found.values().filter_map(|kv| kv.lease).collect();
    assert_eq!((leases.len(), leases[0]), (2, leases[1]));
    let left = store.time_left(leases[0]).await.unwrap();
    assert!(left > Duration::from_secs(3000) && left <= Duration::from_secs(3600), "{left:?}");
    goes_on_above(&store, taken_at, revision).await;
    store.compact(revision + 1).await.unwrap();
    let compacted = store.watch("/registry/", revision).await.err();
    assert!(matches!(compacted, Some(Error::Compacted { .. })), "{compacted:?}");

    // And from there back: a backup of it begins above the one it was made of.
    let again = directory.path().join("again.backup");
    let summary = take(&store, &again).await.unwrap();
    assert!(summary.header.revision > revision);
    let path = directory.path().join("store");
    let back = embedded::restore(&path, Reader::verified(&again).unwrap()).unwrap();
    assert_eq!(back, summary.header.revision + REVISIONS_APART);
    let back = embedded::open(&path).unwrap();
    assert_eq!(list(&back, None).await, list(&*store, None).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_holds_something_is_not_restored_to() {
    let directory = TempDir::new().unwrap();
    let (backup, _) = sample(&directory).await;
    let path = directory.path().join("store");
    drop(embedded::open(&path).unwrap());
    let bytes = fs::read(&path).unwrap();
    let error = embedded::restore(&path, Reader::verified(&backup).unwrap()).unwrap_err();
    assert!(matches!(error, BackupError::NotEmpty { .. }), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), bytes);

    let Some(server) = EtcdServer::start() else { return };
    put(&server.store().await, "/registry/namespaces/default", "x").await;
    let error = etcd::restore([&server.url], None, Reader::verified(&backup).unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("key /registry/namespaces/default"), "{error}");
    assert_eq!(list(&*server.store().await, None).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_was_cut_off_is_known_and_can_be_repeated() {
    let directory = TempDir::new().unwrap();
    let (backup, expected) = sample(&directory).await;
    let path = directory.path().join("store");
    fs::write(directory.path().join("store.restoring"), "half").unwrap();
    let error = embedded::open(&path).unwrap_err();
    assert!(matches!(error, Error::Unfinished { .. }), "{error:?}");
    embedded::restore(&path, Reader::verified(&backup).unwrap()).unwrap();
    assert_eq!(list(&embedded::open(&path).unwrap(), None).await, expected);

    let Some(server) = EtcdServer::start() else { return };
    // The file changes under the reader when half of it was written.
    let broken = directory.path().join("broken.backup");
    fs::copy(&backup, &broken).unwrap();
    let reader = Reader::verified(&broken).unwrap();
    let middle = fs::metadata(&broken).unwrap().len() * 9 / 10;
    fs::OpenOptions::new().write(true).open(&broken).unwrap().set_len(middle).unwrap();
    let error = etcd::restore([&server.url], None, reader).await.unwrap_err();
    assert!(matches!(error, BackupError::Damaged { .. }), "{error:?}");
    assert!(!server.ctl(&["get", "--prefix", "/registry/", "--limit", "1"]).is_empty());
    let error = etcd::connect([&server.url], None).await.unwrap_err();
    assert!(matches!(error, Error::Unfinished { .. }), "{error:?}");
    etcd::restore([&server.url], None, Reader::verified(&backup).unwrap()).await.unwrap();
    assert_eq!(values(&list(&*server.store().await, None).await), values(&expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_anywhere_is_noticed_before_anything_is_written() {
    let directory = TempDir::new().unwrap();
    let backend = Embedded::start();
    let store = backend.store();
    fill(&store, "/registry/pods/default/", 20, 50).await;
    let path = directory.path().join("backup");
    take(&store, &path).await.unwrap();
    let whole = fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        let path = directory.path().join("damaged");
        fs::write(&path, bytes).unwrap();
        Reader::verified(&path).map(|reader| reader.header()).unwrap_err()
    };
    for length in 0..whole.len() {
        let error = refused(&whole[..length]);
        let named = matches!(error, BackupError::Damaged { .. } | BackupError::Foreign { .. });
        assert!(named, "{length}: {error:?}");
    }
    for byte in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[byte] ^= 1 << (byte % 8);
        refused(&damaged);
    }
    let followed = [&whole[..], b"x"].concat();
    assert!(matches!(refused(&followed), BackupError::Damaged { .. }));
    assert!(matches!(refused(b"SQLite format 3\0 and more"), BackupError::Foreign { .. }));
    let mut newer = whole.clone();
    newer[8] = 2;
    let error = refused(&newer).to_string();
    assert!(error.contains("format is 2, this version reads 1"), "{error}");
    let error = take(&store, &path).await.unwrap_err();
    assert!(matches!(error, BackupError::Exists { .. }), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_that_overtakes_a_backup_is_told_as_such_and_leaves_no_file() {
    let backend = Embedded::start();
    let store = backend.store();
    fill(&store, "/registry/pods/default/", 3000, 500).await;
    let mut chunks = backup::stream(store.clone());
    chunks.next().await.unwrap().unwrap();
    let newest = put(&store, "/registry/pods/default/000001", "newer").await;
    store.compact(newest).await.unwrap();
    let error = loop {
        match chunks.next().await.expect("it ends in an error") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, BackupError::Overtaken { .. }), "{error:?}");
    assert!(chunks.next().await.is_none());
    let directory = TempDir::new().unwrap();
    drop(PartFile::create(&directory.path().join("backup")).unwrap());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
