//! A disk that is really full: the store lies on a small tmpfs, mounted in a mount namespace of the test's own.
//! Needs root.

use std::{
    env, fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use weir_store::{Error, ListOptions, Store, Txn, embedded};

const VARIABLE: &str = "WEIR_STORE_FULL_DISK";
const TEST: &str = "a_full_disk_refuses_writes_and_serves_again_once_there_is_room";

#[test]
fn a_full_disk_refuses_writes_and_serves_again_once_there_is_room() {
    if let Some(directory) = env::var_os(VARIABLE) {
        return on_small_disk(Path::new(&directory));
    }
    if !weir_tests::require::root() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let mount = "mount -t tmpfs -o size=12m none \"$0\" || exit 99; exec \"$@\"";
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", mount])
        .arg(directory.path())
        .arg(env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(VARIABLE, directory.path())
        .status()
        .unwrap();
    assert!(status.success(), "ended with {status}; 1 and 99 mean that no tmpfs could be mounted");
}

fn on_small_disk(directory: &Path) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let (ballast, path) = (directory.join("ballast"), directory.join("store"));
        fs::write(&ballast, vec![1; 5 << 20]).unwrap();
        let store = embedded::open(&path).unwrap();
        let mut written = 0;
        let error = loop {
            match put(&store, written).await {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::NoSpace | Error::OutcomeUnknown { .. }), "{error:?}");
        // Every later one is refused clearly, and what is there can be read.
        let refused = put(&store, 1_000_000).await.unwrap_err();
        assert!(matches!(refused, Error::NoSpace), "{refused:?}");
        let page = store.list("/", ListOptions::default()).await.unwrap();
        assert!(page.items.len() == written || page.items.len() == written + 1);
        assert!(written > 10, "only {written} fitted");

        fs::remove_file(&ballast).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(error) = put(&store, 2_000_000).await {
            assert!(Instant::now() < deadline, "does not recover: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(store);
        let store = embedded::open(&path).unwrap();
        for index in (0..written).chain([2_000_000]) {
            assert!(store.get(&format!("/{index}")).await.unwrap().value.is_some(), "{index} is gone");
        }
        assert_eq!(store.get("/1000000").await.unwrap().value, None);
    });
}

async fn put(store: &impl Store, index: usize) -> Result<(), Error> {
    store.txn(Txn::new().put(format!("/{index}"), vec![b'x'; 30_000])).await.map(|_| ())
}
