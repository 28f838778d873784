//! The status of the Node object: from what the machine is, how it fares, and what was written before. Pure.

use std::collections::BTreeMap;

use weir_proto::Quantity;
use weir_proto::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSystemInfo,
};
use weir_proto::meta::v1::Time;

use super::{Machine, Readiness};
use crate::config::Config;

/// Memory that pods may not reserve: below it the node is under pressure.
const MEMORY_RESERVE: u64 = 100 << 20;
/// Of disk and inodes, this share must stay free.
const DISK_RESERVE_PERCENT: u64 = 5;
/// Of the process ids.
const TASK_RESERVE_PERCENT: u64 = 10;

pub(super) fn describe(
    node: &mut Node,
    config: &Config,
    machine: &Machine,
    readiness: &Readiness,
    now: Time,
) {
    let status = node.status_mut();
    status.capacity = resources(config, machine, 0);
    status.allocatable = resources(config, machine, MEMORY_RESERVE);
    status.addresses = vec![
        NodeAddress { r#type: "InternalIP".to_owned(), address: config.node_ip.to_string() },
        NodeAddress { r#type: "Hostname".to_owned(), address: config.node_name.clone() },
    ];
    let port = i32::from(config.listen.port());
    status.daemon_endpoints = Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port }) });
    status.node_info = Some(system_info(machine));
    for condition in conditions(machine, readiness) {
        set_condition(&mut status.conditions, condition, now);
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

fn resources(config: &Config, machine: &Machine, memory_reserve: u64) -> BTreeMap<String, Quantity> {
    let mut all = machine.resources(memory_reserve);
    all.insert("pods".to_owned(), Quantity::from_value(i64::from(config.max_pods)));
    all
}

fn system_info(machine: &Machine) -> NodeSystemInfo {
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    NodeSystemInfo {
        architecture: machine.architecture.to_owned(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: format!("weir://{}", env!("CARGO_PKG_VERSION")),
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

fn conditions(machine: &Machine, readiness: &Readiness) -> Vec<NodeCondition> {
    let condition = |kind: &str, status: bool, reason: &str, message: String| NodeCondition {
        r#type: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message,
        ..NodeCondition::default()
    };
    let below = |left: u64, of: u64, percent: u64| of > 0 && left < of / 100 * percent;
    let memory = machine.memory > 0 && machine.memory_available < MEMORY_RESERVE;
    let disk = below(machine.disk_available, machine.disk, DISK_RESERVE_PERCENT)
        || below(machine.inodes_available, machine.inodes, DISK_RESERVE_PERCENT);
    let tasks_left = machine.tasks_limit.saturating_sub(machine.tasks);
    let tasks = below(tasks_left, machine.tasks_limit, TASK_RESERVE_PERCENT);
    let pressure = |kind: &str, under: bool, yes: &str, no: &str, what: &str| {
        let message = format!("{what} {}", if under { "is running out" } else { "is sufficient" });
        condition(kind, under, if under { yes } else { no }, message)
    };
    vec![
        pressure(
            "MemoryPressure",
            memory,
            "KubeletHasInsufficientMemory",
            "KubeletHasSufficientMemory",
            "memory",
        ),
        pressure("DiskPressure", disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "disk space"),
        pressure(
            "PIDPressure",
            tasks,
            "KubeletHasInsufficientPID",
            "KubeletHasSufficientPID",
            "room for processes",
        ),
        match readiness {
            Readiness::Ready => condition("Ready", true, "KubeletReady", "the agent runs pods".to_owned()),
            Readiness::NotReady(why) => condition("Ready", false, "KubeletNotReady", why.clone()),
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

    fn config() -> Config {
        Config::try_parse_from([
            "weir-agent",
            "--node-name=n1",
            "--server=https://s:1",
            "--ca=/ca",
            "--state-dir=/s",
            "--uplink=eth0",
            "--node-ip=10.31.0.11",
            "--listen=10.31.0.11:10250",
        ])
        .expect("valid flags")
    }

    fn machine() -> Machine {
        Machine {
            cpus: 4,
            memory: 8 << 30,
            memory_available: 4 << 30,
            disk: 100 << 30,
            disk_available: 50 << 30,
            inodes: 1000,
            inodes_available: 500,
            tasks: 100,
            tasks_limit: 32768,
            ..Machine::default()
        }
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
        describe(&mut node, &config(), &machine(), &Readiness::Ready, Time::from_unix(100));
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
        ] {
            assert_eq!(status(&node, kind), expected, "{kind}");
        }
    }

    #[test]
    fn pressure_shows_and_transitions_keep_their_time() {
        let mut node = Node::default();
        let describe_at = |node: &mut Node, machine: &Machine, now: i64| {
            describe(node, &config(), machine, &Readiness::Ready, Time::from_unix(now));
        };
        describe_at(&mut node, &machine(), 100);
        let before = node.clone();
        describe_at(&mut node, &machine(), 110);
        assert!(same_but_for_heartbeats(&before, &node));
        let full = Machine { disk_available: 1 << 30, memory_available: 1 << 20, tasks: 32000, ..machine() };
        describe_at(&mut node, &full, 120);
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
