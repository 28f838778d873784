//! The controllers against the real API server over the embedded store, with a stand-in for scheduler and agents.

mod fixture;

use weir_client::{DeleteOptions, ListOptions, ObjectKey, Patch, Propagation};
use weir_proto::apps::v1::{Deployment, ReplicaSet};
use weir_proto::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Service, ServiceAccount};
use weir_proto::discovery::v1::EndpointSlice;

use fixture::{Cluster, SOON, yaml};

const WEB: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: main, image: 'example.com/web:1', ports: [{name: http, containerPort: 8080}]}
";

const SERVICE: &str = r"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
";

fn rolled_out(deployment: Option<&Deployment>, replicas: i32) -> bool {
    deployment.is_some_and(|deployment| {
        let status = deployment.status();
        status.observed_generation == deployment.meta().generation
            && (status.updated_replicas, status.replicas, status.available_replicas)
                == (replicas, replicas, replicas)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_rolled_out_served_updated_resized_and_removed() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let deployments = client.namespaced::<Deployment>("default");
    let key = ObjectKey::new("default", "web");
    deployments.create(&yaml(WEB)).await.unwrap();
    client.namespaced("default").create(&yaml::<Service>(SERVICE)).await.unwrap();
    cluster.deployments.wait_for(&key, SOON, |now| rolled_out(now, 3)).await.unwrap();

    let ready = |slices: &[EndpointSlice]| {
        let endpoints = || slices.iter().flat_map(|slice| &slice.endpoints);
        let ready = endpoints().filter(|e| e.conditions.is_some_and(|c| c.ready == Some(true)));
        slices.iter().all(|slice| slice.ports.first().is_some_and(|port| port.port == Some(8080)))
            && ready.count() == 3
            && endpoints().count() == 3
    };
    cluster.until(&cluster.slices, ready).await;

    let image = serde_json::json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "example.com/web:2"}]);
    let updated = deployments.patch("web", &Patch::Json(image)).await.unwrap();
    cluster.deployments.reached(&updated.meta().resource_version, SOON).await.unwrap();
    cluster.deployments.wait_for(&key, SOON, |now| rolled_out(now, 3)).await.unwrap();
    let sets = client.namespaced::<ReplicaSet>("default").list(&ListOptions::default()).await.unwrap().items;
    let mut sizes: Vec<_> = sets.iter().map(|set| set.spec().replicas.unwrap()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [0, 3]);
    let pods = client.namespaced::<Pod>("default").list(&ListOptions::default()).await.unwrap().items;
    assert!(
        pods.iter()
            .filter(|p| p.meta().deletion_timestamp.is_none())
            .all(|p| p.spec().containers[0].image.ends_with(":2"))
    );

    let size = Patch::Merge(serde_json::json!({"spec": {"replicas": 1}}));
    let resized = deployments.patch("web", &size).await.unwrap();
    cluster.deployments.reached(&resized.meta().resource_version, SOON).await.unwrap();
    cluster.deployments.wait_for(&key, SOON, |now| rolled_out(now, 1)).await.unwrap();

    let foreground = DeleteOptions { propagation: Propagation::Foreground, ..DeleteOptions::default() };
    deployments.delete("web", &foreground).await.unwrap();
    cluster.deployments.wait_for(&key, SOON, |now| now.is_none()).await.unwrap();
    assert!(
        client
            .namespaced::<ReplicaSet>("default")
            .list(&ListOptions::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    client.namespaced::<Service>("default").delete("web", &DeleteOptions::default()).await.unwrap();
    cluster.until(&cluster.slices, <[EndpointSlice]>::is_empty).await;
    cluster.until(&cluster.pods, <[Pod]>::is_empty).await;

    let events = client.namespaced::<Event>("default").list(&ListOptions::default()).await.unwrap().items;
    let reasons: Vec<&str> = events.iter().map(|event| event.reason.as_str()).collect();
    for reason in ["ScalingReplicaSet", "SuccessfulCreate", "SuccessfulDelete"] {
        assert!(reasons.contains(&reason), "{reason} is not among {reasons:?}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_somebody_else_holds_is_emptied_and_stays() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let mut namespace = Namespace::default();
    namespace.meta_mut().name = "held".to_owned();
    namespace.meta_mut().finalizers = vec!["example.com/hold".to_owned()];
    client.api::<Namespace>().create(&namespace).await.unwrap();
    let web = WEB.replace("namespace: default", "namespace: held");
    client.namespaced("held").create(&yaml::<Deployment>(&web)).await.unwrap();
    client.api::<Namespace>().delete("held", &DeleteOptions::default()).await.unwrap();
    let emptied = |namespace: Option<&Namespace>| namespace.is_some_and(|n| n.spec().finalizers.is_empty());
    cluster.namespaces.wait_for(&ObjectKey::new("", "held"), SOON, emptied).await.unwrap();
    for (kind, left) in [
        (
            "sets",
            client.namespaced::<ReplicaSet>("held").list(&ListOptions::default()).await.unwrap().items.len(),
        ),
        ("pods", client.namespaced::<Pod>("held").list(&ListOptions::default()).await.unwrap().items.len()),
    ] {
        assert_eq!(left, 0, "{kind} are left");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_get_distinct_ranges_and_namespaces_an_account() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let has_range = |node: Option<&Node>| node.is_some_and(|node| !node.spec().pod_cidr.is_empty());
    for name in ["node-1", "node-2"] {
        cluster.nodes.wait_for(&ObjectKey::new("", name), SOON, has_range).await.unwrap();
    }
    let range = |name: &str| cluster.nodes.get("", name).unwrap().spec().pod_cidr.clone();
    assert_ne!(range("node-1"), range("node-2"));
    assert!(range("node-1").starts_with("10.32.") && range("node-1").ends_with("/24"));

    let mut namespace = Namespace::default();
    namespace.meta_mut().name = "shop".to_owned();
    client.api::<Namespace>().create(&namespace).await.unwrap();
    let account = ObjectKey::new("shop", "default");
    cluster
        .accounts
        .wait_for(&account, SOON, |account: Option<&ServiceAccount>| account.is_some())
        .await
        .unwrap();

    let mut config = ConfigMap::default();
    config.meta_mut().name = "c".to_owned();
    client.namespaced("shop").create(&config).await.unwrap();
    client
        .namespaced("shop")
        .create(&yaml::<Deployment>(&WEB.replace("namespace: default", "namespace: shop")))
        .await
        .unwrap();
    client.api::<Namespace>().delete("shop", &DeleteOptions::default()).await.unwrap();
    cluster
        .namespaces
        .wait_for(&ObjectKey::new("", "shop"), SOON, |namespace| namespace.is_none())
        .await
        .unwrap();
    assert!(client.namespaced::<Pod>("shop").list(&ListOptions::default()).await.unwrap().items.is_empty());
    cluster.stop().await;
}
