//! Create, read, update and patch.

use serde_json::json;
use weir_proto::Resource;
use weir_proto::apps::v1::Deployment;
use weir_proto::autoscaling::v1::Scale;
use weir_proto::core::v1::{ConfigMap, Namespace};
use weir_proto::weir::v1::patch_request::Type;
use weir_proto::weir::v1::{self as pb};

use crate::fixture::{Cluster, config_map, reference, typed, wire, yaml};

fn deployment() -> Deployment {
    yaml(
        "metadata: {name: web, namespace: default}\n\
         spec:\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    \
         spec: {containers: [{name: web, image: web}]}\n",
    )
}

#[tokio::test]
async fn a_created_object_has_what_only_the_server_gives() {
    let cluster = Cluster::start().await;
    let created = cluster.admin().create(&config_map("a")).await.unwrap();
    let meta = created.meta();
    assert!(!meta.uid.is_empty() && meta.creation_timestamp.is_some());
    assert!(meta.resource_version.parse::<i64>().unwrap() > 0);
    assert_eq!(cluster.admin().get::<ConfigMap>("default", "a").await.unwrap(), created);
    let again = cluster.admin().create(&config_map("a")).await.unwrap_err();
    assert_eq!(again.to_string(), "configmaps \"a\" already exists");
    assert_eq!(
        cluster.admin().get::<ConfigMap>("default", "b").await.unwrap_err().to_string(),
        "configmaps \"b\" not found"
    );
}

#[tokio::test]
async fn names_are_generated_from_their_prefix() {
    let cluster = Cluster::start().await;
    let mut map = config_map("a");
    map.meta_mut().name.clear();
    map.meta_mut().generate_name = "made-".to_owned();
    let (one, two) =
        (cluster.admin().create(&map).await.unwrap(), cluster.admin().create(&map).await.unwrap());
    assert!(one.meta().name.starts_with("made-") && one.meta().name.len() == 10);
    assert_ne!(one.meta().name, two.meta().name);
}

#[tokio::test]
async fn an_update_of_what_has_changed_is_a_conflict() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let first = admin.create(&config_map("a")).await.unwrap();
    let mut second = first.clone();
    second.data.insert("x".to_owned(), "1".to_owned());
    let second = admin.update(&second).await.unwrap();
    let mut stale = first;
    stale.data.insert("y".to_owned(), "2".to_owned());
    let error = admin.update(&stale).await.unwrap_err();
    assert!(error.is_conflict() && error.to_string().contains("the object has been modified"), "{error}");
    stale.meta_mut().resource_version.clear();
    let forced = admin.update(&stale).await.unwrap();
    assert_eq!(forced.meta().uid, second.meta().uid);
    assert!(!forced.data.contains_key("x"));
    stale.meta_mut().uid = "another".to_owned();
    assert!(admin.update(&stale).await.unwrap_err().is_conflict());
}

#[tokio::test]
async fn a_write_that_changes_nothing_makes_no_revision() {
    let cluster = Cluster::start().await;
    let created = cluster.admin().create(&config_map("a")).await.unwrap();
    let same = cluster.admin().update(&created).await.unwrap();
    assert_eq!(same.meta().resource_version, created.meta().resource_version);
}

#[tokio::test]
async fn defaults_are_filled_in_and_the_generation_counts_changes_of_the_spec() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut created = admin.create(&deployment()).await.unwrap();
    assert_eq!(created.meta().generation, 1);
    let spec = created.spec();
    assert_eq!(
        (spec.replicas, spec.revision_history_limit, spec.progress_deadline_seconds),
        (Some(1), Some(10), Some(600))
    );
    created.status_mut().replicas = 7;
    let updated = admin.update(&created).await.unwrap();
    assert_eq!(
        (updated.meta().generation, updated.status().replicas),
        (1, 0),
        "an update leaves the status alone"
    );
    created.spec_mut().replicas = Some(9);
    created.meta_mut().resource_version.clear();
    let status = admin.update_subresource(&created, "status").await.unwrap();
    assert_eq!((status.spec().replicas, status.status().replicas), (Some(1), 7), "and the other way round");
    let scaled: Deployment =
        admin.patch("default", "web", Type::Merge, json!({"spec": {"replicas": 3}})).await.unwrap();
    assert_eq!((scaled.meta().generation, scaled.status().replicas), (2, 7));
}

#[tokio::test]
async fn scale_is_read_and_written_by_itself() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.create(&deployment()).await.unwrap();
    let target = reference(Deployment::KIND, "default", "web", "scale");
    let mut client = admin.client.clone();
    let got = client.get(pb::GetRequest { r#ref: target.clone() }).await.unwrap().into_inner();
    let mut scale: Scale = typed(Some(got));
    assert_eq!((scale.spec().replicas, scale.status().selector.as_str()), (1, "app=web"));
    scale.spec_mut().replicas = 4;
    let request = pb::UpdateRequest { r#ref: target.clone(), object: wire(&scale), ..Default::default() };
    client.update(request).await.unwrap();
    let patch = pb::PatchRequest {
        r#ref: target,
        r#type: Type::Merge.into(),
        patch: b"{\"spec\":{\"replicas\":5}}".to_vec(),
        ..Default::default()
    };
    client.patch(patch).await.unwrap();
    let after: Deployment = admin.get("default", "web").await.unwrap();
    assert_eq!((after.spec().replicas, after.meta().generation), (Some(5), 3));
}

#[tokio::test]
async fn the_three_kinds_of_patch_are_applied() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.create(&deployment()).await.unwrap();
    let strategic =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "side:1"}]}}}});
    let patched: Deployment = admin.patch("default", "web", Type::StrategicMerge, strategic).await.unwrap();
    let containers = &patched.spec().template.as_ref().unwrap().spec.as_ref().unwrap().containers;
    assert_eq!(containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["web", "side"]);
    let operations = json!([
        {"op": "test", "path": "/spec/replicas", "value": 1},
        {"op": "replace", "path": "/spec/replicas", "value": 2},
    ]);
    let patched: Deployment = admin.patch("default", "web", Type::Json, operations.clone()).await.unwrap();
    assert_eq!(patched.spec().replicas, Some(2));
    let failed = admin.patch::<Deployment>("default", "web", Type::Json, operations).await.unwrap_err();
    assert_eq!(failed.code(), 400);
    let immutable = json!({"spec": {"selector": {"matchLabels": {"app": "other"}}}});
    let refused = admin.patch::<Deployment>("default", "web", Type::Merge, immutable).await.unwrap_err();
    assert!(refused.is_invalid() && refused.to_string().contains("field is immutable"), "{refused}");
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 3}});
    assert!(admin.patch::<Deployment>("default", "web", Type::Merge, stale).await.unwrap_err().is_conflict());
}

#[tokio::test]
async fn patches_from_many_sides_are_all_applied() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.create(&config_map("a")).await.unwrap();
    let patches = (0..10).map(|index| {
        let admin = admin.clone();
        async move {
            let patch = json!({"data": {format!("key-{index}"): "x"}});
            admin.patch::<ConfigMap>("default", "a", Type::Merge, patch).await.unwrap();
        }
    });
    futures::future::join_all(patches).await;
    assert_eq!(admin.get::<ConfigMap>("default", "a").await.unwrap().data.len(), 11);
}

#[tokio::test]
async fn a_dry_run_answers_and_writes_nothing() {
    let cluster = Cluster::start().await;
    let request = pb::CreateRequest {
        r#ref: reference(ConfigMap::KIND, "default", "", ""),
        object: wire(&config_map("a")),
        dry_run: true,
        ..Default::default()
    };
    let answer = cluster.admin().client.create(request).await.unwrap().into_inner();
    assert!(!typed::<ConfigMap>(Some(answer)).meta().uid.is_empty());
    assert!(cluster.admin().get::<ConfigMap>("default", "a").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_namespace_must_be_there_and_stay() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut map = config_map("a");
    map.meta_mut().namespace = "nowhere".to_owned();
    assert_eq!(admin.create(&map).await.unwrap_err().to_string(), "namespaces \"nowhere\" not found");
    let namespace: Namespace = yaml("metadata: {name: nowhere}");
    let namespace = admin.create(&namespace).await.unwrap();
    assert_eq!((namespace.status().phase.as_str(), namespace.spec().finalizers.len()), ("Active", 1));
    admin.create(&map).await.unwrap();
    let deleted: Namespace = admin.delete("", "nowhere", |_| {}).await.unwrap();
    assert_eq!(deleted.status().phase, "Terminating");
    map.meta_mut().name = "b".to_owned();
    let refused = loop {
        // The cache hears of the deletion in a moment.
        match admin.create(&map).await {
            Err(error) => break error,
            Ok(_) => admin.delete::<ConfigMap>("nowhere", "b", |_| {}).await.map(drop).unwrap(),
        }
    };
    assert!(refused.to_string().contains("because it is being terminated"), "{refused}");
    let mut finalized = deleted;
    finalized.spec_mut().finalizers.clear();
    finalized.meta_mut().resource_version.clear();
    admin.update_subresource(&finalized, "finalize").await.unwrap();
    assert!(admin.get::<Namespace>("", "nowhere").await.unwrap_err().is_not_found());
    assert_eq!(admin.delete::<Namespace>("", "default", |_| {}).await.unwrap_err().code(), 403);
}
