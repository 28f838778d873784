//! The past, and its end.

use weir_store::{Error, ListOptions};

use super::{AnyStore, delete, get, keys, next_events, put};

fn at(revision: i64) -> ListOptions {
    ListOptions { revision: Some(revision), ..ListOptions::default() }
}

/// a is put, changed, deleted, and put again; b is put once. Revisions 2 to 6.
async fn sample(store: &AnyStore) {
    put(store, "/a", "1").await;
    put(store, "/b", "1").await;
    put(store, "/a", "2").await;
    delete(store, "/a").await;
    put(store, "/a", "3").await;
}

async fn values(store: &AnyStore, revision: i64) -> Vec<(String, String)> {
    let page = store.list("/", at(revision)).await.unwrap();
    assert_eq!(page.revision, revision);
    let pair = |kv: weir_store::KeyValue| (kv.key, String::from_utf8_lossy(&kv.value).into_owned());
    page.items.into_iter().map(pair).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub(crate) async fn the_past_can_be_listed(store: AnyStore) {
    sample(&store).await;
    let past: [&[(&str, &str)]; 6] = [
        &[],
        &[("/a", "1")],
        &[("/a", "1"), ("/b", "1")],
        &[("/a", "2"), ("/b", "1")],
        &[("/b", "1")],
        &[("/a", "3"), ("/b", "1")],
    ];
    for (revision, expected) in (1..).zip(past) {
        assert_eq!(values(&store, revision).await, pairs(expected), "revision {revision}");
    }
    let page = store.list("/a", at(4)).await.unwrap();
    let kv = &page.items[0];
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 4, 2));
}

pub(crate) async fn the_future_cannot_be_read(store: AnyStore) {
    sample(&store).await;
    assert!(matches!(store.list("/", at(7)).await, Err(Error::FutureRevision { requested: 7 })));
    assert!(store.list("/", at(6)).await.is_ok());
}

pub(crate) async fn a_compacted_past_is_refused_clearly(store: AnyStore) {
    sample(&store).await;
    store.compact(5).await.unwrap();
    for revision in 1..5 {
        let error = store.list("/", at(revision)).await.unwrap_err();
        assert!(
            matches!(error, Error::Compacted { compacted } if compacted > revision),
            "{revision}: {error:?}"
        );
    }
    assert_eq!(values(&store, 5).await, pairs(&[("/b", "1")]));
    assert_eq!(values(&store, 6).await, pairs(&[("/a", "3"), ("/b", "1")]));
    let kv = get(&store, "/a").await.unwrap();
    assert_eq!((kv.create_revision, kv.version), (6, 1));
}

pub(crate) async fn compacting_twice_does_nothing_and_the_future_is_refused(store: AnyStore) {
    sample(&store).await;
    store.compact(4).await.unwrap();
    store.compact(4).await.unwrap();
    store.compact(2).await.unwrap();
    assert!(store.list("/", at(4)).await.is_ok());
    assert!(matches!(store.compact(7).await, Err(Error::FutureRevision { requested: 7 })));
    store.compact(6).await.unwrap();
    let page = store.list("/", ListOptions::default()).await.unwrap();
    assert_eq!((keys(&page.items), page.revision), (vec!["/a", "/b"], 6));
    assert_eq!(put(&store, "/c", "1").await, 7);
}

pub(crate) async fn a_watch_of_what_is_compacted_is_refused_clearly(store: AnyStore) {
    sample(&store).await;
    store.compact(5).await.unwrap();
    for revision in 1..=5 {
        let error = match store.watch("/", revision).await {
            Err(error) => error,
            Ok(mut watch) => super::next(&mut watch).await.unwrap_err(),
        };
        assert!(
            matches!(error, Error::Compacted { compacted } if compacted >= revision),
            "{revision}: {error:?}"
        );
    }
    let mut watch = store.watch("/", 6).await.unwrap();
    assert_eq!(next_events(&mut watch).await.unwrap().revision, 6);
}
