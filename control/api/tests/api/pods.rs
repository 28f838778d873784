//! Pods: binding, status, warnings.

use weir_proto::Resource;
use weir_proto::core::v1::{Binding, Pod};
use weir_proto::weir::v1 as pb;

use crate::fixture::{Cluster, pod, reference, typed, wire, yaml};

async fn bind(cluster: &Cluster, name: &str, node: &str) -> Result<Pod, weir_proto::status::ApiError> {
    let binding: Binding =
        yaml(&format!("{{metadata: {{name: {name}}}, target: {{kind: Node, name: {node}}}}}"));
    let request = pb::CreateRequest {
        r#ref: reference(Pod::KIND, "default", name, "binding"),
        object: wire(&binding),
        ..Default::default()
    };
    Ok(typed(Some(cluster.admin().client.create(request).await?.into_inner())))
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let cluster = Cluster::start().await;
    let created = cluster.admin().create(&pod("p")).await.unwrap();
    assert_eq!(created.status().phase, "Pending");
    let bound = bind(&cluster, "p", "n1").await.unwrap();
    assert_eq!(bound.spec().node_name, "n1");
    assert_eq!(bound.status().conditions[0].r#type, "PodScheduled");
    let error = bind(&cluster, "p", "n2").await.unwrap_err();
    assert!(error.is_conflict() && error.to_string().contains("already assigned to node \"n1\""), "{error}");
    assert!(bind(&cluster, "none", "n1").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn fields_that_nothing_acts_on_are_warned_about_by_name() {
    let cluster = Cluster::start().await;
    let mut pod = pod("p");
    pod.spec_mut().runtime_class_name = Some("fast".to_owned());
    let (_, warnings) = cluster.admin().create_warned(&pod).await.unwrap();
    assert!(warnings[0].starts_with("spec.runtimeClassName: not supported yet"), "{warnings:?}");
}

#[tokio::test]
async fn an_invalid_pod_is_refused_with_each_field_at_fault() {
    let cluster = Cluster::start().await;
    let mut bad = pod("p");
    bad.spec_mut().containers[0].image.clear();
    bad.spec_mut().containers[0].ports = vec![Default::default()];
    let error = cluster.admin().create(&bad).await.unwrap_err();
    let fields: Vec<_> = error.causes().iter().map(|cause| cause.field.as_str()).collect();
    assert_eq!(fields, ["spec.containers[0].image", "spec.containers[0].ports[0].containerPort"]);
    assert!(error.to_string().starts_with("Pod \"p\" is invalid: ["));
}
