//! Gives each node its part of the cluster's address range, for its pods.
//!
//! **Invariant:** no two nodes have parts that overlap. What is taken is read from the nodes themselves, straight from
//! the server and by one worker, so that neither an old copy nor a restart can give a part twice; a node that is
//! deleted frees its part by being gone. Parts are given in turn rather than lowest first: a freed one rests for as
//! long as possible, since other nodes may still have routes to where it was.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use weir_client::{Change, Client, ListOptions, Modified, ObjectKey, Recorder};
use weir_proto::core::v1::Node;

use crate::Error;
use crate::caches::Caches;
use crate::cidr::Cidr;
use crate::runner::{Controller, Next, Runner};

/// Writes under way at a time.
const PARALLEL: usize = 16;

pub(crate) struct NodeIpamController {
    client: Client,
    caches: Caches,
    events: Recorder,
    cluster: Cidr,
    node_mask: u8,
}

/// The loop: all nodes at once, whenever one is there that has no part yet.
pub(crate) fn runner(
    client: &Client,
    caches: &Caches,
    cluster: Cidr,
    node_mask: u8,
) -> Runner<impl Controller> {
    let events = Recorder::new(client, "cidrAllocator", "");
    let controller =
        NodeIpamController { client: client.clone(), caches: caches.clone(), events, cluster, node_mask };
    // One worker and one key: parts are given one after another.
    Runner::new(controller, 1)
        .on(&caches.nodes, |change| if concerns(change) { vec![all()] } else { Vec::new() })
}

fn all() -> ObjectKey {
    ObjectKey::new("", "all nodes")
}

/// A node without its part, or one that frees its own.
fn concerns(change: &Change<Node>) -> bool {
    change.new.as_ref().is_none_or(|node| node.spec().pod_cidr.is_empty())
}

/// Which part each node without one is to get; None once they are all taken.
fn plan<'a>(nodes: &'a [Node], cluster: Cidr, node_mask: u8) -> Vec<(&'a Node, Option<Cidr>)> {
    let mut taken = BTreeSet::new();
    for node in nodes {
        let spec = node.spec();
        let ranges =
            spec.pod_cidrs.iter().chain([&spec.pod_cidr]).filter_map(|range| range.parse::<Cidr>().ok());
        taken.extend(ranges.filter_map(|range| cluster.overlap(node_mask, range)).flatten());
    }
    let parts = cluster.parts(node_mask).unwrap_or(0);
    let mut waiting: Vec<&Node> = nodes.iter().filter(|node| is_waiting(node)).collect();
    waiting.sort_by_key(|node| (node.meta().creation_timestamp, node.meta().name.clone()));
    let mut give = |node: &'a Node| {
        let after_last = taken.last().map_or(0, |last| last + 1);
        let index = (after_last..parts).chain(0..after_last).find(|index| !taken.contains(index));
        taken.extend(index);
        (node, index.map(|index| cluster.part(node_mask, index)))
    };
    waiting.into_iter().map(&mut give).collect()
}

fn is_waiting(node: &Node) -> bool {
    node.spec().pod_cidr.is_empty() && node.meta().deletion_timestamp.is_none()
}

impl Controller for NodeIpamController {
    fn name(&self) -> &'static str {
        "node-ipam"
    }

    fn keys(&self) -> Vec<ObjectKey> {
        vec![all()]
    }

    async fn reconcile(&self, _: &ObjectKey) -> Result<Next, Error> {
        if !self.caches.nodes.list().iter().any(|node| is_waiting(node)) {
            return Ok(Next::Change);
        }
        let api = self.client.api::<Node>();
        let nodes = api.list(&ListOptions::default()).await?.items;
        let mut none_left = false;
        let mut given = Vec::new();
        for (node, part) in plan(&nodes, self.cluster, self.node_mask) {
            let Some(part) = part else {
                let message = format!("Node {} status is now: CIDRNotAvailable", node.meta().name);
                self.events.warning(node, "CIDRNotAvailable", message);
                none_left = true;
                continue;
            };
            given.push(self.give(node, part));
        }
        stream::iter(given).buffer_unordered(PARALLEL).try_collect::<()>().await?;
        Ok(if none_left { Next::After(Duration::from_secs(60)) } else { Next::Change })
    }
}

impl NodeIpamController {
    /// Whatever else has changed about a new node meanwhile (its agent reports, its taints are lifted) has no say in
    /// which part it gets.
    async fn give(&self, node: &Node, part: Cidr) -> Result<(), Error> {
        let (api, name) = (self.client.api::<Node>(), &node.meta().name);
        let give = |now: &mut Node| {
            if now.meta().uid == node.meta().uid && is_waiting(now) {
                now.spec_mut().pod_cidr = part.to_string();
                now.spec_mut().pod_cidrs = vec![part.to_string()];
            }
        };
        match api.modify(name, give).await {
            Ok(Modified::Written(_)) => tracing::info!(node = name, %part, "gave the node its address range"),
            Ok(Modified::Unchanged(_)) => {}
            // Gone, and its part is free again.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn node(name: &str, cidr: &str) -> Node {
        let mut node = Node::default();
        node.meta_mut().name = name.to_owned();
        node.spec_mut().pod_cidr = cidr.to_owned();
        node
    }

    fn given(nodes: &[Node], cluster: &str) -> Vec<Option<String>> {
        let plan = plan(nodes, cluster.parse().unwrap(), 24);
        plan.into_iter().map(|(_, part)| part.map(|part| part.to_string())).collect()
    }

    #[test]
    fn parts_are_given_in_turn_and_reused_when_all_have_been() {
        let some = |text: &str| Some(text.to_owned());
        let nodes = [node("a", ""), node("b", "")];
        assert_eq!(given(&nodes, "10.32.0.0/16"), [some("10.32.0.0/24"), some("10.32.1.0/24")]);
        let nodes = [node("a", "10.32.7.0/24"), node("b", "")];
        assert_eq!(given(&nodes, "10.32.0.0/16"), [some("10.32.8.0/24")]);
        let nodes = [node("a", "10.32.3.0/24"), node("b", "")];
        assert_eq!(given(&nodes, "10.32.0.0/22"), [some("10.32.0.0/24")]);
        let nodes = [node("a", "10.32.0.0/22"), node("b", "")];
        assert_eq!(given(&nodes, "10.32.0.0/22"), [None]);
    }

    proptest! {
        #[test]
        fn whatever_comes_and_goes_no_two_nodes_overlap(steps in proptest::collection::vec((0u8..20, any::<bool>()), 0..120)) {
            let cluster: Cidr = "10.32.0.0/20".parse().unwrap();
            let mut nodes: BTreeMap<u8, Node> = BTreeMap::new();
            for (name, joins) in steps {
                if joins {
                    nodes.entry(name).or_insert_with(|| node(&name.to_string(), ""));
                } else {
                    nodes.remove(&name);
                }
                let all: Vec<Node> = nodes.values().cloned().collect();
                for (given, part) in plan(&all, cluster, 24) {
                    let index: u8 = given.meta().name.parse().unwrap();
                    if let (Some(part), Some(node)) = (part, nodes.get_mut(&index)) {
                        node.spec_mut().pod_cidr = part.to_string();
                    }
                }
                let given: Vec<&str> =
                    nodes.values().map(|n| n.spec().pod_cidr.as_str()).filter(|cidr| !cidr.is_empty()).collect();
                let distinct: BTreeSet<&str> = given.iter().copied().collect();
                prop_assert_eq!(given.len(), distinct.len());
                prop_assert_eq!(given.len(), nodes.len().min(16), "parts are left unused while nodes wait");
            }
        }
    }
}
