//! The status of the Node object: from what the machine is, how it fares, and what was written before. Pure.

use std::collections::{BTreeMap, BTreeSet};

use weir_proto::Quantity;
use weir_proto::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSystemInfo,
};
use weir_proto::meta::v1::Time;

use super::{Machine, Readiness};
use crate::VERSION;
use crate::config::Config;
use crate::eviction::signals::{Pressure, Signal};

/// Why a new node is not ready at first.
const STARTING: &str = "the node's kernel does not hold the cluster's services yet";

pub(super) fn describe(
    node: &mut Node,
    config: &Config,
    machine: &Machine,
    readiness: &Readiness,
    pressures: &BTreeSet<Pressure>,
    now: Time,
) {
    let status = node.status_mut();
    (status.capacity, status.allocatable) = resources(config, machine);
    status.addresses = vec![
        NodeAddress { r#type: "InternalIP".to_owned(), address: config.node_ip.to_string() },
        NodeAddress { r#type: "Hostname".to_owned(), address: config.node_name.clone() },
    ];
    let port = i32::from(config.listen.port());
    status.daemon_endpoints = Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port }) });
    status.node_info = Some(system_info(machine));
    for condition in conditions(readiness, pressures) {
        let stays = *readiness == Readiness::Starting && is_of_the_agents_life(&condition);
        if !(stays && status.conditions.iter().any(|present| present.r#type == condition.r#type)) {
            set_condition(&mut status.conditions, condition, now);
        }
    }
}

/// Whether a write would only move heartbeats forward.
pub(super) fn same_but_for_heartbeats(old: &Node, new: &Node) -> bool {
    let still = |node: &Node| {
        let mut node = node.clone();
        for condition in &mut node.status_mut().conditions {
            condition.last_heartbeat_time = None;
        }
        node
    };
    still(old) == still(new)
}

/// What there is, and what of it is for pods: all but what the system and the agent keep, and what the hard eviction
/// thresholds keep free.
pub fn resources(
    config: &Config,
    machine: &Machine,
) -> (BTreeMap<String, Quantity>, BTreeMap<String, Quantity>) {
    let mut capacity = machine.resources(0);
    capacity.insert("pods".to_owned(), Quantity::from_value(i64::from(config.max_pods)));
    let kept_free = |signal: Signal, of: u64| -> u64 {
        let limits = config.eviction_hard.iter().filter(|limit| limit.signal == signal);
        limits.map(|limit| limit.below.of(of)).max().unwrap_or(0)
    };
    let reserved = |name: &str| {
        let all = config.system_reserved.iter().chain(&config.kube_reserved);
        all.filter(|(resource, _)| resource == name).map(|(_, amount)| *amount).collect::<Vec<_>>()
    };
    let mut allocatable = capacity.clone();
    for (name, amount) in &mut allocatable {
        let free = match name.as_str() {
            // What is set aside as huge pages is asked for by that name.
            "memory" => {
                kept_free(Signal::Memory, machine.memory).saturating_add(machine.huge_pages.values().sum())
            }
            "ephemeral-storage" => kept_free(Signal::NodeDisk, machine.disk),
            _ => 0,
        };
        let reserved = reserved(name);
        if free == 0 && reserved.is_empty() {
            continue;
        }
        if name == "cpu" {
            let kept: i128 = reserved.iter().map(Quantity::milli_value).sum();
            if kept > 0 {
                *amount =
                    Quantity::from_milli(i64::try_from((amount.milli_value() - kept).max(0)).unwrap_or(0));
            }
        } else {
            let kept: i128 = reserved.iter().map(Quantity::value).sum::<i128>() + i128::from(free);
            let left = i64::try_from((amount.value() - kept).max(0)).unwrap_or(0);
            *amount = if name == "pods" { Quantity::from_value(left) } else { Quantity::from_bytes(left) };
        }
    }
    (capacity, allocatable)
}

fn system_info(machine: &Machine) -> NodeSystemInfo {
    let version = format!("v{VERSION}");
    NodeSystemInfo {
        architecture: machine.architecture.to_owned(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: format!("weir://{VERSION}"),
        kernel_version: machine.kernel.clone(),
        kube_proxy_version: version.clone(),
        kubelet_version: version,
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".to_owned(),
        os_image: machine.os_image.clone(),
        system_uuid: machine.machine_id.clone(),
        ..NodeSystemInfo::default()
    }
}

/// What an agent knows only once it has started.
fn is_of_the_agents_life(condition: &NodeCondition) -> bool {
    matches!(condition.r#type.as_str(), "Ready" | "NetworkUnavailable")
}

fn conditions(readiness: &Readiness, pressures: &BTreeSet<Pressure>) -> Vec<NodeCondition> {
    let condition = |kind: &str, status: bool, reason: &str, message: &str| NodeCondition {
        r#type: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        ..NodeCondition::default()
    };
    let pressure = |pressure: Pressure, yes: (&str, &str), no: (&str, &str)| {
        let under = pressures.contains(&pressure);
        let (reason, message) = if under { yes } else { no };
        condition(pressure.as_str(), under, reason, message)
    };
    vec![
        match readiness {
            Readiness::Starting => condition("NetworkUnavailable", true, "PodNetworkNotOpen", STARTING),
            _ => condition("NetworkUnavailable", false, "PodNetworkOpen", "the pod network is open"),
        },
        pressure(
            Pressure::Memory,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            Pressure::Disk,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            Pressure::Pids,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        match readiness {
            Readiness::Ready => condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
            Readiness::Starting => condition("Ready", false, "KubeletNotReady", STARTING),
            Readiness::NotReady(why) => condition("Ready", false, "KubeletNotReady", why),
        },
    ]
}

fn set_condition(conditions: &mut Vec<NodeCondition>, mut new: NodeCondition, now: Time) {
    new.last_heartbeat_time = Some(now);
    match conditions.iter_mut().find(|old| old.r#type == new.r#type) {
        Some(old) => {
            let kept = if old.status == new.status { old.last_transition_time } else { None };
            new.last_transition_time = Some(kept.unwrap_or(now));
            *old = new;
        }
        None => {
            new.last_transition_time = Some(now);
            conditions.push(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    const FLAGS: [&str; 8] = [
        "weir-agent",
        "--node-name=n1",
        "--server=https://s:1",
        "--ca=/ca",
        "--state-dir=/s",
        "--uplink=eth0",
        "--node-ip=10.31.0.11",
        "--listen=10.31.0.11:10250",
    ];

    fn config() -> Config {
        Config::try_parse_from(FLAGS).expect("valid flags")
    }

    fn machine() -> Machine {
        Machine { cpus: 4, memory: 8 << 30, disk: 100 << 30, ..Machine::default() }
    }

    fn status<'a>(node: &'a Node, kind: &str) -> &'a str {
        node.status()
            .conditions
            .iter()
            .find(|condition| condition.r#type == kind)
            .map_or("", |found| &found.status)
    }

    #[test]
    fn a_node_says_what_it_has_and_where_it_is_asked() {
        let mut node = Node::default();
        describe(&mut node, &config(), &machine(), &Readiness::Ready, &BTreeSet::new(), Time::from_unix(100));
        assert_eq!(node.status().capacity["cpu"], Quantity::from_value(4));
        assert_eq!(node.status().allocatable["memory"], Quantity::from_bytes((8 << 30) - (100 << 20)));
        assert_eq!(node.status().capacity["pods"].to_string(), "110");
        let endpoint = node.status().daemon_endpoints.and_then(|endpoints| endpoints.kubelet_endpoint);
        assert_eq!(endpoint.map(|endpoint| endpoint.port), Some(10250));
        for (kind, expected) in [
            ("Ready", "True"),
            ("MemoryPressure", "False"),
            ("DiskPressure", "False"),
            ("PIDPressure", "False"),
            ("NetworkUnavailable", "False"),
        ] {
            assert_eq!(status(&node, kind), expected, "{kind}");
        }
    }

    #[test]
    fn an_agent_that_begins_takes_nothing_from_a_node_that_was_ready() {
        let mut node = Node::default();
        let mut say = |readiness: Readiness| {
            describe(&mut node, &config(), &machine(), &readiness, &BTreeSet::new(), Time::from_unix(100));
            (status(&node, "Ready").to_owned(), status(&node, "NetworkUnavailable").to_owned())
        };
        let as_said = |ready: &str, unavailable: &str| (ready.to_owned(), unavailable.to_owned());
        assert_eq!(say(Readiness::Starting), as_said("False", "True"), "a new node");
        assert_eq!(say(Readiness::Ready), as_said("True", "False"));
        assert_eq!(say(Readiness::Starting), as_said("True", "False"), "under another agent");
        assert_eq!(say(Readiness::NotReady("it goes".to_owned())), as_said("False", "False"));
    }

    #[test]
    fn what_is_reserved_is_not_for_pods() {
        let reserving = [
            "--system-reserved=cpu=500m,memory=1Gi",
            "--kube-reserved=memory=1Gi,pods=10",
            "--eviction-hard=memory.available<1Gi,nodefs.available<10%",
        ];
        let config = Config::try_parse_from(FLAGS.into_iter().chain(reserving)).expect("valid flags");
        let (capacity, allocatable) = resources(&config, &machine());
        assert_eq!(capacity["cpu"].to_string(), "4");
        let shown: Vec<_> = allocatable.iter().map(|(name, amount)| format!("{name} {amount}")).collect();
        assert_eq!(shown, ["cpu 3500m", "ephemeral-storage 90Gi", "memory 5Gi", "pods 100"]);
    }

    #[test]
    fn pressure_shows_and_transitions_keep_their_time() {
        let mut node = Node::default();
        let describe_at = |node: &mut Node, pressures: &[Pressure], now: i64| {
            let pressures = pressures.iter().copied().collect();
            describe(node, &config(), &machine(), &Readiness::Ready, &pressures, Time::from_unix(now));
        };
        describe_at(&mut node, &[], 100);
        let before = node.clone();
        describe_at(&mut node, &[], 110);
        assert!(same_but_for_heartbeats(&before, &node));
        describe_at(&mut node, &[Pressure::Memory, Pressure::Disk, Pressure::Pids], 120);
        assert!(!same_but_for_heartbeats(&before, &node));
        for kind in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
            assert_eq!(status(&node, kind), "True", "{kind}");
        }
        let changed = |kind: &str| {
            let found = node.status().conditions.iter().find(|condition| condition.r#type == kind);
            found.and_then(|condition| condition.last_transition_time).map(|time| time.unix())
        };
        assert_eq!((changed("Ready"), changed("DiskPressure")), (Some(100), Some(120)));
    }
}
