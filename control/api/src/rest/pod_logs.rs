//! `pods/log`: the bytes as they are.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures::StreamExt;
use weir_proto::status::ApiError;
use weir_proto::weir::v1::LogsRequest;

use super::Call;
use crate::logs;

pub(super) async fn get(call: &Call<'_>) -> Result<Response, ApiError> {
    let query = &call.query;
    let request = LogsRequest {
        namespace: call.resource.namespace.clone(),
        pod: call.resource.name.clone(),
        container: query.text("container").unwrap_or_default().to_owned(),
        follow: query.flag("follow")?,
        previous: query.flag("previous")?,
        tail_lines: query.number("tailLines")?,
        since_seconds: query.number("sinceSeconds")?,
        timestamps: query.flag("timestamps")?,
        limit_bytes: query.number("limitBytes")?,
    };
    let chunks = logs::open(&call.rest.registry, &call.rest.agents, &call.context, request).await?;
    let draining = call.rest.draining.clone().cancelled_owned();
    let bytes = chunks.map(|chunk| chunk.map(|chunk| bytes::Bytes::from(chunk.data))).take_until(draining);
    let mut response = Response::new(Body::from_stream(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}
