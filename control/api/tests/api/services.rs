//! Services: addresses and node ports are given out once, and come back.

use std::collections::BTreeSet;

use serde_json::json;
use weir_proto::core::v1::Service;
use weir_proto::weir::v1::patch_request::Type;

use crate::fixture::{Cluster, yaml};

fn service(name: &str, spec: &str) -> Service {
    yaml(&format!(
        "{{metadata: {{name: {name}, namespace: default}}, spec: {{ports: [{{port: 80}}], {spec}}}}}"
    ))
}

#[tokio::test]
async fn every_service_gets_an_address_of_its_own() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let created = futures::future::join_all((0..40).map(|index| {
        let admin = admin.clone();
        async move { admin.create(&service(&format!("s{index}"), "type: NodePort")).await.unwrap() }
    }))
    .await;
    let addresses: BTreeSet<_> = created.iter().map(|service| service.spec().cluster_ip.clone()).collect();
    let ports: BTreeSet<_> = created.iter().map(|service| service.spec().ports[0].node_port).collect();
    assert_eq!((addresses.len(), ports.len()), (40, 40));
    assert!(addresses.iter().all(|address| address.starts_with("10.96.")));
    assert!(ports.iter().all(|port| (30_000..=32_767).contains(port)));
}

#[tokio::test]
async fn what_is_asked_for_by_number_is_given_if_it_is_free() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let fixed = "type: NodePort, clusterIP: 10.96.0.20";
    let created = admin.create(&service("a", fixed)).await.unwrap();
    assert_eq!(created.spec().cluster_ips, ["10.96.0.20"]);
    let taken = admin.create(&service("b", fixed)).await.unwrap_err();
    assert!(taken.to_string().contains("spec.clusterIPs[0]"), "{taken}");
    assert!(taken.to_string().contains("provided IP is already allocated"), "{taken}");
    let outside = admin.create(&service("b", "clusterIP: 10.97.0.1")).await.unwrap_err();
    assert!(outside.to_string().contains("not in the valid range"), "{outside}");
    let mut port = service("b", "type: NodePort");
    port.spec_mut().ports[0].node_port = created.spec().ports[0].node_port;
    assert!(
        admin.create(&port).await.unwrap_err().to_string().contains("provided port is already allocated")
    );
    port.spec_mut().ports[0].node_port = 80;
    assert!(
        admin.create(&port).await.unwrap_err().to_string().contains("range of valid ports is 30000-32767")
    );
    admin.delete::<Service>("default", "a", |_| {}).await.unwrap();
    admin.create(&service("b", fixed)).await.unwrap();
}

#[tokio::test]
async fn an_update_keeps_the_address_and_gives_back_what_it_drops() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let created = admin.create(&service("a", "type: NodePort")).await.unwrap();
    let port = created.spec().ports[0].node_port;
    let plain: Service = admin
        .patch("default", "a", Type::StrategicMerge, json!({"spec": {"type": "ClusterIP"}}))
        .await
        .unwrap();
    assert_eq!(plain.spec().cluster_ip, created.spec().cluster_ip);
    assert_eq!(plain.spec().ports[0].node_port, 0);
    let mut other = service("b", "type: NodePort");
    other.spec_mut().ports[0].node_port = port;
    admin.create(&other).await.unwrap();
    let moved = json!({"spec": {"clusterIP": "10.96.0.77", "clusterIPs": ["10.96.0.77"]}});
    let refused = admin.patch::<Service>("default", "a", Type::Merge, moved).await.unwrap_err();
    assert!(refused.to_string().contains("may not change once set"), "{refused}");
}

#[tokio::test]
async fn headless_services_take_no_address() {
    let cluster = Cluster::start().await;
    let created = cluster.admin().create(&service("a", "clusterIP: None")).await.unwrap();
    assert_eq!((created.spec().cluster_ip.as_str(), created.meta().name.as_str()), ("None", "a"));
}
