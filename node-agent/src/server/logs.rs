//! Logs of containers, as a bounded stream that ends with its reader.
//!
//! Each stream holds one thread while it is read; there is a limit to how many there are.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use weir_proto::core::v1::Pod;
use weir_proto::status::ApiError;
use weir_proto::weir::v1::{LogsChunk, LogsRequest};
use weir_runtime::ContainerKey;
use weir_runtime::logs::{Cancel, LogOptions, LogReader};

use super::{Sources, target};

/// Lines that wait for the reader.
const CHUNKS: usize = 16;

pub(super) type Chunks = Pin<Box<dyn Stream<Item = Result<LogsChunk, Status>> + Send>>;

pub(super) async fn open(
    sources: &Sources,
    request: LogsRequest,
    permit: OwnedSemaphorePermit,
) -> Result<Chunks, ApiError> {
    let pod = target::pod(sources, &request.namespace, &request.pod)?;
    let key = container_key(&pod, &request, sources)?;
    let options = options(&request, Timestamp::now())?;
    let cancel = Cancel::new();
    let (runtime, stop) = (Arc::clone(&sources.runtime), cancel.clone());
    let open = move || runtime.logs(&key, options, stop);
    let reader = tokio::task::spawn_blocking(open).await.map_err(|_| ApiError::internal("interrupted"))?;
    let reader = reader.map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(stream(reader, cancel, permit))
}

fn stream(reader: LogReader, cancel: Cancel, permit: OwnedSemaphorePermit) -> Chunks {
    let (chunks, queue) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        for next in reader {
            let chunk = next
                .map(|mut data| {
                    data.shrink_to_fit();
                    LogsChunk { data }
                })
                .map_err(|error| ApiError::internal(error.to_string()).into());
            if chunks.blocking_send(chunk).is_err() {
                return;
            }
        }
    });
    // The thread may be waiting for the next line when the reader goes.
    let leave = CancelOnDrop(cancel);
    Box::pin(ReceiverStream::new(queue).map(move |chunk| {
        let _held = &leave;
        chunk
    }))
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The run to read: the latest, or the one before it.
fn container_key(pod: &Pod, request: &LogsRequest, sources: &Sources) -> Result<ContainerKey, ApiError> {
    let latest = target::latest_run(sources, pod, &request.container)?.key;
    let restart = if request.previous { latest.restart.checked_sub(1) } else { Some(latest.restart) };
    let restart = restart.ok_or_else(|| {
        let (name, pod) = (&latest.name, &pod.meta().name);
        ApiError::bad_request(format!("previous terminated container \"{name}\" in pod \"{pod}\" not found"))
    })?;
    Ok(ContainerKey { restart, ..latest })
}

fn options(request: &LogsRequest, now: Timestamp) -> Result<LogOptions, ApiError> {
    let count = |name: &str, number: Option<i64>| match number.map(u64::try_from) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        Some(Err(_)) => Err(ApiError::bad_request(format!("{name} must not be negative"))),
    };
    let since = count("sinceSeconds", request.since_seconds)?
        .and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds.cast_signed())).ok());
    Ok(LogOptions {
        tail_lines: count("tailLines", request.tail_lines)?,
        since,
        limit_bytes: count("limitBytes", request.limit_bytes)?,
        follow: request.follow,
        timestamps: request.timestamps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_counts_are_checked() {
        let now = Timestamp::from_second(1000).expect("a time");
        let request = LogsRequest { since_seconds: Some(10), tail_lines: Some(5), ..LogsRequest::default() };
        let found = options(&request, now).expect("good options");
        assert_eq!(found.since.map(Timestamp::as_second), Some(990));
        assert_eq!(found.tail_lines, Some(5));
        let error = options(&LogsRequest { tail_lines: Some(-1), ..LogsRequest::default() }, now)
            .expect_err("refused");
        assert_eq!(error.message(), "tailLines must not be negative");
    }
}
