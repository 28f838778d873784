//! `weir.v1.Streams`: bytes from containers, through the agent that runs them.

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use weir_proto::status::ApiError;
use weir_proto::weir::v1 as pb;
use weir_proto::weir::v1::streams_server::Streams;

use super::caller;
use crate::agents::Agents;
use crate::logs;
use crate::registry::{Context, Registry};
use crate::sessions;

#[derive(Debug, Clone)]
pub(crate) struct StreamsFace {
    pub(crate) registry: Registry,
    pub(crate) agents: Agents,
    pub(crate) draining: CancellationToken,
}

#[tonic::async_trait]
impl Streams for StreamsFace {
    type LogsStream = BoxStream<'static, Result<pb::LogsChunk, Status>>;
    type ExecStream = BoxStream<'static, Result<pb::SessionOutput, Status>>;
    type AttachStream = BoxStream<'static, Result<pb::SessionOutput, Status>>;
    type PortForwardStream = BoxStream<'static, Result<pb::ForwardOutput, Status>>;

    async fn logs(&self, request: Request<pb::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let context = Context::new(caller(request.extensions())?);
        let chunks = logs::open(&self.registry, &self.agents, &context, request.into_inner()).await?;
        let draining = self.draining.clone().cancelled_owned();
        Ok(Response::new(chunks.map(|chunk| chunk.map_err(Status::from)).take_until(draining).boxed()))
    }

    async fn exec(
        &self,
        request: Request<Streaming<pb::SessionInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        self.session(request, "exec").await
    }

    async fn attach(
        &self,
        request: Request<Streaming<pb::SessionInput>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        self.session(request, "attach").await
    }

    async fn port_forward(
        &self,
        request: Request<Streaming<pb::ForwardInput>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        let context = Context::new(caller(request.extensions())?);
        let mut inputs = request.into_inner();
        let first = inputs.message().await?.and_then(|input| input.frame);
        let Some(pb::forward_input::Frame::Forward(wanted)) = first else {
            return Err(ApiError::bad_request("the first message must be forward").into());
        };
        let inputs = inputs.scan((), |(), input| std::future::ready(input.ok()));
        let outputs = sessions::forward(&self.registry, &self.agents, &context, wanted, inputs).await?;
        let draining = self.draining.clone().cancelled_owned();
        Ok(Response::new(outputs.map(|output| output.map_err(Status::from)).take_until(draining).boxed()))
    }
}

impl StreamsFace {
    async fn session(
        &self,
        request: Request<Streaming<pb::SessionInput>>,
        wanted: &str,
    ) -> Result<Response<BoxStream<'static, Result<pb::SessionOutput, Status>>>, Status> {
        let context = Context::new(caller(request.extensions())?);
        let mut inputs = request.into_inner();
        let first = match (inputs.message().await?.and_then(|input| input.frame), wanted) {
            (Some(pb::session_input::Frame::Exec(exec)), "exec") => sessions::Request::Exec(exec),
            (Some(pb::session_input::Frame::Attach(attach)), "attach") => sessions::Request::Attach(attach),
            _ => return Err(ApiError::bad_request(format!("the first message must be {wanted}")).into()),
        };
        let checked = sessions::check(&self.registry, &context, first).await?;
        // An error is the client's end, which the other direction sees too.
        let inputs = inputs.scan((), |(), input| std::future::ready(input.ok()));
        let outputs = sessions::open(&self.agents, checked, inputs).await?;
        let draining = self.draining.clone().cancelled_owned();
        Ok(Response::new(outputs.map(|output| output.map_err(Status::from)).take_until(draining).boxed()))
    }
}
