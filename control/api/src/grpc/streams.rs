//! `weir.v1.Streams`: bytes from containers, through the agent that runs them.

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use weir_proto::weir::v1 as pb;
use weir_proto::weir::v1::streams_server::Streams;

use super::caller;
use crate::agents::Agents;
use crate::logs;
use crate::registry::{Context, Registry};

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

    async fn exec(
        &self,
        _: Request<Streaming<pb::SessionInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        Err(Status::unimplemented("exec is not served yet"))
    }

    async fn attach(
        &self,
        _: Request<Streaming<pb::SessionInput>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        Err(Status::unimplemented("attach is not served yet"))
    }

    async fn port_forward(
        &self,
        _: Request<Streaming<pb::ForwardInput>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        Err(Status::unimplemented("port-forward is not served yet"))
    }

    async fn logs(&self, request: Request<pb::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let context = Context::new(caller(request.extensions())?);
        let chunks = logs::open(&self.registry, &self.agents, &context, request.into_inner()).await?;
        let draining = self.draining.clone().cancelled_owned();
        Ok(Response::new(chunks.map(|chunk| chunk.map_err(Status::from)).take_until(draining).boxed()))
    }
}
