//! What every request passes first: it gets an id, a line in the log and a place in the metrics, must come from somebody
//! known (health and joining apart) who does not ask too fast, and waits for nobody when the server has its hands full.
//!
//! Known is who showed a certificate when connecting, and else whose token the request bears. The checking of an
//! unknown token counts against the address that it comes from: guessing is slow.
//!
//! Requests of this process itself pass without limits: scheduler and controllers know how much they ask at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument;
use weir_proto::status::ApiError;

use super::budgets::Budget;
use super::connection::Remote;
use super::limits::Limits;
use crate::auth::User;
use crate::metrics::{self, Class};
use crate::random;
use crate::registry::Registry;
use crate::rest::answer;
use crate::tokens;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken over from a client.
const LONGEST_ID: usize = 64;
/// Open to everyone, with what is below them.
const OPEN: [&str; 5] = ["/healthz", "/livez", "/readyz", "/version", "/weir.v1.NodeService/Join"];
/// Bears a token of another kind.
const JOIN: &str = "/weir.v1.NodeService/Join";
/// Answered however much there is to do: who is not heard is taken for dead.
const HEALTH: [&str; 3] = ["/healthz", "/livez", "/readyz"];

#[derive(Debug, Clone)]
pub(super) struct Gate {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    timeout: Duration,
    registry: Registry,
}

impl Gate {
    pub(super) fn new(limits: &Limits, registry: Registry) -> Self {
        Gate {
            reads: Arc::new(Semaphore::new(limits.reads_in_flight)),
            writes: Arc::new(Semaphore::new(limits.writes_in_flight)),
            timeout: limits.request_timeout,
            registry,
        }
    }
}

/// A refusal, and by what it is counted.
struct Refusal {
    error: ApiError,
    limit: Option<&'static str>,
}

impl Refusal {
    fn by(limit: &'static str, error: ApiError) -> Self {
        Refusal { error, limit: Some(limit) }
    }
}

/// One of the requests at work.
struct AtWork {
    kind: &'static str,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        metrics::INFLIGHT.with_label_values(&[self.kind]).dec();
    }
}

impl Gate {
    /// Finds out whose token the request bears, where no certificate has told already.
    async fn identify(&self, request: &mut Request) -> Result<(), Refusal> {
        if request.extensions().get::<User>().is_some() || is_below(&[JOIN], request.uri().path()) {
            return Ok(());
        }
        let Some(header) = request.headers().get(http::header::AUTHORIZATION) else { return Ok(()) };
        let unauthorized = || Refusal { error: ApiError::unauthorized("Unauthorized"), limit: None };
        let token = header.to_str().ok().and_then(tokens::of_header).ok_or_else(unauthorized)?;
        let remote = request.extensions().get::<Remote>();
        if self.registry.tokens().known(token).is_none() {
            remote.map_or(Ok(()), |remote| take(remote.budget.as_deref()))?;
        }
        let started = Instant::now();
        let outcome = self.registry.tokens().authenticate(&self.registry, token).await;
        let result = match &outcome {
            Ok(_) => "success",
            Err(tokens::Refused::Unanswered(_)) => "error",
            Err(_) => "failure",
        };
        metrics::AUTHENTICATION_ATTEMPTS.with_label_values(&[result]).inc();
        let took = started.elapsed().as_secs_f64();
        metrics::AUTHENTICATION_DURATION.with_label_values(&[result]).observe(took);
        let user = match outcome {
            Ok(user) => user,
            Err(tokens::Refused::Unanswered(error)) => return Err(Refusal { error, limit: None }),
            Err(refused) => {
                tracing::debug!(%refused, "refused a token");
                return Err(unauthorized());
            }
        };
        metrics::TOKENS_VALID.inc();
        if let Some(remote) = remote {
            let known = remote.known_as(&user);
            request.extensions_mut().insert(known);
        }
        request.extensions_mut().insert(user);
        Ok(())
    }

    /// Who may go on, and holds a place while it does.
    fn admit(&self, request: &Request, class: Class) -> Result<AtWork, Refusal> {
        let path = request.uri().path();
        let remote = request.extensions().get::<Remote>();
        if request.extensions().get::<User>().is_none() && !is_below(&OPEN, path) {
            return Err(Refusal { error: ApiError::unauthorized("Unauthorized"), limit: None });
        }
        take(remote.and_then(|remote| remote.budget.as_deref()))?;
        let (kind, limit, places) = if class.mutates() {
            ("mutating", "concurrency-mutating", &self.writes)
        } else {
            ("readOnly", "concurrency-readOnly", &self.reads)
        };
        let permit = if remote.is_some() && !is_below(&HEALTH, path) {
            let permit = places.clone().try_acquire_owned().map_err(|_| {
                Refusal::by(limit, ApiError::too_many_requests("the server is busy, please try again", 1))
            })?;
            Some(permit)
        } else {
            None
        };
        metrics::INFLIGHT.with_label_values(&[kind]).inc();
        Ok(AtWork { kind, _permit: permit })
    }

    async fn answer(
        &self,
        identified: Result<(), Refusal>,
        request: Request,
        next: Next,
        class: Class,
    ) -> Result<Response, Refusal> {
        identified?;
        let _at_work = self.admit(&request, class)?;
        tokio::time::timeout(self.timeout, next.run(request)).await.map_err(|_| {
            let message = "Timeout: request did not complete within the allotted timeout";
            Refusal::by("timeout", ApiError::timeout(message))
        })
    }
}

/// One request's share of a budget.
fn take(budget: Option<&Budget>) -> Result<(), Refusal> {
    let Some(Err(wait)) = budget.map(Budget::take) else { return Ok(()) };
    let seconds = i32::try_from(wait.as_secs()).unwrap_or(i32::MAX).saturating_add(1);
    let message = "Too many requests, please try again later.";
    Err(Refusal::by("rate", ApiError::too_many_requests(message, seconds)))
}

pub(super) async fn pass(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(&request);
    let grpc = is_grpc(&request);
    let class = Class::of(request.method(), request.uri().path(), asks_to_watch(&request));
    let identified = gate.identify(&mut request).await;
    if let Some(user) = request.extensions().get::<User>() {
        metrics::AUTHENTICATED_REQUESTS.with_label_values(&[user.sort()]).inc();
    }
    let span = tracing::info_span!(
        "request",
        id,
        method = %request.method(),
        path = request.uri().path(),
        user = request.extensions().get::<User>().map_or("-", |user| user.name.as_str()),
    );
    let (outcome, notes) =
        metrics::noting(gate.answer(identified, request, next, class)).instrument(span.clone()).await;
    let mut response = match outcome {
        Ok(response) => response,
        Err(Refusal { error, limit }) => {
            if let Some(limit) = limit {
                metrics::REJECTED.with_label_values(&[limit]).inc();
                notes.count_terminated(class, error.code());
            }
            refuse(error, grpc)
        }
    };
    let took = started.elapsed();
    let code = code(&response);
    notes.count(class, code, took, axum::body::HttpBody::size_hint(response.body()).exact());
    span.in_scope(|| {
        if code >= 500 {
            tracing::warn!(code, ?took, "answered");
        } else {
            tracing::debug!(code, ?took, "answered");
        }
    });
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID.clone(), id);
    }
    metrics::long_running(&notes, class, response)
}

/// The HTTP code of an answer, or the one that its gRPC status stands for.
fn code(response: &Response) -> u16 {
    let failed = response.headers().get("grpc-status").is_some_and(|status| status != "0");
    match failed.then(|| tonic::Status::from_header_map(response.headers())).flatten() {
        Some(status) => ApiError::from(status).code(),
        None => response.status().as_u16(),
    }
}

fn is_below(known: &[&str], path: &str) -> bool {
    let below = |rest: &str| rest.is_empty() || rest.starts_with('/');
    known.iter().any(|known| path.strip_prefix(known).is_some_and(below))
}

fn asks_to_watch(request: &Request) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|part| matches!(part, "watch" | "watch=1" | "watch=true" | "watch=True"))
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
