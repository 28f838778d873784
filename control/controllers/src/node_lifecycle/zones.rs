//! How fast nodes that are down may be emptied. Pure.
//!
//! When many nodes fall silent at once, the likely cause is the network between them and us, not the nodes; driving
//! all their pods off would make it worse. So one node of a zone follows another at intervals, which grow when most of
//! the zone is down, and when every node of the cluster is down nobody is driven off at all. The interval is counted
//! from what the taints themselves say, so that it needs no memory.

use weir_proto::core::v1::Node;
use weir_proto::meta::v1::Time;

use super::plan;

const ZONE: &str = "topology.kubernetes.io/zone";
/// Seconds between one node of a zone and the next.
const INTERVAL: i64 = 10;
/// The same, in a large zone that is mostly down.
const LONG_INTERVAL: i64 = 100;
/// Of the nodes in a zone: that many down make it mostly down.
const MOSTLY_DOWN: f64 = 0.55;
/// Smaller zones that are mostly down are left alone.
const LARGE: usize = 50;

/// When pods may be driven off `node`, given that it is down (which `nodes` may not show yet); None: not now.
pub(super) fn evict_from(node: &Node, nodes: &[impl AsRef<Node>]) -> Option<Time> {
    let is_down = |other: &Node| is_down(other) || other.meta().name == node.meta().name;
    let zone = zone_of(node);
    let of_zone = || nodes.iter().map(AsRef::as_ref).filter(|other| zone_of(other) == zone);
    let total = of_zone().count();
    let down = of_zone().filter(|node| is_down(node)).count();
    let all_down = nodes.iter().all(|node| is_down(node.as_ref()));
    if all_down {
        return None;
    }
    let mostly_down = down > 2 && down < total && down as f64 >= MOSTLY_DOWN * total as f64;
    if mostly_down && total <= LARGE {
        return None;
    }
    let interval = if mostly_down { LONG_INTERVAL } else { INTERVAL };
    let last = of_zone().filter_map(driven_off_at).max();
    Some(last.map_or(Time::from_unix(0), |last| Time::from_unix(last.unix() + interval)))
}

fn zone_of(node: &Node) -> Option<&str> {
    node.meta().labels.get(ZONE).map(String::as_str)
}

pub(super) fn is_down(node: &Node) -> bool {
    plan::status(&node.status().conditions, "Ready") != Some("True")
}

fn driven_off_at(node: &Node) -> Option<Time> {
    node.spec()
        .taints
        .iter()
        .filter(|taint| plan::is_ours_to_evict(taint))
        .filter_map(|taint| taint.time_added)
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use weir_proto::core::v1::{NodeCondition, Taint};

    fn node(zone: &str, ready: &str, driven_off: Option<i64>) -> Arc<Node> {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let mut node = Node::default();
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        node.meta_mut().name = format!("n{number}");
        node.meta_mut().labels.insert(ZONE.to_owned(), zone.to_owned());
        node.status_mut().conditions = vec![NodeCondition {
            r#type: "Ready".to_owned(),
            status: ready.to_owned(),
            ..NodeCondition::default()
        }];
        node.spec_mut().taints = driven_off
            .map(|at| Taint {
                key: plan::UNREACHABLE.to_owned(),
                effect: plan::NO_EXECUTE.to_owned(),
                time_added: Some(Time::from_unix(at)),
                ..Taint::default()
            })
            .into_iter()
            .collect();
        Arc::new(node)
    }

    fn nodes(zone: &str, up: usize, down: usize) -> Vec<Arc<Node>> {
        let up = (0..up).map(|_| node(zone, "True", None));
        let down = (0..down).map(|_| node(zone, "Unknown", None));
        down.chain(up).collect()
    }

    fn from(nodes: &[Arc<Node>]) -> Option<i64> {
        evict_from(&nodes[0], nodes).map(|time| time.unix())
    }

    #[test]
    fn a_single_node_is_emptied_at_once_and_the_next_after_an_interval() {
        assert_eq!(from(&nodes("a", 3, 1)), Some(0));
        let mut after_one = nodes("a", 3, 1);
        after_one.push(node("a", "Unknown", Some(500)));
        assert_eq!(from(&after_one), Some(510));
        let mut elsewhere = nodes("a", 3, 1);
        elsewhere.push(node("b", "Unknown", Some(500)));
        assert_eq!(from(&elsewhere), Some(0), "another zone's interval is none of ours");
    }

    #[test]
    fn when_everything_is_down_nobody_is_driven_off() {
        assert_eq!(from(&nodes("a", 0, 2)), None);
        let mut one_zone_of_two = nodes("a", 0, 2);
        one_zone_of_two.extend(nodes("b", 2, 0));
        assert_eq!(from(&one_zone_of_two), Some(0));
    }

    #[test]
    fn a_zone_that_is_mostly_down_is_left_alone_or_emptied_slowly() {
        assert_eq!(from(&nodes("a", 2, 3)), None);
        let mut large = nodes("a", 30, 40);
        large.push(node("a", "Unknown", Some(500)));
        assert_eq!(from(&large), Some(600));
    }
}
