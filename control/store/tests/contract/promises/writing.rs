//! Transactions.

use futures::future::join_all;
use weir_store::{Error, MAX_TXN_BYTES, MAX_TXN_OPS, Txn};

use super::{AnyStore, commit, delete, get, keys, put};

pub(crate) async fn an_empty_store_is_at_revision_one(store: AnyStore) {
    let nothing = store.get("/a").await.unwrap();
    assert_eq!((nothing.revision, nothing.value), (1, None));
    assert_eq!(put(&store, "/a", "1").await, 2);
}

pub(crate) async fn a_key_remembers_when_it_was_created_and_changed(store: AnyStore) {
    let first = put(&store, "/a", "1").await;
    put(&store, "/b", "1").await;
    let second = put(&store, "/a", "2").await;
    let read = store.get("/a").await.unwrap();
    let kv = read.value.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (first, second, 2));
    assert_eq!((kv.key.as_str(), &kv.value[..]), ("/a", &b"2"[..]));
    assert_eq!((read.revision, second), (second, first + 2));
}

pub(crate) async fn a_deleted_key_is_absent_and_starts_anew(store: AnyStore) {
    put(&store, "/a", "1").await;
    put(&store, "/a", "2").await;
    let deleted = delete(&store, "/a").await;
    assert_eq!(get(&store, "/a").await, None);
    let created = put(&store, "/a", "3").await;
    let kv = get(&store, "/a").await.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (created, created, 1));
    assert_eq!(created, deleted + 1);
}

pub(crate) async fn a_changing_transaction_takes_one_revision_for_all_its_keys(store: AnyStore) {
    let before = put(&store, "/c", "1").await;
    let txn = Txn::new().put("/a", "1").put("/b", "1").delete("/c");
    let outcome = commit(&store, txn).await;
    assert_eq!(outcome.revision, before + 1);
    assert_eq!(outcome.current, []);
    for key in ["/a", "/b"] {
        assert_eq!(get(&store, key).await.unwrap().mod_revision, outcome.revision);
    }
    assert_eq!(get(&store, "/c").await, None);
}

pub(crate) async fn a_transaction_that_changes_nothing_takes_no_revision(store: AnyStore) {
    let before = put(&store, "/a", "1").await;
    assert_eq!(delete(&store, "/absent").await, before);
    let only_compares = commit(&store, Txn::new().unchanged("/a", before)).await;
    assert_eq!(only_compares.revision, before);
    assert_eq!(put(&store, "/a", "2").await, before + 1);
}

pub(crate) async fn a_failed_compare_changes_nothing_and_tells_what_is_there(store: AnyStore) {
    let revision = put(&store, "/a", "1").await;
    let txn = Txn::new().unchanged("/a", revision + 1).absent("/b").put("/a", "2").put("/b", "2");
    let outcome = store.txn(txn).await.unwrap();
    assert!(!outcome.committed);
    assert_eq!(outcome.revision, revision);
    assert_eq!(outcome.current, [get(&store, "/a").await, None]);
    assert_eq!(outcome.current[0].as_ref().unwrap().value, "1");
}

pub(crate) async fn a_transaction_needs_all_its_compares(store: AnyStore) {
    let a = put(&store, "/a", "1").await;
    let b = put(&store, "/b", "1").await;
    let attempts = [
        (Txn::new().unchanged("/a", a).unchanged("/b", b), true),
        (Txn::new().unchanged("/a", a).unchanged("/b", a), false),
        (Txn::new().absent("/a"), false),
        (Txn::new().absent("/c"), true),
        (Txn::new().unchanged("/c", a), false),
    ];
    for (txn, holds) in attempts {
        let outcome = store.txn(txn.clone().put("/x", "x")).await.unwrap();
        assert_eq!(outcome.committed, holds, "{txn:?}");
    }
}

pub(crate) async fn of_many_racing_for_one_revision_exactly_one_wins(store: AnyStore) {
    let mut revision = put(&store, "/counter", "0").await;
    for round in 1..=5 {
        let race = |racer: usize| {
            let txn = Txn::new().unchanged("/counter", revision).put("/counter", format!("{round}-{racer}"));
            let store = &store;
            async move { store.txn(txn).await.unwrap() }
        };
        let outcomes = join_all((0..20).map(race)).await;
        let winners: Vec<_> = outcomes.iter().filter(|outcome| outcome.committed).collect();
        assert_eq!(winners.len(), 1);
        let kv = get(&store, "/counter").await.unwrap();
        assert_eq!((kv.mod_revision, kv.version), (winners[0].revision, round + 1));
        for loser in outcomes.iter().filter(|outcome| !outcome.committed) {
            assert_eq!(loser.current, [Some(kv.clone())]);
        }
        revision = kv.mod_revision;
    }
}

pub(crate) async fn transactions_that_can_never_work_are_refused(store: AnyStore) {
    let twice = store.txn(Txn::new().put("/a", "1").delete("/a")).await;
    assert!(matches!(twice, Err(Error::DuplicateKey { key }) if key == "/a"));
    assert!(matches!(store.txn(Txn::new().put("", "1")).await, Err(Error::EmptyKey)));
    let large = Txn::new().put("/a", vec![0; MAX_TXN_BYTES]);
    assert!(matches!(store.txn(large).await, Err(Error::TooLarge { unit: "bytes", .. })));
    let many = (0..=MAX_TXN_OPS).fold(Txn::new(), |txn, index| txn.put(format!("/{index}"), ""));
    assert!(matches!(store.txn(many).await, Err(Error::TooLarge { unit: "operations", .. })));
    assert_eq!(store.get("/a").await.unwrap().revision, 1);
}

pub(crate) async fn the_largest_transaction_is_accepted(store: AnyStore) {
    commit(&store, Txn::new().put("/large", vec![7; MAX_TXN_BYTES - 6])).await;
    assert_eq!(get(&store, "/large").await.unwrap().value.len(), MAX_TXN_BYTES - 6);
    let many = (0..MAX_TXN_OPS)
        .fold(Txn::new(), |txn, index| txn.absent(format!("/m/{index}")).put(format!("/m/{index}"), ""));
    commit(&store, many).await;
    let page = store.list("/m/", Default::default()).await.unwrap();
    assert_eq!(keys(&page.items).len(), MAX_TXN_OPS);
}
