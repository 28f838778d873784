//! Deletion: at once, gracefully, by finalizers, of collections, with preconditions.

use weir_proto::Resource;
use weir_proto::core::v1::{ConfigMap, Pod};
use weir_proto::weir::v1 as pb;

use crate::fixture::{Cluster, config_map, pod};

#[tokio::test]
async fn a_running_pod_goes_when_its_agent_says_so() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut running = pod("p");
    running.spec_mut().node_name = "n1".to_owned();
    admin.create(&running).await.unwrap();
    let marked: Pod = admin.delete("default", "p", |r| r.grace_period_seconds = Some(7)).await.unwrap();
    assert_eq!(marked.meta().deletion_grace_period_seconds, Some(7));
    assert_eq!(admin.get::<Pod>("default", "p").await.unwrap().meta().generation, 2);
    admin.delete::<Pod>("default", "p", |r| r.grace_period_seconds = Some(0)).await.unwrap();
    assert!(admin.get::<Pod>("default", "p").await.unwrap_err().is_not_found());
    admin.create(&pod("unbound")).await.unwrap();
    admin.delete::<Pod>("default", "unbound", |_| {}).await.unwrap();
    assert!(admin.get::<Pod>("default", "unbound").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn the_last_finalizer_releases_the_object() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut map = config_map("a");
    map.meta_mut().finalizers = vec!["example.com/hold".to_owned()];
    admin.create(&map).await.unwrap();
    let mut held: ConfigMap =
        admin.delete("default", "a", |r| r.propagation_policy = "Foreground".to_owned()).await.unwrap();
    assert_eq!(held.meta().finalizers, ["example.com/hold", "foregroundDeletion"]);
    held.meta_mut().finalizers.push("example.com/late".to_owned());
    assert!(admin.update(&held).await.unwrap_err().is_invalid(), "none is added any more");
    held.meta_mut().finalizers = vec!["example.com/hold".to_owned()];
    let mut held = admin.update(&held).await.unwrap();
    held.meta_mut().finalizers.clear();
    admin.update(&held).await.unwrap();
    assert!(admin.get::<ConfigMap>("default", "a").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn preconditions_hold_or_nothing_happens() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let created = admin.create(&config_map("a")).await.unwrap();
    let wrong = admin.delete::<ConfigMap>("default", "a", |r| r.uid = "other".to_owned()).await.unwrap_err();
    assert!(wrong.is_conflict());
    let stale = admin.delete::<ConfigMap>("default", "a", |r| r.resource_version = "1".to_owned()).await;
    assert!(stale.unwrap_err().is_conflict());
    let right = created.meta().clone();
    admin
        .delete::<ConfigMap>("default", "a", |r| {
            r.uid = right.uid;
            r.resource_version = right.resource_version;
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for name in ["a", "b", "c"] {
        admin.create(&config_map(name)).await.unwrap();
    }
    let request = pb::DeleteCollectionRequest {
        kind: Some(ConfigMap::KIND.to_ref()),
        namespace: "default".to_owned(),
        label_selector: "name!=b".to_owned(),
        ..Default::default()
    };
    let deleted = admin.client.clone().delete_collection(request).await.unwrap().into_inner().deleted;
    let (left, _) = admin.list::<ConfigMap>("default", |_| {}).await.unwrap();
    assert_eq!((deleted, left.len(), left[0].meta().name.as_str()), (2, 1, "b"));
}
