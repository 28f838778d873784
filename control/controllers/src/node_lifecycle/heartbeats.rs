//! When each node was last heard from.
//!
//! Clocks of nodes need not agree with ours: what counts is when *we* saw the renewal change. This is a cache: after a
//! restart every node has its full grace again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use weir_proto::coordination::v1::Lease;
use weir_proto::core::v1::{Node, NodeCondition};
use weir_proto::meta::v1::{MicroTime, Time};

#[derive(Debug, Default)]
pub(super) struct Heartbeats {
    seen: Mutex<HashMap<String, Seen>>,
}

#[derive(Debug)]
struct Seen {
    mark: Mark,
    at: Instant,
}

/// What changes when an agent lives: it renews its lease, or at least its status.
#[derive(Debug, PartialEq)]
struct Mark {
    uid: String,
    renewed: Option<MicroTime>,
    reported: Option<Time>,
}

impl Heartbeats {
    /// Takes note of what is seen now, and says how long the node has been silent.
    pub(super) fn silent_for(&self, node: &Node, lease: Option<&Lease>, now: Instant) -> Duration {
        let mark = Mark {
            uid: node.meta().uid.clone(),
            renewed: lease.and_then(|lease| lease.spec().renew_time),
            reported: node.status().conditions.iter().filter_map(heartbeat).max(),
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get(&node.meta().name) {
            Some(seen) if seen.mark == mark => now.duration_since(seen.at),
            _ => {
                seen.insert(node.meta().name.clone(), Seen { mark, at: now });
                Duration::ZERO
            }
        }
    }

    pub(super) fn forget(&self, node: &str) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }
}

fn heartbeat(condition: &NodeCondition) -> Option<Time> {
    condition.last_heartbeat_time
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_silent_since_its_renewal_was_last_seen_to_change_whatever_its_clock_says() {
        let heartbeats = Heartbeats::default();
        let mut node = Node::default();
        node.meta_mut().name = "n1".to_owned();
        let lease = |renewed: i64| {
            let mut lease = Lease::default();
            lease.spec_mut().renew_time = Some(MicroTime::from_unix_micros(renewed));
            lease
        };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(heartbeats.silent_for(&node, Some(&lease(7)), at(0)), Duration::ZERO);
        assert_eq!(heartbeats.silent_for(&node, Some(&lease(7)), at(50)), Duration::from_secs(50));
        assert_eq!(heartbeats.silent_for(&node, Some(&lease(3)), at(60)), Duration::ZERO);
        assert_eq!(heartbeats.silent_for(&node, Some(&lease(3)), at(65)), Duration::from_secs(5));
        node.meta_mut().uid = "another".to_owned();
        assert_eq!(heartbeats.silent_for(&node, Some(&lease(3)), at(70)), Duration::ZERO);
        heartbeats.forget("n1");
        assert_eq!(heartbeats.silent_for(&node, None, at(99)), Duration::ZERO);
    }
}
