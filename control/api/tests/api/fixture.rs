//! A server over a store in a temporary directory, and clients of it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;
use weir_api::{Config, InProcess, Server, User};
use weir_proto::status::ApiError;
use weir_proto::weir::v1::{self as pb, object::Payload, resources_client::ResourcesClient};
use weir_proto::{Kind, Resource};

/// Nothing here takes longer, unless it hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    pub(crate) server: Server,
    _dir: TempDir,
}

impl Cluster {
    /// A server that is ready.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(configure: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = weir_store::embedded::open(dir.path().join("store")).unwrap();
        Self::over(Arc::new(store), dir, configure).await
    }

    /// A server over a store; `dir` is for its keys.
    pub(crate) async fn over(
        store: Arc<dyn weir_store::Store>,
        dir: TempDir,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        // Lists of a test show what the test made.
        let mut config = Config { furnish_namespaces: false, ..Config::new(dir.path()) };
        configure(&mut config);
        let server = Server::new(store, config).unwrap();
        let cluster = Cluster { server, _dir: dir };
        let ready = async {
            while cluster.rest("GET", "/readyz", "").await.0 != 200 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, ready).await.expect("the server gets ready");
        cluster
    }

    /// A token of the account `default/default`.
    pub(crate) async fn token_of(server: &Server) -> String {
        let request = http::Request::post("/api/v1/namespaces/default/serviceaccounts/default/token")
            .header("content-type", "application/json")
            .body(Body::from("{}"))
            .unwrap();
        let response = server.in_process(User::system("test")).oneshot(request).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        value["status"]["token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn admin(&self) -> Api {
        self.as_user(User::system("test"))
    }

    pub(crate) fn as_user(&self, user: User) -> Api {
        Api { client: ResourcesClient::new(self.server.in_process(user)) }
    }

    /// A REST request of an administrator: code and JSON (or text, as a JSON string).
    pub(crate) async fn rest(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        self.rest_with(method, path, "application/json", "application/json", body).await
    }

    pub(crate) async fn rest_with(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        accept: &str,
        body: impl AsRef<[u8]>,
    ) -> (u16, Value) {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .header("accept", accept)
            .body(Body::from(body.as_ref().to_vec()))
            .unwrap();
        let response = self.server.in_process(User::system("test")).oneshot(request).await.unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        (code, value)
    }
}

/// The gRPC client, with the types put back on.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) client: ResourcesClient<InProcess>,
}

pub(crate) fn reference(
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    subresource: &str,
) -> Option<pb::ObjectRef> {
    Some(pb::ObjectRef {
        kind: Some(kind.to_ref()),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
    })
}

pub(crate) fn wire<R: Resource>(object: &R) -> Option<pb::Object> {
    Some(pb::Object {
        kind: Some(R::KIND.to_ref()),
        payload: Some(Payload::Protobuf(object.encode_to_vec())),
    })
}

pub(crate) fn typed<R: Resource>(object: Option<pb::Object>) -> R {
    match object.unwrap().payload.unwrap() {
        Payload::Protobuf(bytes) => R::decode(&bytes[..]).unwrap(),
        Payload::Json(_) => panic!("JSON over gRPC"),
    }
}

/// An object from YAML.
pub(crate) fn yaml<R: Resource>(text: &str) -> R {
    let documents = weir_proto::yaml::documents(text).unwrap();
    let mut unknown = Vec::new();
    let object = R::KIND.from_json(&documents[0].value, &mut unknown).unwrap();
    assert_eq!(unknown, Vec::<String>::new());
    object.downcast_ref::<R>().unwrap().clone()
}

impl Api {
    pub(crate) async fn get<R: Resource>(&self, namespace: &str, name: &str) -> Result<R, ApiError> {
        let request = pb::GetRequest { r#ref: reference(R::KIND, namespace, name, "") };
        Ok(typed(Some(self.client.clone().get(request).await?.into_inner())))
    }

    pub(crate) async fn create<R: Resource>(&self, object: &R) -> Result<R, ApiError> {
        self.create_warned(object).await.map(|(object, _)| object)
    }

    pub(crate) async fn create_warned<R: Resource>(&self, object: &R) -> Result<(R, Vec<String>), ApiError> {
        let request = pb::CreateRequest {
            r#ref: reference(R::KIND, &object.meta().namespace, "", ""),
            object: wire(object),
            ..Default::default()
        };
        let response = self.client.clone().create(request).await?;
        let warnings = response.metadata().get_all("warning").iter();
        let warnings = warnings.map(|warning| warning.to_str().unwrap().to_owned()).collect();
        Ok((typed(Some(response.into_inner())), warnings))
    }

    pub(crate) async fn update<R: Resource>(&self, object: &R) -> Result<R, ApiError> {
        self.update_subresource(object, "").await
    }

    pub(crate) async fn update_subresource<R: Resource>(
        &self,
        object: &R,
        subresource: &str,
    ) -> Result<R, ApiError> {
        let meta = object.meta();
        let request = pb::UpdateRequest {
            r#ref: reference(R::KIND, &meta.namespace, &meta.name, subresource),
            object: wire(object),
            ..Default::default()
        };
        Ok(typed(Some(self.client.clone().update(request).await?.into_inner())))
    }

    pub(crate) async fn patch<R: Resource>(
        &self,
        namespace: &str,
        name: &str,
        kind: pb::patch_request::Type,
        patch: Value,
    ) -> Result<R, ApiError> {
        let request = pb::PatchRequest {
            r#ref: reference(R::KIND, namespace, name, ""),
            r#type: kind.into(),
            patch: patch.to_string().into_bytes(),
            ..Default::default()
        };
        Ok(typed(Some(self.client.clone().patch(request).await?.into_inner())))
    }

    pub(crate) async fn delete<R: Resource>(
        &self,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut pb::DeleteRequest),
    ) -> Result<R, ApiError> {
        let mut request =
            pb::DeleteRequest { r#ref: reference(R::KIND, namespace, name, ""), ..Default::default() };
        change(&mut request);
        Ok(typed(self.client.clone().delete(request).await?.into_inner().object))
    }

    pub(crate) async fn list<R: Resource>(
        &self,
        namespace: &str,
        change: impl FnOnce(&mut pb::ListRequest),
    ) -> Result<(Vec<R>, pb::ListResponse), ApiError> {
        let mut request = pb::ListRequest {
            kind: Some(R::KIND.to_ref()),
            namespace: namespace.to_owned(),
            ..Default::default()
        };
        change(&mut request);
        let mut response = self.client.clone().list(request).await?.into_inner();
        let items = std::mem::take(&mut response.items);
        Ok((items.into_iter().map(|item| typed(Some(item))).collect(), response))
    }

    pub(crate) async fn watch<R: Resource>(
        &self,
        namespace: &str,
        change: impl FnOnce(&mut pb::WatchRequest),
    ) -> Result<Events, ApiError> {
        let mut request = pb::WatchRequest {
            kind: Some(R::KIND.to_ref()),
            namespace: namespace.to_owned(),
            ..Default::default()
        };
        change(&mut request);
        Ok(Events { stream: self.client.clone().watch(request).await?.into_inner() })
    }
}

pub(crate) struct Events {
    stream: tonic::Streaming<pb::WatchEvent>,
}

impl Events {
    pub(crate) async fn next(&mut self) -> Result<pb::WatchEvent, ApiError> {
        let next = tokio::time::timeout(DEADLINE, self.stream.message()).await.expect("an event in time");
        Ok(next?.expect("the stream goes on"))
    }

    /// Type and name of the next event; a bookmark has no name.
    pub(crate) async fn next_named<R: Resource>(&mut self) -> (pb::watch_event::Type, String) {
        let event = self.next().await.unwrap();
        let name = event.object.clone().map(|object| typed::<R>(Some(object)).meta().name.clone());
        (event.r#type(), name.unwrap_or_default())
    }
}

pub(crate) fn config_map(name: &str) -> weir_proto::core::v1::ConfigMap {
    yaml(&format!(
        "{{metadata: {{name: {name}, namespace: default, labels: {{name: {name}}}}}, data: {{a: b}}}}"
    ))
}

pub(crate) fn pod(name: &str) -> weir_proto::core::v1::Pod {
    yaml(&format!(
        "{{metadata: {{name: {name}, namespace: default}}, spec: {{containers: [{{name: web, image: \"web:1\"}}]}}}}"
    ))
}
