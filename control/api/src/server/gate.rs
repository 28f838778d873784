//! What every request passes first: it gets an id and a line in the log, must come from somebody known (health and
//! joining apart), and waits for nobody when the server has its hands full.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tracing::Instrument;
use weir_proto::status::ApiError;

use crate::auth::User;
use crate::random;
use crate::rest::answer;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Requests being worked on at a time; streams count only until they have begun.
const MOST_AT_WORK: usize = 1024;
/// Longest request id that is taken over from a client.
const LONGEST_ID: usize = 64;
/// Open to everyone.
const OPEN: [&str; 5] = ["/healthz", "/livez", "/readyz", "/version", "/weir.v1.NodeService/Join"];

#[derive(Debug, Clone)]
pub(super) struct Gate {
    at_work: Arc<Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        Gate { at_work: Arc::new(Semaphore::new(MOST_AT_WORK)) }
    }
}

pub(super) async fn pass(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(&request);
    let grpc = is_grpc(&request);
    let user = request.extensions().get::<User>().map(|user| user.name.clone());
    let span = tracing::info_span!(
        "request",
        id,
        method = %request.method(),
        path = request.uri().path(),
        user = user.as_deref().unwrap_or("-"),
    );
    let known = user.is_some() || OPEN.contains(&request.uri().path());
    let span_of_work = span.clone();
    let mut response = async move {
        if !known {
            return refuse(ApiError::unauthorized("Unauthorized"), grpc);
        }
        match gate.at_work.try_acquire() {
            Ok(_permit) => next.run(request).await,
            Err(_) => refuse(ApiError::too_many_requests("the server is busy, please try again", 1), grpc),
        }
    }
    .instrument(span_of_work)
    .await;
    let took = started.elapsed();
    let status = response.status().as_u16();
    let grpc_status =
        response.headers().get("grpc-status").and_then(|value| value.to_str().ok()).unwrap_or("");
    span.in_scope(|| {
        if response.status().is_server_error() {
            tracing::warn!(status, grpc_status, ?took, "answered");
        } else {
            tracing::debug!(status, grpc_status, ?took, "answered");
        }
    });
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID.clone(), id);
    }
    response
}

fn is_grpc(request: &Request) -> bool {
    request
        .headers()
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/grpc"))
}

fn refuse(error: ApiError, grpc: bool) -> Response {
    if grpc {
        tonic::Status::from(error).into_http::<axum::body::Body>()
    } else {
        answer::error(&error).into_response()
    }
}

fn request_id(request: &Request) -> String {
    let given = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let usable = |id: &&str| {
        !id.is_empty() && id.len() <= LONGEST_ID && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    match given.filter(usable) {
        Some(id) => id.to_owned(),
        None => random::hex(8).unwrap_or_default(),
    }
}
