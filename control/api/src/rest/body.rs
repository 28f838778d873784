//! Bodies of requests: limited in size, JSON or YAML.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use weir_proto::authentication::v1::TokenRequest;
use weir_proto::status::ApiError;
use weir_proto::{Object, Resource};

use crate::registry::read_json;

use super::Call;

/// As Kubernetes limits them.
const LARGEST: usize = 3 * 1024 * 1024;

pub(super) async fn bytes(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, LARGEST).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(ApiError::too_large(format!("Request entity too large: limit is {LARGEST}")))
        }
        Err(error) => Err(ApiError::bad_request(format!("read the request's body: {error}"))),
    }
}

/// The media type without its parameters; JSON if none is named.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let named = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    named.and_then(|value| value.split(';').next()).map_or("application/json", str::trim)
}

fn parse(media_type: &str, bytes: &[u8]) -> Result<Value, ApiError> {
    let broken =
        |error: &dyn std::fmt::Display| ApiError::bad_request(format!("read the request's body: {error}"));
    match media_type {
        "application/json" | "text/plain" | "" => {
            serde_json::from_slice(bytes).map_err(|error| broken(&error))
        }
        "application/yaml" => {
            let text = std::str::from_utf8(bytes).map_err(|error| broken(&error))?;
            let documents = weir_proto::yaml::documents(text).map_err(|error| broken(&error))?;
            match <[_; 1]>::try_from(documents) {
                Ok([document]) => Ok(document.value),
                Err(other) => Err(ApiError::bad_request(format!(
                    "the body has {} documents, one is expected",
                    other.len()
                ))),
            }
        }
        other => Err(ApiError::unsupported_media_type(format!(
            "the body is {other:?}; supported are application/json and application/yaml"
        ))),
    }
}

/// An optional JSON document.
pub(super) async fn optional(headers: &HeaderMap, body: Body) -> Result<Option<Value>, ApiError> {
    let bytes = bytes(body).await?;
    if bytes.is_empty() { Ok(None) } else { parse(media_type(headers), &bytes).map(Some) }
}

/// The object that the request carries, of the kind that its path takes; unknown fields are added to `warnings`.
pub(super) async fn object(
    call: &Call<'_>,
    headers: &HeaderMap,
    body: Body,
    warnings: &mut Vec<String>,
) -> Result<Box<dyn Object>, ApiError> {
    let bytes = bytes(body).await?;
    if bytes.is_empty() {
        return Err(ApiError::bad_request("the request has no body"));
    }
    let value = parse(media_type(headers), &bytes)?;
    if !value.is_object() {
        return Err(ApiError::bad_request("the body is not an object"));
    }
    let resource = &call.resource;
    let kind = match resource.subresource.as_str() {
        "" | "status" | "finalize" => resource.kind,
        "scale" => weir_proto::find("autoscaling", "v1", "Scale").ok_or_else(ApiError::no_such_path)?,
        "token" => TokenRequest::KIND,
        "binding" => weir_proto::find("", "v1", "Binding").ok_or_else(ApiError::no_such_path)?,
        "eviction" => weir_proto::find("policy", "v1", "Eviction").ok_or_else(ApiError::no_such_path)?,
        _ => return Err(ApiError::no_such_path()),
    };
    read_json(&call.context, kind, &value, warnings)
}
