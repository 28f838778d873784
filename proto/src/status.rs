//! What goes wrong, as Kubernetes' Status: the same reason, code and causes over gRPC and over REST.
//!
//! Over gRPC the encoded Status is the details of a [`tonic::Status`]; an error that comes without (from a proxy, say)
//! gets the reason nearest to its code.

use std::fmt;

use prost::Message;
use tonic::Code;

use crate::kind::Kind;
use crate::meta::v1::{Status, StatusCause, StatusDetails};

/// An API call's failure. Boxed, so that the results it is part of stay small.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError(pub Box<Status>);

/// Reason, HTTP code and gRPC code that go together. The first row with a gRPC code is what that code reads as.
const REASONS: [(&str, i32, Code); 16] = [
    ("NotFound", 404, Code::NotFound),
    ("AlreadyExists", 409, Code::AlreadyExists),
    ("Conflict", 409, Code::Aborted),
    ("BadRequest", 400, Code::InvalidArgument),
    ("Invalid", 422, Code::InvalidArgument),
    ("Unauthorized", 401, Code::Unauthenticated),
    ("Forbidden", 403, Code::PermissionDenied),
    ("Expired", 410, Code::OutOfRange),
    ("Gone", 410, Code::OutOfRange),
    ("TooManyRequests", 429, Code::ResourceExhausted),
    ("RequestEntityTooLarge", 413, Code::ResourceExhausted),
    ("MethodNotAllowed", 405, Code::Unimplemented),
    ("UnsupportedMediaType", 415, Code::Unimplemented),
    ("ServiceUnavailable", 503, Code::Unavailable),
    ("Timeout", 504, Code::DeadlineExceeded),
    ("InternalError", 500, Code::Internal),
];

impl ApiError {
    fn new(reason: &str, message: String) -> Self {
        let code = REASONS.iter().find(|(known, ..)| *known == reason).map_or(500, |(_, code, _)| *code);
        let status = "Failure".to_owned();
        Self(Box::new(Status { status, reason: reason.to_owned(), message, code, ..Status::default() }))
    }

    fn about(mut self, kind: &Kind, called: &str, name: &str) -> Self {
        self.0.details = Some(StatusDetails {
            group: kind.group.to_owned(),
            kind: called.to_owned(),
            name: name.to_owned(),
            ..StatusDetails::default()
        });
        self
    }

    pub fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} not found", kind.resource_name());
        Self::new("NotFound", message).about(kind, kind.plural, name)
    }

    /// Nothing is served at this path.
    pub fn no_such_path() -> Self {
        Self::new("NotFound", "the server could not find the requested resource".to_owned())
    }

    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.resource_name());
        Self::new("AlreadyExists", message).about(kind, kind.plural, name)
    }

    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.resource_name());
        Self::new("Conflict", message).about(kind, kind.plural, name)
    }

    /// A stale update.
    pub fn modified(kind: &Kind, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    /// The object breaks the rules of its kind: one cause for each field at fault.
    pub fn invalid(kind: &Kind, name: &str, causes: Vec<StatusCause>) -> Self {
        let list: Vec<_> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let list = if let [one] = list.as_slice() { one.clone() } else { format!("[{}]", list.join(", ")) };
        let called = if kind.group.is_empty() {
            kind.kind.to_owned()
        } else {
            format!("{}.{}", kind.kind, kind.group)
        };
        let mut error = Self::new("Invalid", format!("{called} {name:?} is invalid: {list}"))
            .about(kind, kind.kind, name);
        error.0.details.get_or_insert_default().causes = causes;
        error
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new("BadRequest", message.into())
    }

    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new("Unauthorized", message.into())
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new("Forbidden", message.into())
    }

    /// A continue token or resourceVersion older than what is kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new("Expired", message.into())
    }

    /// A watch that can no longer go on: list again.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new("Gone", message.into())
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new("RequestEntityTooLarge", message.into())
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        let mut error = Self::new("TooManyRequests", message.into());
        error.0.details = Some(StatusDetails { retry_after_seconds, ..StatusDetails::default() });
        error
    }

    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::new("MethodNotAllowed", message.into())
    }

    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new("UnsupportedMediaType", message.into())
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new("ServiceUnavailable", message.into())
    }

    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new("Timeout", message.into())
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new("InternalError", message.into())
    }

    pub fn status(&self) -> &Status {
        &self.0
    }

    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The HTTP status code; 500 when the Status says none that is one.
    pub fn code(&self) -> u16 {
        u16::try_from(self.0.code).ok().filter(|code| (400..600).contains(code)).unwrap_or(500)
    }

    pub fn causes(&self) -> &[StatusCause] {
        self.0.details.as_ref().map_or(&[], |details| &details.causes)
    }

    pub fn is_not_found(&self) -> bool {
        self.reason() == "NotFound"
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }

    pub fn is_conflict(&self) -> bool {
        self.reason() == "Conflict"
    }

    pub fn is_invalid(&self) -> bool {
        self.reason() == "Invalid"
    }

    pub fn is_gone(&self) -> bool {
        self.code() == 410
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for ApiError {}

/// Bytes of a message, and of all causes, that go into headers. Clients take 16 KiB of those, and what is said travels
/// in them twice: as it is, and in the details.
const LONGEST_MESSAGE: usize = 2048;
const LONGEST_CAUSES: usize = 3072;

impl ApiError {
    /// Leaves out what headers would not carry.
    fn shortened(mut self) -> Self {
        if self.0.message.len() > LONGEST_MESSAGE {
            let end =
                (0..=LONGEST_MESSAGE).rev().find(|end| self.0.message.is_char_boundary(*end)).unwrap_or(0);
            self.0.message.truncate(end);
            self.0.message.push('…');
        }
        if let Some(details) = &mut self.0.details {
            let mut bytes = 0;
            details.causes.retain(|cause| {
                bytes += cause.field.len() + cause.message.len() + cause.reason.len();
                bytes <= LONGEST_CAUSES
            });
        }
        self
    }
}

impl From<ApiError> for tonic::Status {
    fn from(error: ApiError) -> Self {
        let error = error.shortened();
        let code =
            REASONS.iter().find(|(reason, ..)| *reason == error.reason()).map_or(Code::Unknown, |row| row.2);
        let details = error.0.encode_to_vec();
        Self::with_details(code, error.0.message, details.into())
    }
}

impl From<tonic::Status> for ApiError {
    fn from(status: tonic::Status) -> Self {
        match Status::decode(status.details()) {
            Ok(carried) if !carried.reason.is_empty() => Self(Box::new(carried)),
            _ => {
                let reason = match status.code() {
                    // What the API itself calls expired carries details; this is the transport's limit on a message.
                    Code::OutOfRange => "RequestEntityTooLarge",
                    code => REASONS.iter().find(|row| row.2 == code).map_or("InternalError", |row| row.0),
                };
                Self::new(reason, status.message().to_owned())
            }
        }
    }
}

/// What is wrong with one field, in Kubernetes' words. `field` is its path: `spec.ports[0].port`.
impl StatusCause {
    fn of(reason: &str, field: impl Into<String>, message: String) -> Self {
        Self { reason: reason.to_owned(), field: field.into(), message }
    }

    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        Self::of("FieldValueRequired", field, format!("Required value{detail}"))
    }

    pub fn invalid(field: impl Into<String>, value: impl fmt::Debug, detail: &str) -> Self {
        Self::of("FieldValueInvalid", field, format!("Invalid value: {value:?}: {detail}"))
    }

    pub fn not_supported(field: impl Into<String>, value: impl fmt::Debug, supported: &[&str]) -> Self {
        let supported: Vec<_> = supported.iter().map(|value| format!("{value:?}")).collect();
        let message = format!("Unsupported value: {value:?}: supported values: {}", supported.join(", "));
        Self::of("FieldValueNotSupported", field, message)
    }

    pub fn duplicate(field: impl Into<String>, value: impl fmt::Debug) -> Self {
        Self::of("FieldValueDuplicate", field, format!("Duplicate value: {value:?}"))
    }

    pub fn not_found(field: impl Into<String>, value: impl fmt::Debug) -> Self {
        Self::of("FieldValueNotFound", field, format!("Not found: {value:?}"))
    }

    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::of("FieldValueForbidden", field, format!("Forbidden: {detail}"))
    }

    pub fn too_long(field: impl Into<String>, detail: &str) -> Self {
        Self::of("FieldValueTooLong", field, format!("Too long: {detail}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::resolve;

    #[test]
    fn every_reason_survives_grpc() {
        for (reason, code, _) in REASONS {
            let error = ApiError::new(reason, "why".to_owned());
            assert_eq!(i32::from(error.code()), code);
            assert_eq!(ApiError::from(tonic::Status::from(error.clone())), error);
        }
    }

    #[test]
    fn what_headers_would_not_carry_is_left_out() {
        let pod = resolve("pods").unwrap();
        let causes =
            (0..100).map(|index| StatusCause::invalid(format!("spec[{index}]"), "ü".repeat(100), "is wrong"));
        let error = ApiError::invalid(pod, &"x".repeat(1000), causes.collect());
        let status = tonic::Status::from(error);
        let mut headers = tonic::codegen::http::HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        assert!(bytes < 16 << 10, "{bytes}");
        let read = ApiError::from(status);
        assert_eq!((read.code(), read.causes()[0].field.as_str()), (422, "spec[0]"));
    }

    #[test]
    fn a_bare_grpc_error_gets_the_reason_of_its_code() {
        for (code, reason) in [
            (Code::NotFound, "NotFound"),
            (Code::OutOfRange, "RequestEntityTooLarge"),
            (Code::Unavailable, "ServiceUnavailable"),
            (Code::Unknown, "InternalError"),
        ] {
            let error = ApiError::from(tonic::Status::new(code, "so"));
            assert_eq!((error.reason(), error.message()), (reason, "so"));
        }
    }

    #[test]
    fn messages_are_those_that_kubectl_users_know() {
        let deployment = resolve("deploy").unwrap();
        assert_eq!(ApiError::not_found(deployment, "web").to_string(), "deployments.apps \"web\" not found");
        let causes = vec![
            StatusCause::required("spec.selector", ""),
            StatusCause::not_supported("spec.strategy.type", "Fast", &["Recreate", "RollingUpdate"]),
        ];
        assert_eq!(
            ApiError::invalid(deployment, "web", causes).to_string(),
            "Deployment.apps \"web\" is invalid: [spec.selector: Required value, spec.strategy.type: Unsupported \
             value: \"Fast\": supported values: \"Recreate\", \"RollingUpdate\"]"
        );
    }
}
