//! Watches.

use futures::future::join_all;
use weir_store::{Error, EventKind, Txn};

use super::{AnyStore, PATIENCE, commit, delete, events, fill, next, next_events, put};

pub(crate) async fn a_watch_tells_changes_in_order_with_what_was_before(store: AnyStore) {
    let mut watch = store.watch("/", 2).await.unwrap();
    let first = put(&store, "/a", "1").await;
    let second = put(&store, "/a", "2").await;
    let third = delete(&store, "/a").await;
    let seen = events(&mut watch, 3).await;
    let kinds = seen.iter().map(|event| event.kind).collect::<Vec<_>>();
    assert_eq!(kinds, [EventKind::Put, EventKind::Put, EventKind::Delete]);
    let revisions = seen.iter().map(|event| event.kv.mod_revision).collect::<Vec<_>>();
    assert_eq!(revisions, [first, second, third]);
    assert_eq!(seen[0].prev, None);
    assert_eq!(seen[1].prev.as_ref(), Some(&seen[0].kv));
    assert_eq!(seen[2].prev.as_ref(), Some(&seen[1].kv));
    let gone = &seen[2].kv;
    assert_eq!((gone.key.as_str(), gone.value.len(), gone.create_revision, gone.version), ("/a", 0, 0, 0));
}

pub(crate) async fn a_watch_from_the_past_replays_it_and_goes_on(store: AnyStore) {
    put(&store, "/a", "1").await;
    let from = put(&store, "/a", "2").await;
    put(&store, "/b", "1").await;
    let mut watch = store.watch("/", from).await.unwrap();
    let past = events(&mut watch, 2).await;
    assert_eq!((past[0].kv.mod_revision, past[1].kv.mod_revision), (from, from + 1));
    assert_eq!(past[0].prev.as_ref().unwrap().value, "1");
    let live = put(&store, "/c", "1").await;
    assert_eq!(next_events(&mut watch).await.unwrap().revision, live);
}

pub(crate) async fn a_watch_from_zero_begins_with_the_next_change(store: AnyStore) {
    put(&store, "/a", "1").await;
    let mut watch = store.watch("/", 0).await.unwrap();
    let next = put(&store, "/b", "1").await;
    let batch = next_events(&mut watch).await.unwrap();
    assert_eq!((batch.revision, batch.events[0].kv.key.as_str()), (next, "/b"));
}

pub(crate) async fn a_watch_tells_of_its_prefix_only(store: AnyStore) {
    let mut watch = store.watch("/a/", 2).await.unwrap();
    for key in ["/a", "/a/1", "/a0", "/b/1", "/a/2"] {
        put(&store, key, "1").await;
    }
    let seen = events(&mut watch, 2).await;
    assert_eq!((seen[0].kv.key.as_str(), seen[1].kv.key.as_str()), ("/a/1", "/a/2"));
}

pub(crate) async fn all_changes_of_a_transaction_come_in_one_batch(store: AnyStore) {
    put(&store, "/w/c", "1").await;
    let mut watch = store.watch("/w/", 3).await.unwrap();
    let txn = Txn::new().put("/w/b", "1").put("/other", "1").put("/w/a", "1").delete("/w/c");
    let revision = commit(&store, txn).await.revision;
    let batch = next_events(&mut watch).await.unwrap();
    assert_eq!(batch.revision, revision);
    let changed: Vec<_> = batch.events.iter().map(|event| event.kv.key.as_str()).collect();
    assert_eq!(changed, ["/w/b", "/w/a", "/w/c"]);
}

pub(crate) async fn a_watch_far_behind_misses_nothing_while_others_write(store: AnyStore) {
    const BEFORE: usize = 3000;
    const MEANWHILE: usize = 1000;
    fill(&store, "/past/", BEFORE, 500).await;
    let mut watch = store.watch("/past/", 2).await.unwrap();
    let read = async {
        let seen = events(&mut watch, BEFORE + MEANWHILE).await;
        let revisions: Vec<_> = seen.iter().map(|event| event.kv.mod_revision).collect();
        assert_eq!(revisions, (2..).take(BEFORE + MEANWHILE).collect::<Vec<_>>());
    };
    let ((), _) = tokio::join!(read, fill(&store, "/past/more/", MEANWHILE, 500));
}

pub(crate) async fn many_watches_see_the_same(store: AnyStore) {
    const CHANGES: usize = 500;
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(store.watch("/", 2).await.unwrap());
    }
    fill(&store, "/many/", CHANGES, 10).await;
    let seen = join_all(watches.iter_mut().map(|watch| events(watch, CHANGES))).await;
    assert!(seen.iter().all(|events| *events == seen[0]));
}

pub(crate) async fn a_quiet_watch_is_told_how_far_it_is(store: AnyStore) {
    let mut watch = store.watch("/quiet/", 2).await.unwrap();
    let revision = put(&store, "/loud/1", "1").await;
    store.request_progress().await.unwrap();
    loop {
        let batch = next(&mut watch).await.unwrap();
        assert_eq!(batch.events, []);
        if batch.revision >= revision {
            break;
        }
    }
}

pub(crate) async fn a_watch_that_is_not_read_holds_back_no_one_and_never_skips(store: AnyStore) {
    let mut idle = store.watch("/", 2).await.unwrap();
    let newest = tokio::time::timeout(PATIENCE, fill(&store, "/slow/", 4000, 1000))
        .await
        .expect("writers are held back");
    store.compact(newest).await.unwrap();
    // What was under way to it before the compaction may still come, then the end; but never a gap.
    let mut expected = 2;
    while expected <= newest {
        match next_events(&mut idle).await {
            Ok(batch) => {
                assert_eq!(batch.revision, expected);
                expected += 1;
            }
            Err(error) => {
                assert!(matches!(error, Error::Compacted { .. }), "{error:?}");
                return;
            }
        }
    }
}
