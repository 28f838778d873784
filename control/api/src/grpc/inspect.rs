//! `weir.v1.Inspect`: what a node's kernel holds and what the node uses, asked of its agent.

use std::time::Duration;

use tonic::{Request, Response, Status};
use weir_proto::Resource;
use weir_proto::net::v1alpha1::DataplaneNode;
use weir_proto::status::ApiError;
use weir_proto::weir::v1 as pb;
use weir_proto::weir::v1::inspect_client::InspectClient;
use weir_proto::weir::v1::inspect_server::Inspect;

use super::caller;
use crate::agents::Agents;
use crate::auth::{self, Access, Verb};
use crate::registry::Registry;
use crate::usage;

/// An agent reads its maps in milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// A large node's tables.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

#[derive(Debug, Clone)]
pub(crate) struct InspectFace {
    pub(crate) registry: Registry,
    pub(crate) agents: Agents,
}

#[tonic::async_trait]
impl Inspect for InspectFace {
    async fn net(&self, request: Request<pb::NetRequest>) -> Result<Response<pb::NetTable>, Status> {
        let user = caller(request.extensions())?;
        let request = request.into_inner();
        if request.node_name.is_empty() {
            return Err(ApiError::bad_request("node_name is required").into());
        }
        let access = Access {
            verb: Verb::Get,
            kind: DataplaneNode::KIND,
            namespace: "",
            name: &request.node_name,
            subresource: "",
            filter: None,
        };
        auth::authorize(&user, &access, &self.registry).await?;
        let channel = self.agents.connect(&request.node_name).await?;
        let mut client = InspectClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
        let mut call = Request::new(request);
        call.set_timeout(PATIENCE);
        client.net(call).await
    }

    async fn stats(&self, request: Request<pb::StatsRequest>) -> Result<Response<pb::NodeStats>, Status> {
        let user = caller(request.extensions())?;
        let node = request.into_inner().node_name;
        if node.is_empty() {
            return Err(ApiError::bad_request("node_name is required").into());
        }
        usage::authorize(&user, &node, &self.registry).await?;
        Ok(Response::new(usage::of_node(&self.agents, &node).await?))
    }
}
