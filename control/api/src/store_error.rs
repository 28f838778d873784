//! What a client is told when the store fails: one mapping from the store's errors to the API's.

use weir_proto::status::ApiError;
use weir_store::Error;

/// Maps an error of an operation (a verb: "read", "write") on the store.
pub(crate) fn during(operation: &'static str) -> impl FnOnce(Error) -> ApiError {
    move |error| {
        let message = format!("{operation} the store: {error}");
        match error {
            Error::Compacted { .. } => ApiError::expired(format!(
                "the provided continue token or resourceVersion is too old: {error}; list again"
            )),
            Error::FutureRevision { .. } => ApiError::timeout(message),
            Error::TooLarge { .. } => ApiError::too_large(message),
            Error::Unavailable { .. } | Error::LeaseNotFound(_) => ApiError::unavailable(message),
            Error::NoSpace => ApiError::unavailable(message),
            Error::OutcomeUnknown { .. } => ApiError::timeout(message),
            other => {
                tracing::error!(error = %other, operation, "the store failed");
                ApiError::internal(message)
            }
        }
    }
}
