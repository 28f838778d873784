//! Lists and pages.

use weir_store::{ListOptions, Txn};

use super::{AnyStore, commit, fill, keys, put};

async fn sample(store: &AnyStore) -> i64 {
    let all = ["/b/2", "/a", "/b/1", "/b0", "/b/", "/b", "/c/1", "/b/\u{7f}", "/b/ü", "/b/10"];
    commit(store, all.iter().fold(Txn::new(), |txn, key| txn.put(*key, "v"))).await.revision
}

pub(crate) async fn a_list_holds_the_prefix_only_in_byte_order(store: AnyStore) {
    let revision = sample(&store).await;
    let page = store.list("/b/", ListOptions::default()).await.unwrap();
    assert_eq!(keys(&page.items), ["/b/", "/b/1", "/b/10", "/b/2", "/b/\u{7f}", "/b/ü"]);
    assert_eq!((page.revision, page.more, page.remaining), (revision, false, 0));
    let page = store.list("/nothing/", ListOptions::default()).await.unwrap();
    assert_eq!((page.revision, page.items, page.more), (revision, vec![], false));
}

pub(crate) async fn an_empty_prefix_lists_everything(store: AnyStore) {
    sample(&store).await;
    let page = store.list("", ListOptions::default()).await.unwrap();
    assert_eq!(page.items.len(), 10);
    let after = ListOptions { after: Some("/b0".to_owned()), ..ListOptions::default() };
    assert_eq!(keys(&store.list("", after).await.unwrap().items), ["/c/1"]);
}

pub(crate) async fn pages_tell_how_much_follows(store: AnyStore) {
    sample(&store).await;
    let page =
        |after: Option<&str>, limit| ListOptions { after: after.map(str::to_owned), limit, revision: None };
    let first = store.list("/b/", page(None, 4)).await.unwrap();
    assert_eq!((first.items.len(), first.more, first.remaining), (4, true, 2));
    let last = store.list("/b/", page(Some("/b/2"), 4)).await.unwrap();
    assert_eq!((keys(&last.items), last.more, last.remaining), (vec!["/b/\u{7f}", "/b/ü"], false, 0));
    let exact = store.list("/b/", page(None, 6)).await.unwrap();
    assert_eq!((exact.items.len(), exact.more, exact.remaining), (6, false, 0));
    let before = store.list("/b/", page(Some("/a"), 1)).await.unwrap();
    assert_eq!(keys(&before.items), ["/b/"]);
    let beyond = store.list("/b/", page(Some("/z"), 1)).await.unwrap();
    assert_eq!((beyond.items, beyond.more), (vec![], false));
}

pub(crate) async fn pages_of_one_revision_show_one_moment(store: AnyStore) {
    fill(&store, "/p/", 25, 10).await;
    let mut options = ListOptions { limit: 10, ..ListOptions::default() };
    let (mut seen, mut more) = (Vec::new(), true);
    while more {
        let page = store.list("/p/", options.clone()).await.unwrap();
        options.revision = Some(page.revision);
        options.after = page.items.last().map(|kv| kv.key.clone());
        more = page.more;
        seen.extend(page.items);
        // What happens between the pages stays invisible to them.
        let txn = Txn::new().delete("/p/000012").put("/p/000013", "changed").put("/p/000014a", "new");
        commit(&store, txn).await;
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.iter().all(|kv| kv.value == "v".repeat(10)));
}

pub(crate) async fn a_large_list_comes_whole(store: AnyStore) {
    fill(&store, "/small/", 3000, 20).await;
    fill(&store, "/large/", 40, 300_000).await;
    for (prefix, count) in [("/small/", 3000), ("/large/", 40), ("/", 3040)] {
        let page = store.list(prefix, ListOptions::default()).await.unwrap();
        assert_eq!((page.items.len(), page.more), (count, false), "{prefix}");
        assert!(page.items.is_sorted_by(|a, b| a.key < b.key));
    }
    let limited = ListOptions { limit: 2000, ..ListOptions::default() };
    let page = store.list("/small/", limited).await.unwrap();
    assert_eq!((page.items.len(), page.remaining), (2000, 1000));
    put(&store, "/small/x", "x").await;
}
