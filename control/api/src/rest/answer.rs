//! Answers: JSON with a code, and warnings where the user should see them.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};
use weir_proto::status::ApiError;

use crate::cache::CachedObject;
use crate::grpc::header_text;

/// Most warnings in an answer's headers.
const MOST_WARNINGS: usize = 16;

pub(super) fn text(code: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(super) fn value(code: StatusCode, value: &Value) -> Response {
    text(code, value.to_string())
}

pub(super) fn object(code: StatusCode, cached: &CachedObject, warnings: &[String]) -> Response {
    let mut response = text(code, cached.json().to_string());
    for warning in warnings.iter().take(MOST_WARNINGS) {
        let quoted = header_text(warning).replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::try_from(format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// A failure as its `Status`.
pub(crate) fn error(error: &ApiError) -> Response {
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = value(code, &status(error));
    let wait = error.0.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if wait > 0 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
    }
    response
}

pub(super) fn status(error: &ApiError) -> Value {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}});
    if let (Value::Object(status), Ok(Value::Object(said))) =
        (&mut status, serde_json::to_value(error.status()))
    {
        status.extend(said);
    }
    status
}

/// What a deletion answers when nothing is left.
pub(super) fn gone(cached: &CachedObject) -> Value {
    let (kind, meta) = (cached.object.kind(), cached.object.meta());
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {"name": meta.name, "group": kind.group, "kind": kind.plural, "uid": meta.uid},
    })
}
