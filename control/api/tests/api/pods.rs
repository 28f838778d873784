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

fn debugger(name: &str) -> String {
    format!("{{name: {name}, image: 'busybox:1'}}")
}

fn pod_with(containers: &[String]) -> Pod {
    let main = "containers: [{name: web, image: 'web:1'}]";
    yaml(&format!(
        "{{metadata: {{name: p, namespace: default}}, spec: {{{main}, ephemeralContainers: [{}]}}}}",
        containers.join(", ")
    ))
}

async fn put_ephemeral(cluster: &Cluster, object: &Pod) -> Result<Pod, weir_proto::status::ApiError> {
    let request = pb::UpdateRequest {
        r#ref: reference(Pod::KIND, "default", "p", "ephemeralcontainers"),
        object: wire(object),
        ..Default::default()
    };
    Ok(typed(Some(cluster.admin().client.update(request).await?.into_inner())))
}

#[tokio::test]
async fn ephemeral_containers_are_added_at_their_subresource_and_stay() {
    let cluster = Cluster::start().await;
    let error = cluster.admin().create(&pod_with(&[debugger("d")])).await.unwrap_err();
    assert!(
        error.to_string().contains("spec.ephemeralContainers: Forbidden: cannot be set on create"),
        "{error}"
    );
    let created = cluster.admin().create(&pod("p")).await.unwrap();

    // Nothing else of what is sent counts, and defaults are filled in.
    let mut wanted = pod_with(&[debugger("d")]);
    wanted.spec_mut().node_name = "elsewhere".to_owned();
    let added = put_ephemeral(&cluster, &wanted).await.unwrap();
    assert_eq!(added.spec().ephemeral_containers[0].image_pull_policy, "IfNotPresent");
    assert_eq!(added.spec().node_name, "");
    assert_eq!(added.meta().generation, created.meta().generation + 1);

    let error = put_ephemeral(&cluster, &pod_with(&[])).await.unwrap_err();
    assert!(error.to_string().contains("existing ephemeral containers \"d\" may not be removed"), "{error}");
    let error = put_ephemeral(&cluster, &pod_with(&[debugger("d"), debugger("web")])).await.unwrap_err();
    assert!(!error.causes().is_empty(), "{error}");

    // As kubectl writes it.
    let path = "/api/v1/namespaces/default/pods/p/ephemeralcontainers";
    let patch =
        r#"{"spec": {"ephemeralContainers": [{"name": "e", "image": "busybox:2", "resources": {}}]}}"#;
    let kind = "application/strategic-merge-patch+json";
    let (code, patched) = cluster.rest_with("PATCH", path, kind, "application/json", patch).await;
    assert_eq!(code, 200, "{patched}");
    assert_eq!(patched["spec"]["ephemeralContainers"].as_array().map(Vec::len), Some(2), "{patched}");
    assert_eq!(cluster.rest("GET", path, "").await.1["kind"], "Pod");

    // Of the pod itself they are no business.
    let (code, refused) = cluster
        .rest_with(
            "PATCH",
            "/api/v1/namespaces/default/pods/p",
            kind,
            "application/json",
            patch.replace("\"e\"", "\"f\""),
        )
        .await;
    assert_eq!(code, 422, "{refused}");
}
