//! Files that are not stores, and stores that have been damaged: reported, never loaded, and left as they are.

use std::{fs, path::PathBuf};

use tempfile::TempDir;
use weir_store::{Error, ListOptions, Store, Txn, embedded};

fn file(directory: &TempDir) -> PathBuf {
    directory.path().join("store")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A store with some hundred keys and some history, cleanly closed.
fn sample(directory: &TempDir) -> Vec<u8> {
    let store = embedded::open(file(directory)).unwrap();
    runtime().block_on(async {
        for round in 0..4 {
            for part in 0..4 {
                let keys = (0..100).map(|index| format!("/key/{part}/{index}"));
                let txn = keys.fold(Txn::new(), |txn, key| txn.put(key, format!("value {round}").repeat(20)));
                store.txn(txn).await.unwrap();
            }
        }
    });
    drop(store);
    fs::read(file(directory)).unwrap()
}

/// Everything that can be read in a store.
fn contents(directory: &TempDir) -> Result<String, Error> {
    let store = embedded::open(file(directory))?;
    runtime().block_on(async {
        let mut all = String::new();
        for revision in 1..=17 {
            let options = ListOptions { revision: Some(revision), ..ListOptions::default() };
            all += &format!("{:?}", store.list("/", options).await?.items);
        }
        Ok(all)
    })
}

#[test]
fn a_file_that_is_no_store_is_called_foreign_and_left_alone() {
    let directory = TempDir::new().unwrap();
    for bytes in [&b"SQLite format 3\0"[..], b"x", &[0; 10_000], b"redb"] {
        fs::write(file(&directory), bytes).unwrap();
        let error = embedded::open(file(&directory)).unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error:?}");
        assert_eq!(fs::read(file(&directory)).unwrap(), bytes);
    }
}

#[test]
fn another_programs_redb_file_is_called_foreign() {
    let directory = TempDir::new().unwrap();
    let table = redb::TableDefinition::<&str, i64>::new("meta");
    let database = redb::Database::create(file(&directory)).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(table).unwrap().insert("magic", 1).unwrap();
    txn.commit().unwrap();
    drop(database);
    let error = embedded::open(file(&directory)).unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error:?}");
}

#[test]
fn an_empty_file_is_called_damaged() {
    let directory = TempDir::new().unwrap();
    fs::write(file(&directory), b"").unwrap();
    assert!(matches!(embedded::open(file(&directory)), Err(Error::Corrupt { .. })));
}

#[test]
fn a_missing_directory_is_reported() {
    let directory = TempDir::new().unwrap();
    let error = embedded::open(directory.path().join("no/such/store")).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error:?}");
}

#[test]
fn a_store_in_use_is_reported_and_free_once_it_is_closed() {
    let directory = TempDir::new().unwrap();
    let first = embedded::open(file(&directory)).unwrap();
    assert!(matches!(embedded::open(file(&directory)), Err(Error::InUse { .. })));
    drop(first);
    embedded::open(file(&directory)).unwrap();
}

#[test]
fn a_torn_file_is_reported_wherever_it_is_torn() {
    let directory = TempDir::new().unwrap();
    let whole = sample(&directory);
    for part in 0..60 {
        let length = whole.len() * part / 60 + part;
        fs::write(file(&directory), &whole[..length]).unwrap();
        let error = contents(&directory).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. } | Error::Foreign { .. }), "{length}: {error:?}");
    }
}

#[test]
fn damage_anywhere_is_reported_or_harmless_and_never_shows_other_contents() {
    let directory = TempDir::new().unwrap();
    let whole = sample(&directory);
    let expected = contents(&directory).unwrap();
    let whole_again = fs::read(file(&directory)).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap().min(whole_again.len());
    let mut reported = 0;
    for attempt in 0..160 {
        let mut damaged = whole.clone();
        // The header byte by byte, then the rest at strides.
        let at = if attempt < 60 { attempt * 5 } else { (used - 1) * (attempt - 60) / 100 };
        let end = (at + 1 + attempt % 4).min(damaged.len());
        damaged[at..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
        fs::write(file(&directory), &damaged).unwrap();
        match contents(&directory) {
            Ok(seen) => assert!(seen == expected, "damage at {at} shows other contents"),
            Err(Error::Corrupt { .. } | Error::Foreign { .. }) => {
                reported += 1;
                assert!(fs::read(file(&directory)).unwrap() == damaged, "damage at {at}: file was changed");
            }
            Err(error) => panic!("damage at {at}: {error:?}"),
        }
    }
    // Much of the file is free space, and older versions of pages.
    assert!(reported > 30, "only {reported} were noticed");
}
