//! What others need to check our tokens by themselves (OpenID Connect Discovery): who signs, and with which key. For those
//! who are known, as in Kubernetes.

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::ISSUER;
use crate::registry::Registry;
use crate::rest::answer;

const KEYS: &str = "/openid/v1/jwks";

pub(crate) fn routes(registry: Registry) -> Router {
    Router::new()
        .route("/.well-known/openid-configuration", get(configuration))
        .route(KEYS, get(keys))
        .with_state(registry)
}

fn document(content_type: &'static str, value: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "public, max-age=3600")];
    (headers, value.to_string()).into_response()
}

async fn configuration() -> Response {
    let value = json!({
        "issuer": ISSUER,
        "jwks_uri": format!("{ISSUER}{KEYS}"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    document("application/json", &value)
}

async fn keys(State(registry): State<Registry>) -> Response {
    match registry.tokens().keys().await {
        Ok(keys) => document("application/jwk-set+json", &json!({"keys": [keys.jwk()]})),
        Err(error) => answer::error(&error),
    }
}
