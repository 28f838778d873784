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

#[tokio::test]
async fn bodies_that_are_not_text_are_refused() {
    let cluster = Cluster::start().await;
    for media in ["application/json", "application/yaml"] {
        let body = b"{\"metadata\":{\"name\":\"a\"},\"data\":{\"k\":\"\xff\xfe\"}}";
        let (code, status) = cluster.rest_with("POST", MAPS, media, "*/*", body).await;
        assert_eq!((code, &status["kind"]), (400, &json!("Status")), "{media}: {status}");
    }
    let (code, status) = cluster.rest_with("POST", MAPS, "application/json", "*/*", [0u8; 64]).await;
    assert_eq!((code, &status["reason"]), (400, &json!("BadRequest")));
    let protobuf = b"k8s\0\x0a\x0d\x0a\x02v1\x12\x07";
    let media = "application/vnd.kubernetes.protobuf";
    let (code, status) = cluster.rest_with("POST", MAPS, media, "*/*", protobuf).await;
    assert_eq!((code, &status["reason"]), (415, &json!("UnsupportedMediaType")), "{status}");
}

#[tokio::test]
async fn yaml_that_would_grow_is_refused_before_it_does() {
    let cluster = Cluster::start().await;
    let mut laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        laughs += &format!("a{level}: &a{level} [{}]\n", vec![before; 9].join(","));
    }
    laughs += "metadata: {name: laughs}\n";
    let nested = format!("metadata: {{name: deep}}\ndata: {}1{}\n", "[".repeat(20_000), "]".repeat(20_000));
    let blocks: String = (0..5000).map(|depth| format!("{}a:\n", " ".repeat(depth % 1000))).collect();
    let before = resident();
    for (name, body) in [("aliases", laughs), ("nested", nested), ("blocks", blocks)] {
        let (code, status) = cluster.rest_with("POST", MAPS, "application/yaml", "*/*", body).await;
        assert_eq!((code, &status["kind"]), (400, &json!("Status")), "{name}: {status}");
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 256 * 1024, "{grown} kB");
    assert_eq!(cluster.rest("GET", "/readyz", "").await.0, 200);
}

/// Kilobytes that this process holds.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn selectors_that_say_nothing_are_refused() {
    let cluster = Cluster::start().await;
    let long = "a%3Db,".repeat(2000);
    for query in [
        "labelSelector=a%20b",
        "labelSelector=a%20in%20b",
        "labelSelector=a%20in%20(b",
        "labelSelector=!",
        "labelSelector=a%3D%3D%3Db",
        "labelSelector=-a%3Db",
        "labelSelector=a%3D-b-",
        "labelSelector=%C3%A4%3Db",
        "fieldSelector=metadata.name",
        "fieldSelector=spec.secret%3Dx",
        "fieldSelector=%3Dx",
        "limit=-1",
        "limit=99999999999999999999",
        "continue=not-a-token",
        "continue=eyJydiI6LTUsImFmdGVyIjoiL3JlZ2lzdHJ5LyJ9",
        "resourceVersion=-1",
        "resourceVersion=soon",
        "resourceVersionMatch=Exact",
        "resourceVersion=0&resourceVersionMatch=Exact",
        "resourceVersion=5&resourceVersionMatch=Sometimes",
        "timeoutSeconds=x",
    ] {
        let (code, status) = cluster.rest("GET", &format!("/api/v1/pods?{query}"), "").await;
        assert_eq!((code, &status["reason"]), (400, &json!("BadRequest")), "{query}: {status}");
    }
    let (code, _) = cluster.rest("GET", &format!("/api/v1/pods?labelSelector={long}"), "").await;
    assert!(matches!(code, 200 | 400 | 414), "{code}");
}

#[tokio::test]
async fn names_and_labels_are_what_kubernetes_takes_for_some() {
    let cluster = Cluster::start().await;
    let make = |metadata: serde_json::Value| json!({"metadata": metadata}).to_string();
    let (long, longer) = ("a".repeat(253), "a".repeat(254));
    for (metadata, code) in [
        (json!({"name": long}), 201),
        (json!({"name": longer}), 422),
        (json!({"name": ".."}), 422),
        (json!({"name": "a..b"}), 422),
        (json!({"name": "%2f"}), 422),
        (json!({"name": "a\u{0}b"}), 422),
        (json!({"name": "ünïcode"}), 422),
        (json!({"name": "\u{202e}evil"}), 422),
        (json!({"name": "UPPER"}), 422),
        (json!({"name": "x", "labels": {"a": "b".repeat(64)}}), 422),
        (json!({"name": "x", "labels": {"a".repeat(64): "b"}}), 422),
        (json!({"name": "x", "labels": {"a/b/c": "d"}}), 422),
        (json!({"name": "x", "labels": {"": "d"}}), 422),
        (json!({"name": "x", "labels": {"a": "ü"}}), 422),
        (json!({"name": "x", "annotations": {"a": "b".repeat(300_000)}}), 422),
        (json!({"name": "x", "finalizers": ["short"]}), 422),
        (json!({"generateName": "Ü-"}), 422),
    ] {
        let (found, status) = cluster.rest("POST", MAPS, &make(metadata.clone())).await;
        assert_eq!(found, code, "{:.100}: {:.300}", metadata.to_string(), status.to_string());
    }
    for path in ["%2e%2e", "..", "a%2fb", "%00", &"x".repeat(10_000)] {
        let (code, status) = cluster.rest("GET", &format!("{MAPS}/{path}"), "").await;
        assert!(matches!(code, 400 | 404), "{:.40}: {code}", path);
        assert!(status.to_string().len() < 2000, "the name is not repeated without end");
    }
}

#[tokio::test]
async fn messages_of_another_version_or_cut_short_do_no_harm() {
    use prost::Message;
    let cluster = Cluster::start().await;
    let mut client = cluster.admin().client;
    let create = |bytes: Vec<u8>| pb::CreateRequest {
        r#ref: reference(ConfigMap::KIND, "default", "", ""),
        object: Some(pb::Object {
            kind: Some(ConfigMap::KIND.to_ref()),
            payload: Some(Payload::Protobuf(bytes)),
        }),
        ..Default::default()
    };
    // Field 500, of which this server knows nothing: left out, as protobuf has it.
    let mut newer = config_map("newer").encode_to_vec();
    newer.extend([0xa2, 0x1f, 3, b'n', b'e', b'w']);
    let stored = client.create(create(newer)).await.unwrap().into_inner();
    assert_eq!(crate::fixture::typed::<ConfigMap>(Some(stored)).data, config_map("newer").data);
    let whole = config_map("cut").encode_to_vec();
    let (mut refused, mut taken) = (0, 0);
    for end in 0..whole.len() {
        match client.create(create(whole[..end].to_vec())).await {
            Err(error) => {
                assert_eq!(error.code(), tonic::Code::InvalidArgument, "{end} bytes: {error}");
                refused += 1;
            }
            // Cut between two fields it is an object still.
            Ok(_) => {
                cluster.admin().delete::<ConfigMap>("default", "cut", |_| {}).await.unwrap();
                taken += 1;
            }
        }
    }
    assert!(refused > taken, "{refused} refused, {taken} taken");
    let mut nested = Vec::new();
    for _ in 0..10_000 {
        let mut outer = vec![0x0a];
        prost::encoding::encode_varint(nested.len() as u64, &mut outer);
        outer.extend_from_slice(&nested[..nested.len().min(20_000)]);
        nested = outer;
        if nested.len() > 20_000 {
            break;
        }
    }
    let deep = client.create(create(nested)).await.unwrap_err();
    assert_eq!(deep.code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn an_object_with_very_many_faults_is_refused_within_what_headers_carry() {
    let cluster = crate::tls::Listening::start_with(|_| {}).await;
    let mut faulty = crate::fixture::pod("faulty");
    let container = faulty.spec().containers[0].clone();
    for index in 0..200 {
        let mut container = container.clone();
        container.name = format!("Ünfit {index} {}", "x".repeat(200));
        faulty.spec_mut().containers.push(container);
    }
    let request = pb::CreateRequest {
        r#ref: reference(Pod::KIND, "default", "", ""),
        object: wire(&faulty),
        ..Default::default()
    };
    let error = weir_proto::status::ApiError::from(cluster.admin().await.create(request).await.unwrap_err());
    assert_eq!((error.code(), error.reason()), (422, "Invalid"), "{error}");
    assert!(!error.causes().is_empty());
}
