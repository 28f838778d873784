//! What nodes and pods use, asked of the agents: of all at once, each within [`PATIENCE`]. Nothing is kept.

use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tokio::time::timeout;
use tonic::Request;
use weir_proto::Resource;
use weir_proto::core::v1::Node;
use weir_proto::status::ApiError;
use weir_proto::weir::v1::inspect_client::InspectClient;
use weir_proto::weir::v1::{NodeStats, StatsRequest};

use crate::agents::Agents;
use crate::auth::{self, Access, User, Verb};
use crate::registry::Registry;

/// An agent measures in milliseconds; one that is away must not hold up the others.
const PATIENCE: Duration = Duration::from_secs(5);
/// Agents that are asked at a time.
const ABREAST: usize = 64;
/// A node with more pods than anybody runs.
const LARGEST_ANSWER: usize = 16 * 1024 * 1024;

/// Whether `user` may see what nodes use, one or all.
pub(crate) async fn authorize(user: &User, node: &str, registry: &Registry) -> Result<(), ApiError> {
    let verb = if node.is_empty() { Verb::List } else { Verb::Get };
    let access =
        Access { verb, kind: Node::KIND, namespace: "", name: node, subresource: "stats", filter: None };
    auth::authorize(user, &access, registry).await
}

pub(crate) async fn of_node(agents: &Agents, node: &str) -> Result<NodeStats, ApiError> {
    let ask = async {
        let channel = agents.connect(node).await?;
        let mut client = InspectClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
        let answer = client.stats(Request::new(StatsRequest { node_name: node.to_owned() })).await;
        Ok(answer.map_err(|status| crate::sessions::lost(node, status))?.into_inner())
    };
    let late =
        |_| ApiError::timeout(format!("the agent of node {node:?} did not answer within {PATIENCE:?}"));
    timeout(PATIENCE, ask).await.map_err(late)?
}

/// Of the nodes that answer; the others are left out, as a metrics server leaves them out.
pub(crate) async fn of_nodes(agents: &Agents, nodes: Vec<String>) -> Vec<NodeStats> {
    let ask = |node: String| async move {
        let answer = of_node(agents, &node).await;
        answer.map_err(|error| tracing::debug!(node, %error, "no statistics")).ok()
    };
    stream::iter(nodes).map(ask).buffer_unordered(ABREAST).filter_map(std::future::ready).collect().await
}
