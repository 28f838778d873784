//! Logs of containers, as a bounded stream that ends with its reader.
//!
//! Each stream holds one thread while it is read; there is a limit to how many there are.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use futures::stream::BoxStream;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use weir_proto::Resource;
use weir_proto::core::v1::Pod;
use weir_proto::status::ApiError;
use weir_proto::weir::v1::streams_server::Streams;
use weir_proto::weir::v1::{
    ForwardInput, ForwardOutput, LogsChunk, LogsRequest, SessionInput, SessionOutput,
};
use weir_runtime::ContainerKey;
use weir_runtime::logs::{Cancel, LogOptions, LogReader};

use super::Sources;

/// Streams at the same time.
const STREAMS: usize = 64;
/// Lines that wait for the reader.
const CHUNKS: usize = 16;

#[derive(Debug)]
pub(super) struct Service {
    sources: Sources,
    free: Arc<Semaphore>,
}

impl Service {
    pub(super) fn new(sources: Sources) -> Self {
        Self { sources, free: Arc::new(Semaphore::new(STREAMS)) }
    }
}

type Chunks = Pin<Box<dyn Stream<Item = Result<LogsChunk, Status>> + Send>>;

#[tonic::async_trait]
impl Streams for Service {
    type LogsStream = Chunks;
    type ExecStream = BoxStream<'static, Result<SessionOutput, Status>>;
    type AttachStream = BoxStream<'static, Result<SessionOutput, Status>>;
    type PortForwardStream = BoxStream<'static, Result<ForwardOutput, Status>>;

    async fn exec(&self, _: Request<Streaming<SessionInput>>) -> Result<Response<Self::ExecStream>, Status> {
        Err(Status::unimplemented("exec is not served yet"))
    }

    async fn attach(
        &self,
        _: Request<Streaming<SessionInput>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        Err(Status::unimplemented("attach is not served yet"))
    }

    async fn port_forward(
        &self,
        _: Request<Streaming<ForwardInput>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        Err(Status::unimplemented("port-forward is not served yet"))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Chunks>, Status> {
        let request = request.into_inner();
        let pod = self.sources.pods.get(&request.namespace, &request.pod);
        let pod = pod.ok_or_else(|| ApiError::not_found(Pod::KIND, &request.pod))?;
        let permit = Arc::clone(&self.free)
            .try_acquire_owned()
            .map_err(|_| ApiError::too_many_requests("this node reads as many logs as it can already", 5))?;
        let key = container_key(&pod, &request, &self.sources)?;
        let options = options(&request, Timestamp::now())?;
        let cancel = Cancel::new();
        let (runtime, stop) = (Arc::clone(&self.sources.runtime), cancel.clone());
        let open = move || runtime.logs(&key, options, stop);
        let reader =
            tokio::task::spawn_blocking(open).await.map_err(|_| ApiError::internal("interrupted"))?;
        let reader = reader.map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(Response::new(stream(reader, cancel, permit)))
    }
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
    let name = container_name(pod, &request.container)?;
    let uid = &pod.meta().uid;
    let runs = sources.runtime.list();
    let latest = runs
        .iter()
        .filter(|run| run.key.pod_uid == *uid && run.key.name == name)
        .map(|run| run.key.restart)
        .max();
    let Some(latest) = latest else {
        let message = format!("container \"{name}\" in pod \"{}\" is waiting to start", pod.meta().name);
        return Err(ApiError::bad_request(message));
    };
    let restart = if request.previous { latest.checked_sub(1) } else { Some(latest) };
    let restart = restart.ok_or_else(|| {
        let pod = &pod.meta().name;
        ApiError::bad_request(format!("previous terminated container \"{name}\" in pod \"{pod}\" not found"))
    })?;
    Ok(ContainerKey::new(uid, name, restart))
}

fn container_name(pod: &Pod, wanted: &str) -> Result<String, ApiError> {
    let spec = pod.spec();
    let all = || spec.containers.iter().chain(&spec.init_containers).map(|container| container.name.clone());
    let names = || all().collect::<Vec<_>>().join(" ");
    let pod = &pod.meta().name;
    if wanted.is_empty() {
        return match &spec.containers[..] {
            [only] => Ok(only.name.clone()),
            _ => Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {pod}, choose one of: [{}]",
                names()
            ))),
        };
    }
    let found = all().find(|name| name == wanted);
    found.ok_or_else(|| {
        ApiError::bad_request(format!(
            "container {wanted} is not valid for pod {pod}, which has: [{}]",
            names()
        ))
    })
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
    use weir_proto::core::v1::Container;

    use super::*;

    fn pod(containers: &[&str]) -> Pod {
        let mut pod = Pod::default();
        pod.meta_mut().name = "web".to_owned();
        let container = |name: &&str| Container { name: (*name).to_owned(), ..Container::default() };
        pod.spec_mut().containers = containers.iter().map(container).collect();
        pod
    }

    #[test]
    fn a_container_is_named_or_alone() {
        assert_eq!(container_name(&pod(&["a"]), ""), Ok("a".to_owned()));
        assert_eq!(container_name(&pod(&["a", "b"]), "b"), Ok("b".to_owned()));
        let message =
            |pod: &Pod, wanted: &str| container_name(pod, wanted).expect_err("refused").message().to_owned();
        assert_eq!(
            message(&pod(&["a", "b"]), ""),
            "a container name must be specified for pod web, choose one of: [a b]"
        );
        assert_eq!(message(&pod(&["a"]), "x"), "container x is not valid for pod web, which has: [a]");
    }

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
