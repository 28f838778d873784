//! Whatever is sent, the answer is an error that says what is wrong, and the server goes on.

use serde_json::json;
use weir_proto::Resource;
use weir_proto::core::v1::{ConfigMap, Pod};
use weir_proto::weir::v1::{self as pb, object::Payload};

use crate::fixture::{Cluster, config_map, reference, wire};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn broken_bodies_are_refused() {
    let cluster = Cluster::start().await;
    let deep =
        format!("{{\"metadata\":{{\"name\":\"a\"}},\"data\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    for (body, code) in [
        ("", 400),
        ("{", 400),
        ("[]", 400),
        ("\"text\"", 400),
        ("{\"metadata\":{\"name\":7}}", 400),
        ("{\"metadata\":{\"name\":\"a\"},\"data\":{\"a\":1}}", 400),
        ("{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"a\"}}", 400),
        ("{\"metadata\":{\"name\":\"A B\"}}", 422),
        ("{\"metadata\":{\"name\":\"a\",\"namespace\":\"other\"}}", 400),
        ("{\"metadata\":{}}", 400),
        ("{\"metadata\":{\"name\":\"../../nodes/n\"}}", 400),
        ("{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"5\"}}", 400),
        (deep.as_str(), 400),
    ] {
        let (found, status) = cluster.rest("POST", MAPS, body).await;
        assert_eq!(found, code, "{:.60}: {status}", body);
        assert_eq!(status["kind"], "Status");
        assert!(!status["message"].as_str().unwrap().is_empty());
    }
    assert_eq!(cluster.rest("GET", "/readyz", "").await.0, 200);
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let cluster = Cluster::start().await;
    let sized = |size: usize| json!({"metadata": {"name": "a"}, "data": {"a": "x".repeat(size)}}).to_string();
    let (code, status) = cluster.rest("POST", MAPS, &sized(4 << 20)).await;
    assert_eq!((code, &status["reason"]), (413, &json!("RequestEntityTooLarge")));
    let (code, status) = cluster.rest("POST", MAPS, &sized(2 << 20)).await;
    assert_eq!(code, 422, "{}", status["message"]);
    let mut map = config_map("a");
    map.data.insert("a".to_owned(), "x".repeat(5 << 20));
    let over_grpc = cluster.admin().create(&map).await.unwrap_err();
    assert!(
        over_grpc.to_string().contains("too large") || over_grpc.code() == 413 || over_grpc.code() == 410,
        "{over_grpc}"
    );
}

#[tokio::test]
async fn unknown_kinds_paths_and_verbs_are_refused() {
    let cluster = Cluster::start().await;
    for (method, path, code) in [
        ("GET", "/api/v1/zebras", 404),
        ("GET", "/apis/zoo/v1/zebras", 404),
        ("POST", "/api/v1/namespaces/default/pods/p", 405),
        ("PUT", "/api/v1/namespaces/default/pods", 405),
        ("TRACE", "/api/v1/pods", 405),
        ("GET", "/api/v1/pods?limit=many", 400),
        ("GET", "/api/v1/pods?labelSelector=%25%25", 400),
        ("GET", "/openapi/v2", 404),
    ] {
        assert_eq!(cluster.rest(method, path, "{}").await.0, code, "{method} {path}");
    }
    let kind =
        Some(pb::KindRef { group: "zoo".to_owned(), version: "v1".to_owned(), kind: "Zebra".to_owned() });
    let request = pb::ListRequest { kind, ..Default::default() };
    let error = cluster.admin().client.list(request).await.unwrap_err();
    assert_eq!(error.message(), "no matches for kind: zoo/v1, Kind=Zebra");
}

#[tokio::test]
async fn broken_messages_are_refused() {
    let cluster = Cluster::start().await;
    let mut client = cluster.admin().client;
    let about = |object| pb::CreateRequest {
        r#ref: reference(ConfigMap::KIND, "default", "", ""),
        object,
        ..Default::default()
    };
    let garbage =
        pb::Object { kind: Some(ConfigMap::KIND.to_ref()), payload: Some(Payload::Protobuf(vec![0xff; 64])) };
    let empty = pb::Object { kind: Some(ConfigMap::KIND.to_ref()), payload: None };
    for object in [None, Some(garbage), Some(empty), wire(&Pod::default())] {
        assert_eq!(client.create(about(object)).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    }
    assert!(client.get(pb::GetRequest { r#ref: None }).await.is_err());
    let nameless = pb::GetRequest { r#ref: reference(ConfigMap::KIND, "default", "", "") };
    assert!(client.get(nameless).await.is_err());
    let sneaky = pb::GetRequest { r#ref: reference(ConfigMap::KIND, "default/../kube-system", "a", "") };
    assert!(client.get(sneaky).await.is_err());
}
