//! Writes what a node acknowledges to its DataplaneNode object.
//!
//! Coalesced: while one state is being written, any number of acknowledgements may pass; the newest is written next.
//! The object belongs to its Node and goes with it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use weir_proto::Resource;
use weir_proto::core::v1::Node;
use weir_proto::meta::v1::{MicroTime, OwnerReference};
use weir_proto::net::v1alpha1::{DataplaneNode, DataplaneNodeStatus};
use weir_proto::status::ApiError;
use weir_proto::weir::v1::DataplaneAck;

use crate::registry::Registry;

/// Between two writes for one node, at least, and for each node that there is: many nodes that acknowledge much are not
/// to keep the store from its work.
const LEAST_REST: Duration = Duration::from_millis(20);
const REST_PER_NODE: Duration = Duration::from_millis(2);
/// After a write that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of a node from before.
pub(super) fn known(registry: &Registry, node_name: &str) -> DataplaneNodeStatus {
    let object = registry.peek::<DataplaneNode>("", node_name);
    let status = object.and_then(|object| object.typed::<DataplaneNode>()?.status.clone());
    status.unwrap_or_default()
}

/// The state after one more acknowledgement. A batch that failed leaves the maps as they were; an agent that has
/// just started does not know at which revision that was (0).
pub(super) fn after(before: &DataplaneNodeStatus, ack: &DataplaneAck, now: MicroTime) -> DataplaneNodeStatus {
    if !ack.error.is_empty() {
        let revision = if ack.revision == 0 { before.revision } else { ack.revision };
        return DataplaneNodeStatus { revision, error: ack.error.clone(), ..before.clone() };
    }
    let advanced = ack.revision != before.revision || before.applied_at.is_none();
    DataplaneNodeStatus {
        revision: ack.revision,
        services: ack.services,
        backends: ack.backends,
        error: String::new(),
        applied_at: if advanced { Some(now) } else { before.applied_at },
    }
}

/// Writes each state it sees, the newest at least, until the sender is gone.
pub(super) async fn write_all(
    registry: Registry,
    node_name: String,
    mut states: watch::Receiver<DataplaneNodeStatus>,
) {
    while states.changed().await.is_ok() {
        let status = states.borrow_and_update().clone();
        if let Err(error) = write(&registry, &node_name, &status).await {
            tracing::warn!(node = node_name, %error, "cannot write what the dataplane holds");
            if states.has_changed().is_err() {
                // The session is over; the next one begins with the same news.
                return;
            }
            states.mark_changed();
            sleep(PAUSE).await;
        }
        sleep(rest(&registry)).await;
    }
}

fn rest(registry: &Registry) -> Duration {
    let nodes = registry.cache_of::<Node>().map_or(0, |nodes| nodes.len());
    REST_PER_NODE.saturating_mul(u32::try_from(nodes).unwrap_or(u32::MAX)).max(LEAST_REST)
}

async fn write(registry: &Registry, node_name: &str, status: &DataplaneNodeStatus) -> Result<(), ApiError> {
    let mut object = DataplaneNode { status: Some(status.clone()), ..DataplaneNode::default() };
    object.meta_mut().name = node_name.to_owned();
    match registry.write_status(object.clone()).await {
        Err(error) if error.is_not_found() => {
            object.meta_mut().owner_references = owner(registry, node_name)?;
            match registry.create_own(object.clone()).await {
                Err(error) if !error.is_already_exists() => return Err(error),
                _ => {}
            }
            registry.write_status(object).await.map(drop)
        }
        // A later session of this node has told more.
        Err(error) if error.is_invalid() => Ok(()),
        written => written.map(drop),
    }
}

fn owner(registry: &Registry, node_name: &str) -> Result<Vec<OwnerReference>, ApiError> {
    let node =
        registry.peek::<Node>("", node_name).ok_or_else(|| ApiError::not_found(Node::KIND, node_name))?;
    Ok(vec![OwnerReference {
        api_version: Node::KIND.api_version(),
        kind: Node::KIND.kind.to_owned(),
        name: node_name.to_owned(),
        uid: node.object.meta().uid.clone(),
        ..OwnerReference::default()
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_of_the_revision_and_errors_come_and_go() {
        let at = MicroTime::from_unix_micros;
        let ack = |revision: i64, error: &str| DataplaneAck {
            revision,
            error: error.to_owned(),
            services: 2,
            backends: 5,
        };
        let first = after(&DataplaneNodeStatus::default(), &ack(7, ""), at(1));
        assert_eq!(
            (first.revision, first.services, first.backends, first.applied_at),
            (7, 2, 5, Some(at(1)))
        );
        let report = DataplaneAck { error: "map is full".to_owned(), ..DataplaneAck::default() };
        let failed = after(&first, &report, at(2));
        assert_eq!(failed, DataplaneNodeStatus { error: "map is full".to_owned(), ..first });
        let healed = after(&failed, &ack(9, ""), at(3));
        assert_eq!((healed.revision, &*healed.error, healed.applied_at), (9, "", Some(at(3))));
    }
}
