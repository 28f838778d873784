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
