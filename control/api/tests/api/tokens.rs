//! Tokens of service accounts: asked for, shown, looked at, and taken back with what they are bound to.

use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use weir_api::User;
use weir_proto::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, ServiceAccount};
use weir_proto::weir::v1::resources_client::ResourcesClient;
use weir_proto::weir::v1::{GetRequest, patch_request};

use crate::fixture::{Cluster, DEADLINE, config_map, pod, reference, yaml};
use crate::tls::{Listening, nodes};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// A server whose namespaces have what every one has.
async fn furnished() -> Cluster {
    Cluster::start_with(|config| config.furnish_namespaces = true).await
}

/// Asks for a token of an account in `default`: the code, and the whole answer.
async fn ask(cluster: &Cluster, account: &str, spec: Value) -> (u16, Value) {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    cluster.rest("POST", &format!("{ACCOUNTS}/{account}/token"), &body.to_string()).await
}

async fn token(cluster: &Cluster, account: &str, spec: Value) -> String {
    let (code, answer) = ask(cluster, account, spec).await;
    assert_eq!(code, 201, "{answer}");
    answer["status"]["token"].as_str().unwrap().to_owned()
}

/// Why a token is not believed; empty where it is.
async fn refusal(cluster: &Cluster, token: &str) -> String {
    let body = json!({"spec": {"token": token}}).to_string();
    let (code, answer) = cluster.rest("POST", REVIEWS, &body).await;
    assert_eq!(code, 201, "{answer}");
    let status = &answer["status"];
    assert_eq!(status["authenticated"] == true, status["error"].is_null(), "{answer}");
    status["error"].as_str().unwrap_or_default().to_owned()
}

/// A request as a stranger over the router, with a header.
async fn as_bearer(cluster: &Cluster, path: &str, header: &str) -> (u16, Value) {
    let request =
        http::Request::builder().uri(path).header("authorization", header).body(Body::empty()).unwrap();
    let response = cluster.server.anonymous().oneshot(request).await.unwrap();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

fn claims(token: &str) -> Value {
    use base64::Engine;
    let payload = token.split('.').nth(1).unwrap();
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

fn account(name: &str) -> ServiceAccount {
    yaml(&format!("{{metadata: {{name: {name}, namespace: default}}}}"))
}

#[tokio::test]
async fn a_token_says_what_kubernetes_tokens_say_and_its_bearer_is_the_account() {
    let cluster = furnished().await;
    let admin = cluster.admin();
    let node: Node = admin.create(&yaml("{metadata: {name: n1}}")).await.unwrap();
    let mut wanted = pod("p");
    wanted.spec_mut().node_name = "n1".to_owned();
    let pod = admin.create(&wanted).await.unwrap();
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": pod.meta().uid});
    let spec = json!({"audiences": [], "expirationSeconds": 3607, "boundObjectRef": bound});
    let (code, answer) = ask(&cluster, "default", spec).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!((&answer["kind"], &answer["metadata"]["name"]), (&json!("TokenRequest"), &json!("default")));
    let token = answer["status"]["token"].as_str().unwrap();
    let said = claims(token);
    let account: ServiceAccount = admin.get("default", "default").await.unwrap();
    let issuer = "https://kubernetes.default.svc.cluster.local";
    assert_eq!((&said["iss"], &said["aud"]), (&json!(issuer), &json!([issuer])));
    assert_eq!(said["sub"], "system:serviceaccount:default:default");
    assert_eq!(said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap(), 3607);
    assert_eq!(said["nbf"], said["iat"]);
    assert_eq!(
        said["kubernetes.io"],
        json!({
            "namespace": "default",
            "node": {"name": "n1", "uid": node.meta().uid},
            "pod": {"name": "p", "uid": pod.meta().uid},
            "serviceaccount": {"name": "default", "uid": account.meta().uid},
        })
    );

    let (code, answer) = as_bearer(&cluster, "/api", &format!("Bearer {token}")).await;
    assert_eq!(code, 200, "{answer}");
    let (code, answer) =
        as_bearer(&cluster, "/api/v1/namespaces/default/pods", &format!("Bearer {token}")).await;
    assert_eq!(code, 403, "{answer}");
    let message = answer["message"].as_str().unwrap();
    let expected = "pods is forbidden: User \"system:serviceaccount:default:default\" cannot list resource \"pods\" in \
                    API group \"\" in the namespace \"default\": ";
    assert!(message.starts_with(expected) && message.contains("RBAC"), "{message}");

    let review = json!({"spec": {"token": token}}).to_string();
    let (_, answer) = cluster.rest("POST", REVIEWS, &review).await;
    let user = &answer["status"]["user"];
    assert_eq!(user["uid"], account.meta().uid.as_str());
    let groups = ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"];
    assert_eq!(user["groups"], json!(groups));
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(user["extra"]["authentication.kubernetes.io/node-name"], json!(["n1"]));
}

#[tokio::test]
async fn what_a_token_may_not_be_is_refused_by_field() {
    let cluster = furnished().await;
    cluster.admin().create(&pod("p")).await.unwrap();
    cluster.admin().create(&account("other")).await.unwrap();
    let pod_of_other = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}});
    for (account, spec, code, said) in [
        ("default", json!({"expirationSeconds": 599}), 422, "less than 10 minutes"),
        ("default", json!({"expirationSeconds": -1}), 422, "less than 10 minutes"),
        ("default", json!({"expirationSeconds": 1_i64 << 33}), 422, "larger than 2^32"),
        ("default", json!({"expirationSeconds": i64::MAX}), 422, "larger than 2^32"),
        ("default", json!({"audiences": [""]}), 422, "spec.audiences[0]"),
        ("default", json!({"audiences": ["x".repeat(2000)]}), 422, "spec.audiences[0]"),
        ("default", json!({"audiences": vec!["x"; 100]}), 422, "spec.audiences"),
        ("default", json!({"boundObjectRef": {"kind": "Pod"}}), 422, "spec.boundObjectRef.name"),
        (
            "default",
            json!({"boundObjectRef": {"kind": "Pod", "name": "none"}}),
            404,
            "pods \"none\" not found",
        ),
        ("default", json!({"boundObjectRef": {"kind": "Service", "name": "p"}}), 400, "cannot bind token"),
        (
            "default",
            json!({"boundObjectRef": {"kind": "Pod", "name": "p", "uid": "another"}}),
            409,
            "does not match the UID in record",
        ),
        ("other", pod_of_other, 400, "pod running with different serviceaccount name"),
        ("nobody", json!({}), 404, "serviceaccounts \"nobody\" not found"),
    ] {
        let (got, answer) = ask(&cluster, account, spec.clone()).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(got == code && message.contains(said), "{spec}: {got} {message}");
    }
}

#[tokio::test]
async fn a_token_goes_with_what_it_is_bound_to() {
    let cluster = furnished().await;
    let admin = cluster.admin();
    let bound =
        |kind: &str, name: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name}});
    admin.create(&pod("p")).await.unwrap();
    admin.create(&yaml::<Secret>("{metadata: {name: s, namespace: default}}")).await.unwrap();
    admin.create(&yaml::<Node>("{metadata: {name: n7}}")).await.unwrap();
    for (kind, name) in [("Pod", "p"), ("Secret", "s"), ("Node", "n7")] {
        let token = token(&cluster, "default", bound(kind, name)).await;
        assert_eq!(refusal(&cluster, &token).await, "");
        let at_once =
            |request: &mut weir_proto::weir::v1::DeleteRequest| request.grace_period_seconds = Some(0);
        match kind {
            "Pod" => drop(admin.delete::<Pod>("default", name, at_once).await.unwrap()),
            "Secret" => drop(admin.delete::<Secret>("default", name, at_once).await.unwrap()),
            _ => drop(admin.delete::<Node>("", name, at_once).await.unwrap()),
        }
        let gone = async {
            while refusal(&cluster, &token).await
                != format!("service account token has been invalidated: {kind} {name:?} has been deleted")
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, gone).await.expect("the token is taken back");
        match kind {
            "Pod" => drop(admin.create(&pod("p")).await.unwrap()),
            "Secret" => drop(
                admin.create(&yaml::<Secret>("{metadata: {name: s, namespace: default}}")).await.unwrap(),
            ),
            _ => drop(admin.create(&yaml::<Node>("{metadata: {name: n7}}")).await.unwrap()),
        }
        let other = refusal(&cluster, &token).await;
        assert!(other.ends_with("is another by now"), "{other}");
    }
}

#[tokio::test]
async fn a_token_goes_with_its_account_and_a_new_account_has_other_tokens() {
    let cluster = furnished().await;
    let admin = cluster.admin();
    admin.create(&account("web")).await.unwrap();
    let before = token(&cluster, "web", json!({})).await;
    assert_eq!(refusal(&cluster, &before).await, "");
    admin.delete::<ServiceAccount>("default", "web", |_| {}).await.unwrap();
    admin.create(&account("web")).await.unwrap();
    let gone = async {
        while !refusal(&cluster, &before).await.contains("another by now") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.expect("the token is taken back");
    let (code, _) = as_bearer(&cluster, "/version", &format!("Bearer {before}")).await;
    assert_eq!(code, 401, "a bad token is refused even where none is needed");
    assert_eq!(refusal(&cluster, &token(&cluster, "web", json!({})).await).await, "");
}

#[tokio::test]
async fn a_token_for_others_opens_nothing_here() {
    let cluster = furnished().await;
    let token = token(&cluster, "default", json!({"audiences": ["vault"]})).await;
    assert!(refusal(&cluster, &token).await.contains("audiences"));
    let (code, _) = as_bearer(&cluster, "/api", &format!("Bearer {token}")).await;
    assert_eq!(code, 401);
    let review = json!({"spec": {"token": token, "audiences": ["vault", "bank"]}}).to_string();
    let (_, answer) = cluster.rest("POST", REVIEWS, &review).await;
    assert_eq!(
        (&answer["status"]["authenticated"], &answer["status"]["audiences"]),
        (&json!(true), &json!(["vault"]))
    );
}

#[tokio::test]
async fn what_is_no_token_of_this_cluster_is_refused() {
    let (cluster, other) = (furnished().await, furnished().await);
    let foreign = token(&other, "default", json!({})).await;
    let own = token(&cluster, "default", json!({})).await;
    let mut tampered = own.clone();
    let last = if tampered.pop() == Some('A') { 'B' } else { 'A' };
    tampered.insert(tampered.len() - 10, last);
    let long = "x".repeat(40_000);
    for header in [
        format!("Bearer {foreign}"),
        format!("Bearer {tampered}"),
        format!("Basic {own}"),
        format!("Bearer {long}"),
        format!("Bearer {own} {own}"),
        own.clone(),
        "Bearer a.b.c".to_owned(),
        "Bearer".to_owned(),
        String::new(),
    ] {
        let (code, answer) = as_bearer(&cluster, "/api", &header).await;
        assert_eq!((code, &answer["message"]), (401, &json!("Unauthorized")), "{header:.40}");
    }
    let (code, _) = as_bearer(&cluster, "/api", &format!("bearer {own}")).await;
    assert_eq!(code, 200);
    let (code, metrics) = cluster.rest("GET", "/metrics", "").await;
    let metrics = metrics.as_str().unwrap().to_owned();
    assert!(code == 200 && metrics.contains("authentication_attempts{result=\"failure\"}"), "{code}");
    assert!(metrics.contains("authentication_attempts{result=\"success\"}"));
}

#[tokio::test]
async fn everyone_may_ask_who_they_are_and_only_masters_who_others_are() {
    let cluster = furnished().await;
    let token = token(&cluster, "default", json!({})).await;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, answer) = cluster.rest("POST", path, "{}").await;
    assert_eq!(code, 201, "{answer}");
    let expected = json!({"username": "test", "groups": ["system:masters", "system:authenticated"]});
    assert_eq!(answer["status"]["userInfo"], expected);
    for (path, code) in [(path, 201), (REVIEWS, 403)] {
        let request = http::Request::post(path)
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Body::from(json!({"spec": {"token": token}}).to_string()))
            .unwrap();
        let request = match code {
            201 => request.map(|_| Body::from("{}")),
            _ => request,
        };
        assert_eq!(cluster.server.anonymous().oneshot(request).await.unwrap().status(), code, "{path}");
    }
    let (code, _) = cluster.rest("GET", REVIEWS, "").await;
    assert_eq!(code, 405);
    let (code, answer) = cluster.rest("GET", "/apis/authentication.k8s.io/v1", "").await;
    assert_eq!((code, answer["resources"].as_array().map(Vec::len)), (200, Some(2)));
    let (_, groups) = cluster.rest("GET", "/apis", "").await;
    assert!(
        groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "authentication.k8s.io")
    );
}

#[tokio::test]
async fn the_key_is_published_for_those_who_are_known() {
    let cluster = furnished().await;
    let (code, found) = cluster.rest("GET", "/.well-known/openid-configuration", "").await;
    assert_eq!((code, &found["issuer"]), (200, &json!("https://kubernetes.default.svc.cluster.local")));
    let (code, keys) = cluster.rest("GET", "/openid/v1/jwks", "").await;
    let key = &keys["keys"][0];
    assert_eq!(
        (code, &key["kty"], &key["crv"], &key["alg"], &key["use"]),
        (200, &json!("EC"), &json!("P-256"), &json!("ES256"), &json!("sig"))
    );
    assert!(key["d"].is_null(), "the private half stays here");
    let token = token(&cluster, "default", json!({})).await;
    use base64::Engine;
    let header =
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    assert_eq!((&header["kid"], &header["alg"]), (&key["kid"], &json!("ES256")));
    let (code, _) = as_bearer(&cluster, "/openid/v1/jwks", &format!("Bearer {token}")).await;
    assert_eq!(code, 200);
    let request = http::Request::get("/openid/v1/jwks").body(Body::empty()).unwrap();
    assert_eq!(cluster.server.anonymous().oneshot(request).await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_node_gets_tokens_for_its_own_pods_alone() {
    let cluster = furnished().await;
    let admin = cluster.admin();
    for (name, node) in [("mine", "n1"), ("theirs", "n2"), ("waiting", "")] {
        let mut pod = pod(name);
        pod.spec_mut().node_name = node.to_owned();
        admin.create(&pod).await.unwrap();
    }
    for (name, audience) in [("vault", "vault"), ("plain", "")] {
        let volume = json!({"name": "token", "projected": {"sources": [
            {"serviceAccountToken": {"audience": audience, "path": "token"}},
        ]}});
        let mut pod = pod(name);
        pod.spec_mut().node_name = "n1".to_owned();
        pod.spec_mut().automount_service_account_token = Some(audience.is_empty());
        pod.spec_mut().volumes = vec![serde_json::from_value(volume).unwrap()];
        admin.create(&pod).await.unwrap();
    }
    let ask_for = async |bound: Value, audiences: &[&str]| {
        let request = http::Request::post(format!("{ACCOUNTS}/default/token"))
            .header("content-type", "application/json")
            .body(Body::from(json!({"spec": {"boundObjectRef": bound, "audiences": audiences}}).to_string()))
            .unwrap();
        let node = cluster.server.in_process(User::node("n1"));
        node.oneshot(request).await.unwrap().status().as_u16()
    };
    let ask = async |bound: Value| ask_for(bound, &[]).await;
    let of = async |name: &str| admin.get::<Pod>("default", name).await.unwrap().meta().uid.clone();
    assert_eq!(ask(json!({"kind": "Pod", "name": "mine", "uid": of("mine").await})).await, 201);
    assert_eq!(ask(json!({"kind": "Pod", "name": "mine"})).await, 403, "without the uid");
    assert_eq!(ask(json!({"kind": "Pod", "name": "mine", "uid": of("theirs").await})).await, 409);
    assert_eq!(ask(json!({"kind": "Pod", "name": "theirs", "uid": of("theirs").await})).await, 403);
    assert_eq!(ask(json!({"kind": "Pod", "name": "waiting", "uid": of("waiting").await})).await, 403);
    assert_eq!(ask(json!({"kind": "Node", "name": "n1"})).await, 403);
    assert_eq!(ask(Value::Null).await, 403, "bound to nothing");

    // And of those, for audiences that a volume of the pod names.
    let own = "https://kubernetes.default.svc.cluster.local";
    let cases: [(&str, &[&str], u16); 8] = [
        ("mine", &[own], 201),
        ("plain", &[], 201),
        ("mine", &["vault"], 403),
        ("mine", &[own, "vault"], 403),
        ("vault", &["vault"], 201),
        ("vault", &["bank"], 403),
        ("vault", &["vault", "bank"], 403),
        ("vault", &[], 403),
    ];
    for (name, audiences, expected) in cases {
        let bound = json!({"kind": "Pod", "name": name, "uid": of(name).await});
        assert_eq!(ask_for(bound, audiences).await, expected, "{name} {audiences:?}");
    }
}

#[tokio::test]
async fn pods_act_as_an_account_and_mount_its_token() {
    let cluster = furnished().await;
    let admin = cluster.admin();
    let made = admin.create(&pod("p")).await.unwrap();
    let spec = made.spec();
    assert_eq!((&*spec.service_account_name, &*spec.service_account), ("default", "default"));
    let volume = &spec.volumes[0];
    assert!(volume.name.starts_with("kube-api-access-") && volume.name.len() == 21, "{}", volume.name);
    let mounts: Vec<_> =
        spec.containers[0].volume_mounts.iter().map(|m| (&*m.mount_path, m.read_only)).collect();
    assert_eq!(mounts, [("/var/run/secrets/kubernetes.io/serviceaccount", true)]);
    let shown = serde_json::to_value(volume.projected.as_ref().unwrap()).unwrap();
    assert_eq!(
        shown,
        json!({"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
            ]}},
        ]})
    );

    let mut quiet = account("quiet");
    quiet.automount_service_account_token = Some(false);
    quiet.image_pull_secrets = vec![yaml_secret("registry")];
    admin.create(&quiet).await.unwrap();
    let of = |name: &str, automount: Option<bool>| {
        let mut pod = pod(name);
        pod.spec_mut().service_account_name = "quiet".to_owned();
        pod.spec_mut().automount_service_account_token = automount;
        pod
    };
    let made = admin.create(&of("quiet", None)).await.unwrap();
    assert!(made.spec().volumes.is_empty() && made.spec().containers[0].volume_mounts.is_empty());
    assert_eq!(made.spec().image_pull_secrets, [yaml_secret("registry")]);
    let made = admin.create(&of("loud", Some(true))).await.unwrap();
    assert_eq!(made.spec().volumes.len(), 1, "the pod decides over its account");
    let mut own = of("own", None);
    own.spec_mut().image_pull_secrets = vec![yaml_secret("mine")];
    assert_eq!(admin.create(&own).await.unwrap().spec().image_pull_secrets, [yaml_secret("mine")]);

    let mut lost = pod("lost");
    lost.spec_mut().service_account_name = "nobody".to_owned();
    let error = admin.create(&lost).await.unwrap_err();
    let expected = "pods \"lost\" is forbidden: error looking up service account default/nobody: serviceaccount \
                    \"nobody\" not found";
    assert_eq!((error.code(), error.message()), (403, expected));
}

fn yaml_secret(name: &str) -> weir_proto::core::v1::LocalObjectReference {
    weir_proto::core::v1::LocalObjectReference { name: name.to_owned() }
}

#[tokio::test]
async fn every_namespace_has_an_account_and_the_authority_and_gets_them_back() {
    let cluster = furnished().await;
    let admin = cluster.admin();
    admin.create(&yaml::<Namespace>("{metadata: {name: shop}}")).await.unwrap();
    let authority = cluster.server.pki().authority.certificate_pem().to_owned();
    let right = async || {
        let is_right = async {
            loop {
                let map = admin.get::<ConfigMap>("shop", "kube-root-ca.crt").await;
                let account = admin.get::<ServiceAccount>("shop", "default").await;
                if account.is_ok() && map.is_ok_and(|map| map.data.get("ca.crt") == Some(&authority)) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, is_right).await.expect("the namespace is furnished");
    };
    right().await;
    let forged = json!({"data": {"ca.crt": "mine", "more": "x"}});
    let patched: ConfigMap =
        admin.patch("shop", "kube-root-ca.crt", patch_request::Type::Merge, forged).await.unwrap();
    assert_eq!(patched.data.len(), 2);
    right().await;
    admin.delete::<ConfigMap>("shop", "kube-root-ca.crt", |_| {}).await.unwrap();
    admin.delete::<ServiceAccount>("shop", "default", |_| {}).await.unwrap();
    right().await;
    // Others' maps are left alone.
    admin.create(&config_map("mine")).await.unwrap();
    assert_eq!(admin.get::<ConfigMap>("default", "mine").await.unwrap().data["a"], "b");
}

#[tokio::test]
async fn a_token_is_shown_over_a_socket_too_by_grpc_and_rest() {
    let cluster = Listening::start_with(|config| config.limits.anonymous_connections = 1).await;
    let admin = cluster.admin().await;
    let api = Cluster::token_of(&cluster.server).await;
    // Those who are known do not count among the strangers, of whom one may connect.
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = ResourcesClient::new(cluster.connect(None).await);
        let mut request = tonic::Request::new(nodes());
        request.metadata_mut().insert("authorization", format!("Bearer {api}").parse().unwrap());
        let refused = client.list(request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
        held.push(client);
    }
    drop(admin);
    let mut get = tonic::Request::new(GetRequest {
        r#ref: reference(weir_proto::find("", "v1", "Pod").unwrap(), "default", "p", ""),
    });
    get.metadata_mut().insert("authorization", "Bearer nonsense".parse().unwrap());
    let refused = held[0].get(get).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
}
