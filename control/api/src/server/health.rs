//! Health, for those who decide whether to send us anything: `/livez` says that the process answers, `/readyz` and
//! `/healthz` that it can serve. `/version` says what it is.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::sync::watch;

use crate::registry::Registry;

/// The version of Kubernetes whose API this is modelled on; clients compare themselves with it.
const KUBERNETES: (&str, &str) = ("1", "32");

#[derive(Debug, Clone)]
pub(super) struct Health {
    pub(super) registry: Registry,
    pub(super) prepared: watch::Receiver<bool>,
}

pub(super) fn routes(health: Health) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
        .route("/version", get(version))
        .with_state(health)
}

async fn ready(State(health): State<Health>) -> Response {
    let mut waiting = health.registry.not_ready();
    if !*health.prepared.borrow() {
        waiting.push("the cluster's namespaces");
    }
    if waiting.is_empty() {
        return "ok".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: waiting for {}\n", waiting.join(", ")))
        .into_response()
}

async fn version() -> Response {
    let (major, minor) = KUBERNETES;
    Json(json!({
        "major": major,
        "minor": minor,
        "gitVersion": format!("v{major}.{minor}.0+weir.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    }))
    .into_response()
}
