//! `/metrics`: what this process counts, for Prometheus. For administrators only: metrics tell much about a cluster.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use weir_proto::status::ApiError;

use crate::auth::{MASTERS, User};
use crate::metrics;
use crate::registry::Registry;
use crate::rest::answer;

pub(super) fn routes(registry: Registry) -> Router {
    Router::new().route("/metrics", get(scrape)).with_state(registry)
}

async fn scrape(State(registry): State<Registry>, request: Request) -> Response {
    let user = request.extensions().get::<User>();
    if !user.is_some_and(|user| user.is_in(MASTERS)) {
        let name = user.map_or("system:anonymous", |user| user.name.as_str());
        let message = format!("forbidden: User {name:?} cannot get path \"/metrics\"");
        return answer::error(&ApiError::forbidden(message));
    }
    registry.measure();
    match metrics::text() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => answer::error(&ApiError::internal(format!("write the metrics: {error}"))),
    }
}
