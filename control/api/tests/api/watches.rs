//! Watches: the present, then changes; resumed; filtered; cut.

use weir_proto::Resource;
use weir_proto::core::v1::{ConfigMap, Pod};
use weir_proto::weir::v1::watch_event::Type::{Added, Bookmark, Deleted, Modified};

use crate::fixture::{Cluster, config_map, pod};

#[tokio::test]
async fn a_watch_without_a_revision_begins_with_what_is_there() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.create(&config_map("a")).await.unwrap();
    let mut events = admin.watch::<ConfigMap>("default", |_| {}).await.unwrap();
    assert_eq!(events.next_named::<ConfigMap>().await, (Added, "a".to_owned()));
    assert_eq!(events.next().await.unwrap().r#type(), Bookmark);
    admin.create(&config_map("b")).await.unwrap();
    admin.delete::<ConfigMap>("default", "a", |_| {}).await.unwrap();
    assert_eq!(events.next_named::<ConfigMap>().await, (Added, "b".to_owned()));
    assert_eq!(events.next_named::<ConfigMap>().await, (Deleted, "a".to_owned()));
}

#[tokio::test]
async fn a_watch_resumes_where_a_list_was() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.create(&config_map("a")).await.unwrap();
    let (_, page) = admin.list::<ConfigMap>("default", |_| {}).await.unwrap();
    let mut changed = admin.create(&config_map("b")).await.unwrap();
    changed.data.insert("x".to_owned(), "y".to_owned());
    let changed = admin.update(&changed).await.unwrap();
    let mut events = admin
        .watch::<ConfigMap>("default", |r| r.resource_version.clone_from(&page.resource_version))
        .await
        .unwrap();
    assert_eq!(events.next_named::<ConfigMap>().await, (Added, "b".to_owned()));
    let event = events.next().await.unwrap();
    assert_eq!((event.r#type(), &event.resource_version), (Modified, &changed.meta().resource_version));
}

#[tokio::test]
async fn what_leaves_the_selection_is_deleted_to_its_watcher() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut map = admin.create(&config_map("a")).await.unwrap();
    let mut events =
        admin.watch::<ConfigMap>("default", |r| r.label_selector = "name=a".to_owned()).await.unwrap();
    assert_eq!(events.next_named::<ConfigMap>().await, (Added, "a".to_owned()));
    assert_eq!(events.next().await.unwrap().r#type(), Bookmark);
    map.meta_mut().labels.clear();
    let gone = admin.update(&map).await.unwrap();
    let event = events.next().await.unwrap();
    assert_eq!((event.r#type(), &event.resource_version), (Deleted, &gone.meta().resource_version));
    map.meta_mut().resource_version.clear();
    map.meta_mut().labels.insert("name".to_owned(), "a".to_owned());
    admin.update(&map).await.unwrap();
    assert_eq!(events.next_named::<ConfigMap>().await, (Added, "a".to_owned()));
}

#[tokio::test]
async fn a_node_hears_of_its_own_pods_only() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut events =
        admin.watch::<Pod>("", |r| r.field_selector = "spec.nodeName=n1".to_owned()).await.unwrap();
    assert_eq!(events.next().await.unwrap().r#type(), Bookmark);
    for (name, node) in [("a", "n2"), ("b", "n1"), ("c", "")] {
        let mut pod = pod(name);
        pod.spec_mut().node_name = node.to_owned();
        admin.create(&pod).await.unwrap();
    }
    assert_eq!(events.next_named::<Pod>().await, (Added, "b".to_owned()));
    admin.delete::<Pod>("default", "b", |r| r.grace_period_seconds = Some(0)).await.unwrap();
    assert_eq!(events.next_named::<Pod>().await, (Deleted, "b".to_owned()));
}

#[tokio::test]
async fn revisions_that_are_forgotten_or_still_to_come_are_refused() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    // Revision 1 is older than the cache, which began with what it listed.
    let old = admin.watch::<ConfigMap>("default", |r| r.resource_version = "1".to_owned()).await;
    if let Err(error) = old {
        assert_eq!((error.code(), error.reason()), (410, "Expired"));
    }
    let far = admin.watch::<ConfigMap>("default", |r| r.resource_version = "999999999".to_owned()).await;
    assert_eq!(far.err().unwrap().code(), 410);
    let nonsense = admin.watch::<ConfigMap>("default", |r| r.resource_version = "soon".to_owned()).await;
    assert_eq!(nonsense.err().unwrap().code(), 400);
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_cut_and_others_go_on() {
    let cluster = Cluster::start().await;
    let registry = cluster.server.registry();
    let mut slow = registry.follow::<ConfigMap>(Default::default()).await.unwrap();
    let map = cluster.admin().create(&config_map("a")).await.unwrap();
    // More changes than a watcher may be behind, made where they come from: in the store's order.
    let mut map = map;
    for round in 0..9000 {
        map.data.insert("round".to_owned(), round.to_string());
        map.meta_mut().resource_version.clear();
        registry
            .update(
                &weir_api::registry::Context::system(),
                &weir_api::registry::Target::new(ConfigMap::KIND, "default", "a"),
                Box::new(map.clone()),
            )
            .await
            .unwrap();
    }
    let mut last = None;
    while let Some(event) = slow.next().await {
        last = Some(event);
        if matches!(last, Some(Err(_))) {
            break;
        }
    }
    assert_eq!(last.unwrap().unwrap_err().code(), 410);
    let mut events = cluster.admin().watch::<ConfigMap>("default", |_| {}).await.unwrap();
    assert_eq!(events.next_named::<ConfigMap>().await, (Added, "a".to_owned()));
}
