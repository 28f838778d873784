//! In which form a client wants its answer.

use axum::http::{HeaderMap, header};
use weir_proto::status::ApiError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    /// Rows of printer columns, as kubectl shows them.
    Table,
}

/// The first form of the `Accept` header that there is.
pub(super) fn form(headers: &HeaderMap) -> Result<Form, ApiError> {
    let mut accepted =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    if accepted.peek().is_none() {
        return Ok(Form::Json);
    }
    accepted.flat_map(|value| value.split(',')).find_map(known).ok_or_else(|| {
        let mut error = ApiError::bad_request(
            "only the following media types are accepted: application/json, \
             application/json;as=Table;v=v1;g=meta.k8s.io",
        );
        error.0.code = 406;
        "NotAcceptable".clone_into(&mut error.0.reason);
        error
    })
}

fn known(media_type: &str) -> Option<Form> {
    let mut parts = media_type.split(';').map(str::trim);
    if !matches!(parts.next(), Some("application/json" | "application/*" | "*/*")) {
        return None;
    }
    match parts.find_map(|part| part.strip_prefix("as=")) {
        None => Some(Form::Json),
        Some("Table") => Some(Form::Table),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(accept: &'static str) -> Option<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, http::HeaderValue::from_static(accept));
        form(&headers).ok()
    }

    #[test]
    fn the_first_known_form_counts() {
        assert_eq!(form(&HeaderMap::new()).unwrap(), Form::Json);
        assert_eq!(asked("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"), Some(Form::Table));
        assert_eq!(asked("application/vnd.kubernetes.protobuf, application/json"), Some(Form::Json));
        assert_eq!(
            asked("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"),
            Some(Form::Json)
        );
        assert_eq!(asked("*/*"), Some(Form::Json));
        assert_eq!(asked("application/vnd.kubernetes.protobuf"), None);
    }
}
