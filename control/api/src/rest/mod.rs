//! Kubernetes' REST on the registry: paths, queries and bodies in, JSON out. No decisions are made here.
//!
//! Served: discovery, the verbs of every kind, watches as lines of JSON, tables, subresources, logs, exec, attach and
//! port-forward over websockets, `metrics.k8s.io`. Bodies may be JSON or YAML, answers are JSON. Left out: Kubernetes' protobuf, server-side
//! apply, aggregated discovery (clients fall back to the plain one), SPDY outside of websockets, and schemas (the OpenAPI document
//! names operations and parameters only).

pub(crate) mod answer;
mod body;
mod discovery;
mod lists;
mod negotiate;
mod objects;
mod openapi;
mod path;
mod pod_logs;
mod port_forward;
mod query;
mod resource_metrics;
mod sessions;
mod spdy;
mod watches;

use std::convert::Infallible;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::response::Response;
use tokio_util::sync::CancellationToken;
use weir_proto::status::ApiError;

use crate::agents::Agents;
use crate::auth::User;
use crate::metrics;
use crate::registry::{Context, Registry};
use crate::tokens;
use path::{Place, Resource};
use query::Query;

#[derive(Clone)]
struct Rest {
    registry: Registry,
    agents: Agents,
    draining: CancellationToken,
}

/// What every request has: who asks, what about, and how.
struct Call<'a> {
    rest: &'a Rest,
    context: Context,
    resource: Resource,
    query: Query,
}

impl Call<'_> {
    /// Tells the metrics what the request is about, whatever becomes of it.
    fn note(&self, method: &Method) {
        let named = !self.resource.name.is_empty();
        let verb = match method.as_str() {
            "GET" if self.query.watch => "WATCH",
            "GET" if !named => "LIST",
            "GET" => "GET",
            "POST" => "POST",
            "PUT" => "PUT",
            "PATCH" => "PATCH",
            "DELETE" if !named => "DELETECOLLECTION",
            "DELETE" => "DELETE",
            _ => "other",
        };
        let resource = &self.resource;
        metrics::note(verb, resource.kind, &resource.namespace, &resource.name, &resource.subresource);
        if self.context.dry_run {
            metrics::note_dry_run();
        }
    }
}

pub(crate) fn service(
    registry: Registry,
    agents: Agents,
    draining: CancellationToken,
) -> impl tower::Service<Request, Response = Response, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    Router::new().fallback(handle).with_state(Rest { registry, agents, draining }).into_service()
}

async fn handle(State(rest): State<Rest>, request: Request) -> Response {
    match dispatch(&rest, request).await {
        Ok(response) => response,
        Err(error) => answer::error(&error),
    }
}

async fn dispatch(rest: &Rest, request: Request) -> Result<Response, ApiError> {
    let user = request.extensions().get::<User>().cloned();
    let user = user.ok_or_else(|| ApiError::unauthorized("Unauthorized"))?;
    if let Some(place) = resource_metrics::place(request.uri().path()) {
        let query = request.uri().query().unwrap_or_default();
        return resource_metrics::serve(rest, &user, request.method(), place, query).await;
    }
    let place = path::parse(request.uri().path())?;
    let resource = match place {
        Place::Resource(resource) => resource,
        document if request.method() == Method::GET => return discovery::document(&document),
        _ => return Err(not_allowed(request.method())),
    };
    let query = Query::parse(request.uri().query().unwrap_or_default())?;
    let context =
        Context { dry_run: query.dry_run, field_validation: query.field_validation, ..Context::new(user) };
    if tokens::is_review(resource.kind) && request.method() != Method::POST {
        return Err(not_allowed(request.method()));
    }
    let call = Call { rest, context, resource, query };
    let named = !call.resource.name.is_empty();
    call.note(request.method());
    let logs = call.resource.subresource == "log";
    match (request.method().as_str(), named) {
        ("GET", true) if logs => pod_logs::get(&call).await,
        ("GET" | "POST", true) if matches!(call.resource.subresource.as_str(), "exec" | "attach") => {
            sessions::open(&call, request).await
        }
        ("GET" | "POST", true) if call.resource.subresource == "portforward" => {
            port_forward::open(&call, request).await
        }
        ("GET", true) if !call.query.watch => objects::get(&call, request.headers()).await,
        ("GET", _) if call.query.watch => watches::watch(&call, request.headers()).await,
        ("GET", _) => lists::list(&call, request.headers()).await,
        ("POST", false) => objects::create(&call, request).await,
        ("POST", true) if !call.resource.subresource.is_empty() => objects::create(&call, request).await,
        ("PUT", true) => objects::update(&call, request).await,
        ("PATCH", true) => objects::patch(&call, request).await,
        ("DELETE", true) => objects::delete(&call, request).await,
        ("DELETE", false) => lists::delete_collection(&call, request).await,
        _ => Err(not_allowed(request.method())),
    }
}

fn not_allowed(method: &Method) -> ApiError {
    ApiError::method_not_allowed(format!("the server does not allow {method} on the requested resource"))
}
