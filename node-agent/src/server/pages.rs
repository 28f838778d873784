//! What monitoring asks a kubelet for, under the same paths: `/stats/summary`, `/metrics` and `/metrics/cadvisor`, to the
//! same callers as everything else here.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};

use super::{Sources, allow};
use crate::stats;

pub(super) fn router(sources: Sources) -> Router {
    Router::new()
        .route("/stats/summary", get(summary))
        .route("/metrics", get(metrics))
        .route("/metrics/cadvisor", get(metrics))
        .route_layer(middleware::from_fn(authorize))
        .with_state(sources)
}

async fn authorize(request: Request, next: Next) -> Response {
    let certificates =
        request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>().and_then(TlsConnectInfo::peer_certs);
    match allow(certificates.as_deref().map(Vec::as_slice)) {
        Ok(()) => next.run(request).await,
        Err(error) => (StatusCode::FORBIDDEN, error.to_string()).into_response(),
    }
}

async fn summary(State(sources): State<Sources>) -> Response {
    match sources.measure().await {
        Ok(measured) => {
            let json = stats::summary(&measured).to_string();
            ([(header::CONTENT_TYPE, "application/json")], json).into_response()
        }
        Err(error) => failed(error),
    }
}

async fn metrics(State(sources): State<Sources>) -> Response {
    let measured = match sources.measure().await {
        Ok(measured) => measured,
        Err(error) => return failed(error),
    };
    match stats::metrics(&measured) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => failed(error),
    }
}

fn failed(error: impl std::fmt::Display) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
}
