//! Leases.

use std::time::{Duration, Instant};

use weir_store::{Error, EventKind, LeaseId, Txn};

use super::{AnyStore, commit, get, next_events, put};

const LONG: Duration = Duration::from_secs(600);
/// The shortest that every backend grants.
const SHORT: Duration = Duration::from_secs(2);

pub(crate) async fn revoking_a_lease_deletes_its_keys_in_one_revision(store: AnyStore) {
    let lease = store.grant_lease(LONG).await.unwrap();
    let txn = Txn::new().put_leased("/l/a", "1", lease).put_leased("/l/b", "1", lease).put("/l/c", "1");
    let before = commit(&store, txn).await.revision;
    let mut watch = store.watch("/l/", before + 1).await.unwrap();
    store.revoke(lease).await.unwrap();
    let batch = next_events(&mut watch).await.unwrap();
    assert_eq!((batch.revision, batch.events.len()), (before + 1, 2));
    assert!(batch.events.iter().all(|event| event.kind == EventKind::Delete));
    assert_eq!(get(&store, "/l/a").await, None);
    assert!(get(&store, "/l/c").await.is_some());
}

pub(crate) async fn a_lease_not_kept_alive_ends(store: AnyStore) {
    let granted = Instant::now();
    let lease = store.grant_lease(SHORT).await.unwrap();
    let revision = commit(&store, Txn::new().put_leased("/l/a", "1", lease)).await.revision;
    let mut watch = store.watch("/l/", revision + 1).await.unwrap();
    let batch = next_events(&mut watch).await.unwrap();
    assert!(granted.elapsed() >= SHORT);
    assert_eq!((batch.events.len(), batch.events[0].kind), (1, EventKind::Delete));
    assert!(matches!(store.keep_alive(lease).await, Err(Error::LeaseNotFound(id)) if id == lease));
}

pub(crate) async fn a_lease_kept_alive_goes_on(store: AnyStore) {
    let kept = store.grant_lease(SHORT).await.unwrap();
    let left = store.grant_lease(SHORT).await.unwrap();
    let txn = Txn::new().put_leased("/l/kept", "1", kept).put_leased("/l/left", "1", left);
    let revision = commit(&store, txn).await.revision;
    let mut watch = store.watch("/l/", revision + 1).await.unwrap();
    let mut beat = tokio::time::interval(SHORT / 8);
    let started = Instant::now();
    let batch = loop {
        tokio::select! {
            batch = next_events(&mut watch) => break batch.unwrap(),
            _ = beat.tick() => store.keep_alive(kept).await.unwrap(),
        }
    };
    assert!(started.elapsed() >= SHORT / 2);
    assert_eq!((batch.events.len(), batch.events[0].kv.key.as_str()), (1, "/l/left"));
    assert!(get(&store, "/l/kept").await.is_some());
}

pub(crate) async fn a_key_put_again_without_the_lease_outlives_it(store: AnyStore) {
    let lease = store.grant_lease(LONG).await.unwrap();
    let other = store.grant_lease(LONG).await.unwrap();
    let txn = Txn::new()
        .put_leased("/l/a", "1", lease)
        .put_leased("/l/b", "1", lease)
        .put_leased("/l/c", "1", lease);
    commit(&store, txn).await;
    put(&store, "/l/a", "2").await;
    commit(&store, Txn::new().put_leased("/l/b", "2", other)).await;
    store.revoke(lease).await.unwrap();
    assert!(get(&store, "/l/a").await.is_some() && get(&store, "/l/b").await.is_some());
    assert_eq!(get(&store, "/l/c").await, None);
    store.revoke(other).await.unwrap();
    assert_eq!(get(&store, "/l/b").await, None);
}

pub(crate) async fn a_lease_that_is_not_there_is_named(store: AnyStore) {
    let none = LeaseId(0x5eed);
    let put = store.txn(Txn::new().put("/a", "1").put_leased("/b", "1", none)).await;
    assert!(matches!(put, Err(Error::LeaseNotFound(id)) if id == none), "{put:?}");
    assert_eq!(get(&store, "/a").await, None);
    assert!(matches!(store.keep_alive(none).await, Err(Error::LeaseNotFound(id)) if id == none));
    assert!(matches!(store.revoke(none).await, Err(Error::LeaseNotFound(id)) if id == none));
}
