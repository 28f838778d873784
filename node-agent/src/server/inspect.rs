//! Views of the dataplane, read from the kernel's maps at the moment of the call, and what the node uses.

use tonic::{Request, Response, Status};
use weir_dataplane::View;
use weir_proto::status::ApiError;
use weir_proto::weir::v1::inspect_server::Inspect;
use weir_proto::weir::v1::{NetRequest, NetRow, NetTable, NodeStats, StatsRequest};

use super::Sources;

#[derive(Debug)]
pub(super) struct Service {
    sources: Sources,
}

impl Service {
    pub(super) fn new(sources: Sources) -> Self {
        Self { sources }
    }
}

#[tonic::async_trait]
impl Inspect for Service {
    async fn net(&self, request: Request<NetRequest>) -> Result<Response<NetTable>, Status> {
        let request = request.into_inner();
        let view: View = request
            .view
            .parse()
            .map_err(|error: weir_dataplane::UnknownView| ApiError::bad_request(error.to_string()))?;
        let table = self.sources.dataplane.call(move |dataplane| dataplane.view(view)).await;
        let table = table.map_err(|error| ApiError::internal(error.to_string()))?;
        let rows = table.rows.into_iter().map(|cells| NetRow { cells }).collect();
        Ok(Response::new(NetTable {
            node_name: self.sources.node_name.clone(),
            columns: table.columns,
            rows,
        }))
    }
    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<NodeStats>, Status> {
        Ok(Response::new(self.sources.measure().await?))
    }
}
