//! The gRPC faces: each method reads its request, calls the [registry](crate::registry), and writes the answer.
//! Warnings travel as response metadata `warning`, one entry each.

pub(crate) mod inspect;
pub(crate) mod maintenance;
pub(crate) mod nodes;
pub(crate) mod resources;
pub(crate) mod streams;
mod wire;

use tonic::metadata::MetadataValue;
use tonic::{Extensions, Response, Status};
use weir_proto::status::ApiError;

use crate::auth::User;

/// Largest request message; above what the store takes, so that its limit is the one that is reported.
pub(crate) const LARGEST_REQUEST: usize = 4 * 1024 * 1024;
/// Longest warning in a header.
const LONGEST_WARNING: usize = 256;
/// Most warnings in a response's metadata.
const MOST_WARNINGS: usize = 16;

/// The caller, as the connection established it.
pub(crate) fn caller(extensions: &Extensions) -> Result<User, ApiError> {
    extensions.get::<User>().cloned().ok_or_else(|| ApiError::unauthorized("Unauthorized"))
}

fn respond<T>(message: T, warnings: &[String]) -> Result<Response<T>, Status> {
    let mut response = Response::new(message);
    for warning in warnings.iter().take(MOST_WARNINGS) {
        if let Ok(value) = MetadataValue::try_from(header_text(warning)) {
            response.metadata_mut().append("warning", value);
        }
    }
    Ok(response)
}

/// What a header can carry of a text: printable ASCII, and not too much.
pub(crate) fn header_text(text: &str) -> String {
    text.chars().take(LONGEST_WARNING).map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}
