//! Kubernetes' REST: discovery, verbs, tables, watches, errors.

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use weir_api::User;

use crate::fixture::Cluster;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

fn map(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
        .to_string()
}

#[tokio::test]
async fn discovery_tells_what_there_is() {
    let cluster = Cluster::start().await;
    let (_, groups) = cluster.rest("GET", "/apis", "").await;
    let names: Vec<_> =
        groups["groups"].as_array().unwrap().iter().map(|group| group["name"].clone()).collect();
    assert!(names.contains(&json!("apps")) && names.contains(&json!("net.weir.dev")), "{names:?}");
    let (_, core) = cluster.rest("GET", "/api/v1", "").await;
    let find = |name: &str| core["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).cloned();
    assert_eq!(find("pods").unwrap()["shortNames"], json!(["po"]));
    assert_eq!(find("pods/binding").unwrap()["kind"], "Binding");
    assert_eq!(find("nodes").unwrap()["namespaced"], false);
    let (_, version) = cluster.rest("GET", "/version", "").await;
    assert_eq!(version["major"], "1");
    let (code, document) = cluster.rest("GET", "/openapi/v3/apis/apps/v1", "").await;
    assert_eq!(code, 200);
    assert!(
        document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"].is_object()
    );
    assert_eq!(cluster.rest("GET", "/apis/batch/v1", "").await.0, 404);
}

#[tokio::test]
async fn an_object_goes_through_all_verbs() {
    let cluster = Cluster::start().await;
    let (code, created) = cluster.rest("POST", MAPS, &map("a")).await;
    assert_eq!(
        (code, &created["kind"], &created["metadata"]["namespace"]),
        (201, &json!("ConfigMap"), &json!("default"))
    );
    let one = format!("{MAPS}/a");
    let (code, list) = cluster.rest("GET", MAPS, "").await;
    assert_eq!(
        (code, list["kind"].as_str(), list["items"].as_array().unwrap().len()),
        (200, Some("ConfigMapList"), 1)
    );
    let mut changed = created.clone();
    changed["data"]["a"] = json!("c");
    assert_eq!(cluster.rest("PUT", &one, &changed.to_string()).await.0, 200);
    let (code, stale) = cluster.rest("PUT", &one, &created.to_string()).await;
    assert_eq!((code, &stale["kind"], &stale["reason"]), (409, &json!("Status"), &json!("Conflict")));
    let patch = r#"{"data":{"x":"y"}}"#;
    let (code, patched) =
        cluster.rest_with("PATCH", &one, "application/merge-patch+json", "*/*", patch).await;
    assert_eq!((code, &patched["data"]), (200, &json!({"a": "c", "x": "y"})));
    let options = r#"{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}"#;
    let (code, gone) = cluster.rest("DELETE", &one, options).await;
    assert_eq!(
        (code, &gone["status"], &gone["details"]["kind"]),
        (200, &json!("Success"), &json!("configmaps"))
    );
    let (code, missing) = cluster.rest("GET", &one, "").await;
    assert_eq!((code, &missing["message"]), (404, &json!("configmaps \"a\" not found")));
}

#[tokio::test]
async fn tables_have_kubectls_columns() {
    let cluster = Cluster::start().await;
    cluster.rest("POST", MAPS, &map("a")).await;
    let (_, table) = cluster.rest_with("GET", MAPS, "application/json", TABLE, "").await;
    let columns: Vec<_> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!((table["kind"].as_str().unwrap(), columns), ("Table", vec!["NAME", "DATA", "AGE"]));
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..2], [json!("a"), json!("1")]);
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(cluster.rest_with("GET", MAPS, "", "application/vnd.kubernetes.protobuf", "").await.0, 406);
}

#[tokio::test]
async fn a_watch_is_a_line_of_json_for_each_change() {
    let cluster = Cluster::start().await;
    cluster.rest("POST", MAPS, &map("a")).await;
    let request = http::Request::get(format!("{MAPS}?watch=1&sendInitialEvents=true&timeoutSeconds=20"))
        .body(axum::body::Body::empty())
        .unwrap();
    let response = cluster.server.in_process(User::system("test")).oneshot(request).await.unwrap();
    let mut body = response.into_body();
    let mut lines = Vec::new();
    while lines.len() < 3 {
        let frame = body.frame().await.unwrap().unwrap();
        let event: Value = serde_json::from_slice(frame.data_ref().unwrap()).unwrap();
        lines.push((event["type"].clone(), event["object"]["metadata"]["name"].clone()));
        if lines.len() == 2 {
            cluster.rest("DELETE", &format!("{MAPS}/a"), "").await;
        }
    }
    assert_eq!(lines[0], (json!("ADDED"), json!("a")));
    assert_eq!(lines[1].0, "BOOKMARK");
    assert_eq!(lines[2], (json!("DELETED"), json!("a")));
}

#[tokio::test]
async fn unknown_fields_warn_or_fail_as_asked() {
    let cluster = Cluster::start().await;
    let body = |name: &str| json!({"metadata": {"name": name}, "datum": {"a": "b"}}).to_string();
    let request = |validation: &str, name: &str| {
        http::Request::post(format!("{MAPS}?fieldValidation={validation}"))
            .body(axum::body::Body::from(body(name)))
            .unwrap()
    };
    let mut answers = Vec::new();
    for (validation, name) in [("Ignore", "a"), ("Warn", "b"), ("Strict", "c")] {
        let service = cluster.server.in_process(User::system("test"));
        let response = service.oneshot(request(validation, name)).await.unwrap();
        let warning = response.headers().get("warning").map(|value| value.to_str().unwrap().to_owned());
        answers.push((response.status().as_u16(), warning));
    }
    assert_eq!(answers[0], (201, None));
    assert_eq!(answers[1], (201, Some("299 - \"unknown field \\\"datum\\\"\"".to_owned())));
    assert_eq!(answers[2], (400, None));
}

#[tokio::test]
async fn bodies_may_be_yaml() {
    let cluster = Cluster::start().await;
    let yaml = "kind: ConfigMap\nmetadata:\n  name: from-yaml # named\ndata: {a: 'b'}\n";
    let (code, answer) = cluster.rest_with("POST", MAPS, "application/yaml", "*/*", yaml).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(cluster.rest_with("POST", MAPS, "application/xml", "*/*", yaml).await.0, 415);
}
