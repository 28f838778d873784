//! The gRPC face of the server in memory.

use futures::stream::{self, BoxStream, StreamExt};
use serde_json::Value;
use tonic::{Request, Response, Status};
use weir_proto::meta::v1::Time;
use weir_proto::status::ApiError;
use weir_proto::weir::v1::resources_server::Resources;
use weir_proto::weir::v1::watch_event::Type;
use weir_proto::weir::v1::{
    CreateRequest, DeleteCollectionRequest, DeleteCollectionResponse, DeleteRequest, DeleteResponse,
    GetRequest, KindRef, ListRequest, ListResponse, Object as Wire, ObjectRef, PatchRequest, UpdateRequest,
    WatchEvent, WatchRequest, object, patch_request,
};
use weir_proto::{Kind, Object, labels};

use super::FakeServer;
use super::state::Condition;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Resources for FakeServer {
    type WatchStream = BoxStream<'static, Result<WatchEvent, Status>>;

    async fn get(&self, request: Request<GetRequest>) -> Answer<Wire> {
        let (kind, wanted) = named(request.into_inner().r#ref)?;
        answer(self.state().get(kind, &wanted.namespace, &wanted.name))
    }

    async fn list(&self, request: Request<ListRequest>) -> Answer<ListResponse> {
        let request = request.into_inner();
        let (kind, chosen) = (kind(request.kind)?, chosen(&request.label_selector)?);
        let state = self.state();
        let objects = state.list(kind, &request.namespace).filter(|object| chosen(*object));
        let after: usize = request.continue_token.parse().unwrap_or(0);
        let mut items: Vec<Wire> = objects.skip(after).map(wire).collect();
        let limit = if request.limit > 0 { request.limit as usize } else { usize::MAX };
        let more = items.len() > limit;
        items.truncate(limit);
        Ok(Response::new(ListResponse {
            resource_version: state.revision().to_string(),
            continue_token: if more { (after + limit).to_string() } else { String::new() },
            items,
            remaining: 0,
        }))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Answer<Self::WatchStream> {
        let request = request.into_inner();
        let (kind, chosen) = (kind(request.kind)?, chosen(&request.label_selector)?);
        let state = self.state();
        if state.watches_paused {
            return Err(ApiError::unavailable("no watches for now").into());
        }
        let present: Vec<_> = if request.resource_version.is_empty() {
            let objects = state.list(kind, &request.namespace).filter(|object| chosen(*object));
            let revision = state.revision().to_string();
            let added = objects
                .map(|object| event(Type::Added, Some(object), object.meta().resource_version.clone()));
            added.chain([event(Type::Bookmark, None, revision)]).map(Ok).collect()
        } else {
            Vec::new()
        };
        let from = request.resource_version.parse().unwrap_or(state.revision());
        if from < state.compacted {
            return Err(ApiError::expired("the revision is too old").into());
        }
        let epoch = state.epoch;
        drop(state);
        let follow = Follow { server: self.clone(), kind, namespace: request.namespace, chosen, from, epoch };
        let changes = stream::unfold(follow, Follow::next).flat_map(stream::iter);
        Ok(Response::new(stream::iter(present).chain(changes).boxed()))
    }

    async fn create(&self, request: Request<CreateRequest>) -> Answer<Wire> {
        let request = request.into_inner();
        let (kind, wanted) = named(request.r#ref)?;
        if wanted.subresource == "binding" {
            return self.bind(kind, &wanted, &payload(request.object)?);
        }
        if wanted.subresource == "eviction" {
            let condition = Condition::default();
            return answer(
                self.change(|state| state.delete(kind, &wanted.namespace, &wanted.name, &condition)),
            );
        }
        if wanted.subresource == "token" {
            return self.token(kind, &wanted, &payload(request.object)?);
        }
        let mut object = decoded(kind, request.object)?;
        if kind.namespaced && object.meta().namespace.is_empty() {
            object.meta_mut().namespace = wanted.namespace;
        }
        if request.dry_run {
            return answer(Ok(object));
        }
        answer(self.change(|state| state.create(kind, object)))
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Answer<Wire> {
        let request = request.into_inner();
        let (kind, wanted) = named(request.r#ref)?;
        let object = decoded(kind, request.object)?;
        if request.dry_run {
            return answer(Ok(object));
        }
        answer(self.change(|state| state.update(kind, &wanted.subresource, object)))
    }

    async fn patch(&self, request: Request<PatchRequest>) -> Answer<Wire> {
        let request = request.into_inner();
        let (kind, wanted) = named(request.r#ref.clone())?;
        if request.r#type() != patch_request::Type::Merge {
            return Err(Status::unimplemented("this server knows merge patches only"));
        }
        let patch =
            serde_json::from_slice(&request.patch).map_err(|e| Status::invalid_argument(e.to_string()))?;
        answer(self.change(|state| {
            let mut value = state.get(kind, &wanted.namespace, &wanted.name)?.to_json();
            merge(&mut value, patch);
            let object = kind
                .from_json(&value, &mut Vec::new())
                .map_err(|error| ApiError::bad_request(error.to_string()))?;
            if request.dry_run { Ok(object) } else { state.update(kind, &wanted.subresource, object) }
        }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Answer<DeleteResponse> {
        let request = request.into_inner();
        let (kind, wanted) = named(request.r#ref)?;
        let condition = Condition {
            uid: request.uid,
            grace: request.grace_period_seconds,
            foreground: request.propagation_policy == "Foreground",
            orphan: request.propagation_policy == "Orphan",
        };
        let deleted = self.change(|state| match request.dry_run {
            true => state.get(kind, &wanted.namespace, &wanted.name),
            false => state.delete(kind, &wanted.namespace, &wanted.name, &condition),
        })?;
        Ok(Response::new(DeleteResponse { object: Some(wire(deleted.as_ref())) }))
    }

    async fn delete_collection(
        &self,
        request: Request<DeleteCollectionRequest>,
    ) -> Answer<DeleteCollectionResponse> {
        let request = request.into_inner();
        let (kind, chosen) = (kind(request.kind)?, chosen(&request.label_selector)?);
        let condition = Condition { grace: request.grace_period_seconds, ..Condition::default() };
        self.change(|state| {
            state.writable()?;
            let objects = state.list(kind, &request.namespace).filter(|object| chosen(*object));
            let names: Vec<_> =
                objects.map(|o| (o.meta().namespace.clone(), o.meta().name.clone())).collect();
            for (namespace, name) in &names {
                state.delete(kind, namespace, name, &condition)?;
            }
            Ok(Response::new(DeleteCollectionResponse { deleted: names.len() as i64 }))
        })
        .map_err(|error: ApiError| error.into())
    }
}

impl FakeServer {
    fn bind(&self, kind: &'static Kind, pod: &ObjectRef, binding: &[u8]) -> Answer<Wire> {
        let binding: weir_proto::core::v1::Binding =
            prost::Message::decode(binding).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let node = binding.target.unwrap_or_default().name;
        answer(self.change(|state| {
            let mut value = state.get(kind, &pod.namespace, &pod.name)?.to_json();
            value["spec"]["nodeName"] = Value::String(node);
            let object = kind
                .from_json(&value, &mut Vec::new())
                .map_err(|error| ApiError::bad_request(error.to_string()))?;
            state.update(kind, "binding", object)
        }))
    }

    /// Names the account, and which token of this server it is.
    fn token(&self, kind: &'static Kind, account: &ObjectRef, request: &[u8]) -> Answer<Wire> {
        let mut request: weir_proto::authentication::v1::TokenRequest =
            prost::Message::decode(request).map_err(|e| Status::invalid_argument(e.to_string()))?;
        answer(self.change(|state| {
            state.writable()?;
            state.get(kind, &account.namespace, &account.name)?;
            state.tokens += 1;
            let asked = request.spec.as_ref().and_then(|spec| spec.expiration_seconds).unwrap_or(3600);
            let now = Time::now();
            request.meta_mut().creation_timestamp = Some(now);
            let status = request.status.get_or_insert_default();
            status.token = format!("token {} of {}", state.tokens, account.name);
            status.expiration_timestamp =
                Some(Time::from_unix(now.unix() + state.token_life.unwrap_or(asked)));
            Ok(Box::new(request) as Box<dyn Object>)
        }))
    }
}

/// A watch past its present state.
struct Follow {
    server: FakeServer,
    kind: &'static Kind,
    namespace: String,
    chosen: Chosen,
    from: i64,
    epoch: u64,
}

impl Follow {
    /// The events since `from`, as soon as there are any; None once watches were broken.
    async fn next(mut self) -> Option<(Vec<Result<WatchEvent, Status>>, Follow)> {
        let server = self.server.clone();
        let mut changed = server.shared.changed.subscribe();
        loop {
            changed.mark_unchanged();
            {
                let state = server.state();
                if state.epoch != self.epoch {
                    return None;
                }
                if self.from < state.compacted {
                    drop(state);
                    return Some((vec![Err(ApiError::expired("too slow").into())], self.broken()));
                }
                let begin = state.log.partition_point(|logged| logged.revision <= self.from);
                let mine = state.log[begin..].iter().filter(|logged| {
                    logged.kind.kind == self.kind.kind
                        && (self.namespace.is_empty() || logged.object.meta().namespace == self.namespace)
                        && (self.chosen)(logged.object.as_ref())
                });
                let events: Vec<_> = mine
                    .map(|l| Ok(event(l.event, Some(l.object.as_ref()), l.revision.to_string())))
                    .collect();
                self.from = state.revision();
                if !events.is_empty() {
                    drop(state);
                    return Some((events, self));
                }
            }
            if changed.changed().await.is_err() {
                return None;
            }
        }
    }

    fn broken(mut self) -> Follow {
        self.epoch = u64::MAX;
        self
    }
}

type Chosen = Box<dyn Fn(&dyn Object) -> bool + Send>;

fn chosen(label_selector: &str) -> Result<Chosen, Status> {
    let selector =
        labels::Selector::parse(label_selector).map_err(|e| ApiError::bad_request(e.to_string()))?;
    Ok(Box::new(move |object| selector.matches(&object.meta().labels)))
}

fn kind(kind: Option<KindRef>) -> Result<&'static Kind, Status> {
    let kind = kind.unwrap_or_default();
    weir_proto::find(&kind.group, &kind.version, &kind.kind)
        .ok_or_else(|| Status::not_found(format!("no kind {}", kind.kind)))
}

fn named(wanted: Option<ObjectRef>) -> Result<(&'static Kind, ObjectRef), Status> {
    let mut wanted = wanted.unwrap_or_default();
    Ok((kind(wanted.kind.take())?, wanted))
}

fn payload(object: Option<Wire>) -> Result<Vec<u8>, Status> {
    match object.and_then(|object| object.payload) {
        Some(object::Payload::Protobuf(bytes)) => Ok(bytes),
        _ => Err(Status::invalid_argument("no protobuf object")),
    }
}

fn decoded(kind: &'static Kind, object: Option<Wire>) -> Result<Box<dyn Object>, Status> {
    kind.decode(&payload(object)?).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn answer(object: Result<Box<dyn Object>, ApiError>) -> Answer<Wire> {
    Ok(Response::new(wire(object?.as_ref())))
}

fn wire(object: &dyn Object) -> Wire {
    crate::verbs::object(object.kind().to_ref(), object.encode())
}

fn event(kind: Type, object: Option<&dyn Object>, resource_version: String) -> WatchEvent {
    WatchEvent { r#type: kind.into(), object: object.map(wire), resource_version }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().map(|target| target.remove(&key));
        } else {
            merge(&mut target[key], value);
        }
    }
}
