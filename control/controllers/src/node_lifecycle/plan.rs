//! What is to be said about a node: conditions of one that was not heard from, and taints that follow from its
//! conditions. Pure.
//!
//! **Invariant:** performing a plan and planning again at the same time gives an empty plan.

use std::time::Duration;

use weir_proto::core::v1::{Node, NodeCondition, Taint};
use weir_proto::meta::v1::Time;

use crate::runner::Next;

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
pub(super) const NO_EXECUTE: &str = "NoExecute";
const NO_SCHEDULE: &str = "NoSchedule";

/// Conditions that an agent reports, all of which are unknown once it is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Conditions that, being True, keep further pods away.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub(super) node: &'a Node,
    /// Since the agent was last heard from.
    pub(super) silent_for: Duration,
    /// How long it may be silent.
    pub(super) grace: Duration,
    /// When pods may be driven off this node, if it is down; None: not now, whatever happens (too many nodes are).
    pub(super) evict_from: Option<Time>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// All conditions, where they are to change.
    pub(super) conditions: Option<Vec<NodeCondition>>,
    /// All taints, where they are to change.
    pub(super) taints: Option<Vec<Taint>>,
    /// The agent's word about its pods does not count any more.
    pub(super) unreachable: bool,
    pub(super) next: Next,
}

pub(super) fn plan(observed: &Observed<'_>, now: Time) -> Plan {
    let node = observed.node;
    let before = &node.status().conditions;
    let conditions = match observed.silent_for >= observed.grace {
        true => silenced(before, now),
        false => before.clone(),
    };
    let ready = status(&conditions, "Ready");
    let (taints, held_back) = taints(observed, &conditions, now);
    let until_silent = observed.grace.checked_sub(observed.silent_for).filter(|left| !left.is_zero());
    Plan {
        unreachable: ready == Some("Unknown"),
        next: Next::earliest(until_silent.into_iter().chain(held_back)),
        conditions: (conditions != *before).then_some(conditions),
        taints: (taints != node.spec().taints).then_some(taints),
    }
}

fn silenced(before: &[NodeCondition], now: Time) -> Vec<NodeCondition> {
    let mut conditions = before.to_vec();
    for kind in REPORTED {
        match conditions.iter_mut().find(|condition| condition.r#type == kind) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = "NodeStatusUnknown".to_owned();
                condition.message = "The agent stopped posting node status.".to_owned();
                condition.last_transition_time = Some(now);
            }
            None => conditions.push(NodeCondition {
                r#type: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: "NodeStatusNeverUpdated".to_owned(),
                message: "The agent never posted node status.".to_owned(),
                last_transition_time: Some(now),
                last_heartbeat_time: None,
            }),
        }
    }
    conditions
}

pub(super) fn status<'a>(conditions: &'a [NodeCondition], kind: &str) -> Option<&'a str> {
    conditions.iter().find(|condition| condition.r#type == kind).map(|condition| condition.status.as_str())
}

/// The node's taints with ours as they should be, and how long those that drive pods off are held back.
fn taints(
    observed: &Observed<'_>,
    conditions: &[NodeCondition],
    now: Time,
) -> (Vec<Taint>, Option<Duration>) {
    let spec = observed.node.spec();
    let down = match status(conditions, "Ready") {
        Some("True") => None,
        Some("False") => Some(NOT_READY),
        // An agent that never said anything is as good as one that stopped.
        _ => Some(UNREACHABLE),
    };
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let mut held_back = None;
    if let Some(key) = down {
        wanted.push((key, NO_SCHEDULE));
        let there = spec.taints.iter().any(is_ours_to_evict);
        match observed.evict_from {
            Some(from) if there || from <= now => wanted.push((key, NO_EXECUTE)),
            Some(from) => held_back = Some(Duration::from_secs((from.unix() - now.unix()).max(1) as u64)),
            None => {}
        }
    }
    if spec.unschedulable {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    let pressed = PRESSURES.iter().filter(|(kind, _)| status(conditions, kind) == Some("True"));
    wanted.extend(pressed.map(|(_, key)| (*key, NO_SCHEDULE)));

    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> =
        spec.taints.iter().filter(|taint| !is_ours(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: String::new(),
                time_added: (effect == NO_EXECUTE).then_some(now),
            });
        }
    }
    (taints, held_back)
}

fn is_ours(taint: &Taint) -> bool {
    let no_schedule = taint.effect == NO_SCHEDULE;
    let pressure = PRESSURES.iter().any(|(_, key)| taint.key == *key);
    match taint.key.as_str() {
        NOT_READY | UNREACHABLE => no_schedule || taint.effect == NO_EXECUTE,
        UNSCHEDULABLE => no_schedule,
        _ => no_schedule && pressure,
    }
}

pub(super) fn is_ours_to_evict(taint: &Taint) -> bool {
    taint.effect == NO_EXECUTE && matches!(taint.key.as_str(), NOT_READY | UNREACHABLE)
}
