//! `weir.v1.Streams`: what comes out of containers and what goes in. Each call is one file beside this one.

use std::sync::Arc;

use futures::stream::BoxStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status, Streaming};
use weir_proto::status::ApiError;
use weir_proto::weir::v1::streams_server::Streams;
use weir_proto::weir::v1::{
    ForwardInput, ForwardOutput, LogsRequest, SessionInput, SessionOutput, forward_input, session_input,
};

use super::{Sources, attach, exec, forward, logs};

/// Logs that are read at the same time.
const LOGS: usize = 64;
/// Sessions at the same time.
const SESSIONS: usize = 256;
/// Streams of forwarded connections: clients may open one for each connection.
const FORWARDS: usize = 1024;

#[derive(Debug)]
pub(super) struct Service {
    sources: Sources,
    logs: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
    forwards: Arc<Semaphore>,
}

impl Service {
    pub(super) fn new(sources: Sources) -> Self {
        let free = |count| Arc::new(Semaphore::new(count));
        Self { sources, logs: free(LOGS), sessions: free(SESSIONS), forwards: free(FORWARDS) }
    }
}

fn permit(free: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit, ApiError> {
    Arc::clone(free).try_acquire_owned().map_err(|_| {
        ApiError::too_many_requests(format!("this node serves as many {what} as it can already"), 5)
    })
}

#[tonic::async_trait]
impl Streams for Service {
    type LogsStream = logs::Chunks;
    type ExecStream = BoxStream<'static, Result<SessionOutput, Status>>;
    type AttachStream = BoxStream<'static, Result<SessionOutput, Status>>;
    type PortForwardStream = BoxStream<'static, Result<ForwardOutput, Status>>;

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let permit = permit(&self.logs, "logs")?;
        Ok(Response::new(logs::open(&self.sources, request.into_inner(), permit).await?))
    }

    async fn exec(
        &self,
        request: Request<Streaming<SessionInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let permit = permit(&self.sessions, "sessions")?;
        let mut inputs = request.into_inner();
        let Some(session_input::Frame::Exec(request)) = inputs.message().await?.and_then(|input| input.frame)
        else {
            return Err(ApiError::bad_request("the first message must be exec").into());
        };
        Ok(Response::new(exec::open(&self.sources, request, inputs, permit).await?))
    }

    async fn attach(
        &self,
        request: Request<Streaming<SessionInput>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let permit = permit(&self.sessions, "sessions")?;
        let mut inputs = request.into_inner();
        let Some(session_input::Frame::Attach(request)) =
            inputs.message().await?.and_then(|input| input.frame)
        else {
            return Err(ApiError::bad_request("the first message must be attach").into());
        };
        Ok(Response::new(attach::open(&self.sources, request, inputs, permit).await?))
    }

    async fn port_forward(
        &self,
        request: Request<Streaming<ForwardInput>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        let permit = permit(&self.forwards, "forwarded connections")?;
        let mut inputs = request.into_inner();
        let Some(forward_input::Frame::Forward(request)) =
            inputs.message().await?.and_then(|input| input.frame)
        else {
            return Err(ApiError::bad_request("the first message must be forward").into());
        };
        Ok(Response::new(forward::open(&self.sources, request, inputs, permit).await?))
    }
}
