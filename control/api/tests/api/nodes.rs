//! What agents may do, and what others may not.

use weir_api::User;
use weir_proto::coordination::v1::Lease;
use weir_proto::core::v1::{ConfigMap, Node, Pod, Secret, Service};

use crate::fixture::{Cluster, config_map, pod, yaml};

#[tokio::test]
async fn a_node_reads_and_writes_what_is_its_own() {
    let cluster = Cluster::start().await;
    let (admin, node) = (cluster.admin(), cluster.as_user(User::node("n1")));
    let mut own = node.create(&yaml::<Node>("metadata: {name: n1}")).await.unwrap();
    own.status_mut().phase = "Running".to_owned();
    node.update_subresource(&own, "status").await.unwrap();
    node.create(&yaml::<Lease>("metadata: {name: n1, namespace: kube-node-lease}")).await.unwrap();
    node.list::<Service>("", |_| {}).await.unwrap();

    let mut mine = pod("mine");
    mine.spec_mut().node_name = "n1".to_owned();
    mine.spec_mut().volumes = vec![
        yaml::<Pod>("spec: {containers: [], volumes: [{name: v, configMap: {name: mounted}}]}")
            .spec()
            .volumes[0]
            .clone(),
    ];
    admin.create(&mine).await.unwrap();
    admin.create(&config_map("mounted")).await.unwrap();
    let (pods, _) = node.list::<Pod>("", |r| r.field_selector = "spec.nodeName=n1".to_owned()).await.unwrap();
    assert_eq!(pods.len(), 1);
    node.get::<ConfigMap>("default", "mounted").await.unwrap();
    let mut status = pods[0].clone();
    status.status_mut().phase = "Running".to_owned();
    node.update_subresource(&status, "status").await.unwrap();
    node.delete::<Pod>("default", "mine", |r| r.grace_period_seconds = Some(0)).await.unwrap();
}

#[tokio::test]
async fn a_node_is_kept_from_everything_else() {
    let cluster = Cluster::start().await;
    let (admin, node) = (cluster.admin(), cluster.as_user(User::node("n1")));
    admin.create(&yaml::<Node>("metadata: {name: n2}")).await.unwrap();
    admin.create(&config_map("other")).await.unwrap();
    let mut foreign = pod("foreign");
    foreign.spec_mut().node_name = "n2".to_owned();
    let foreign = admin.create(&foreign).await.unwrap();
    let refused = [
        node.get::<Node>("", "n2").await.map(drop),
        node.create(&yaml::<Node>("metadata: {name: n3}")).await.map(drop),
        node.create(&yaml::<Lease>("metadata: {name: n2, namespace: kube-node-lease}")).await.map(drop),
        node.create(&yaml::<Lease>("metadata: {name: n1, namespace: default}")).await.map(drop),
        node.create(&pod("new")).await.map(drop),
        node.get::<Pod>("default", "foreign").await.map(drop),
        node.update_subresource(&foreign, "status").await.map(drop),
        node.delete::<Pod>("default", "foreign", |_| {}).await.map(drop),
        node.list::<Pod>("", |_| {}).await.map(drop),
        node.list::<Pod>("", |r| r.field_selector = "spec.nodeName=n2".to_owned()).await.map(drop),
        node.list::<Pod>("", |r| r.field_selector = "spec.nodeName!=n1".to_owned()).await.map(drop),
        node.get::<ConfigMap>("default", "other").await.map(drop),
        node.list::<Secret>("", |_| {}).await.map(drop),
    ];
    for (index, refused) in refused.into_iter().enumerate() {
        assert_eq!(refused.unwrap_err().code(), 403, "request {index}");
    }
    let error = node.get::<Node>("", "n2").await.unwrap_err().to_string();
    assert!(
        error.starts_with("nodes \"n2\" is forbidden: User \"system:node:n1\" cannot get resource \"nodes\""),
        "{error}"
    );
}

#[tokio::test]
async fn others_who_are_known_may_look_at_discovery_only() {
    let cluster = Cluster::start().await;
    let stranger = cluster.as_user(User::new("jane", &["developers"]));
    assert_eq!(stranger.list::<Pod>("", |_| {}).await.unwrap_err().code(), 403);
    // A name alone makes no node.
    let impostor = cluster.as_user(User::new("system:node:n1", &[]));
    assert_eq!(impostor.list::<Service>("", |_| {}).await.unwrap_err().code(), 403);
}

#[tokio::test]
async fn a_node_makes_mirrors_of_its_static_pods_and_no_other_pods() {
    let cluster = Cluster::start().await;
    let (admin, node) = (cluster.admin(), cluster.as_user(User::node("n1")));
    let own = node.create(&yaml::<Node>("metadata: {name: n1}")).await.unwrap();
    let mirror = |change: &str, spec: &str| {
        yaml::<Pod>(&format!(
            "metadata: {{name: web-n1, namespace: default, annotations: {{kubernetes.io/config.mirror: abc}}, ownerReferences: [{{apiVersion: \
             v1, kind: Node, name: n1, uid: {uid}, controller: true}}]{change}}}\n\
             spec: {{nodeName: n1, containers: [{{name: a, image: x}}]{spec}}}",
            uid = own.meta().uid,
        ))
    };
    let mut unmarked = mirror("", "");
    unmarked.meta_mut().annotations.clear();
    let mut elsewhere = mirror("", "");
    elsewhere.spec_mut().node_name = "n2".to_owned();
    let mut orphan = mirror("", "");
    orphan.meta_mut().owner_references.clear();
    let mut foreign = mirror("", "");
    foreign.meta_mut().owner_references[0].uid = "another".to_owned();
    let refused = [
        (unmarked, "can only create mirror pods"),
        (elsewhere, "spec.nodeName set to itself"),
        (orphan, "an owner reference set to itself"),
        (foreign, "an owner reference set to itself"),
        (mirror("", ", serviceAccountName: default"), "reference a service account"),
        (mirror("", ", volumes: [{name: v, secret: {secretName: s}}]"), "reference secrets"),
        (mirror("", ", volumes: [{name: v, configMap: {name: s}}]"), "reference configmaps"),
    ];
    for (pod, why) in refused {
        let error = node.create(&pod).await.unwrap_err();
        assert_eq!(error.code(), 403, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(admin.create(&mirror("", "")).await.unwrap_err().code(), 403, "only the node itself");

    let made = node.create(&mirror("", "")).await.unwrap();
    assert_eq!(made.spec().service_account_name, "");
    let mut changed = made.clone();
    changed.meta_mut().annotations.insert("kubernetes.io/config.mirror".to_owned(), "other".to_owned());
    let error = admin.update(&changed).await.unwrap_err().to_string();
    assert!(error.contains("may not remove or update mirror pod annotation"), "{error}");
    let mut status = made.clone();
    status.status_mut().phase = "Running".to_owned();
    node.update_subresource(&status, "status").await.unwrap();
    node.delete::<Pod>("default", "web-n1", |r| r.grace_period_seconds = Some(0)).await.unwrap();

    let plain = admin.create(&pod("plain")).await.unwrap();
    let mut added = plain.clone();
    added.meta_mut().annotations.insert("kubernetes.io/config.mirror".to_owned(), "x".to_owned());
    let error = admin.update(&added).await.unwrap_err().to_string();
    assert!(error.contains("may not add mirror pod annotation"), "{error}");
}
