//! The kubelet's `/stats/summary`, whose shape monitoring tools know.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use weir_proto::weir::v1::{ContainerStats, FilesystemStats, NetworkStats, NodeStats, PodStats, Usage};

pub(crate) fn json(stats: &NodeStats) -> Value {
    let time = time(stats.time_nanos);
    let of_pod = |pod: &PodStats| {
        let containers: Vec<Value> =
            pod.containers.iter().map(|container| of_container(container, &time)).collect();
        let began = pod.containers.iter().map(|container| container.started_nanos).min().unwrap_or_default();
        let mut value = object(json!({
            "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "startTime": self::time(began),
            "containers": containers,
        }));
        value.extend(usage(pod.usage.as_ref(), &time));
        value.extend(network(pod.network.as_ref(), &time));
        Value::Object(value)
    };
    let pods: Vec<Value> = stats.pods.iter().map(of_pod).collect();
    let mut node = object(json!({"nodeName": stats.node_name}));
    node.extend(usage(stats.usage.as_ref(), &time));
    node.extend(network(stats.network.as_ref(), &time));
    if let Some(found) = &stats.filesystem {
        node.insert("fs".to_owned(), filesystem(found, &time));
    }
    json!({"node": node, "pods": pods})
}

fn of_container(container: &ContainerStats, time: &str) -> Value {
    let mut value = object(json!({"name": container.name, "startTime": self::time(container.started_nanos)}));
    value.extend(usage(container.usage.as_ref(), time));
    for (name, used) in [("rootfs", container.rootfs_used_bytes), ("logs", container.logs_used_bytes)] {
        if let Some(used) = used {
            value.insert(name.to_owned(), json!({"time": time, "usedBytes": used}));
        }
    }
    Value::Object(value)
}

fn usage(usage: Option<&Usage>, time: &str) -> Map<String, Value> {
    let Some(usage) = usage else { return Map::new() };
    let mut cpu = object(json!({"time": time, "usageCoreNanoSeconds": usage.cpu_nanoseconds}));
    if let Some(cores) = usage.cpu_nano_cores {
        cpu.insert("usageNanoCores".to_owned(), cores.into());
    }
    let mut memory = object(json!({
        "time": time,
        "usageBytes": usage.memory_usage_bytes,
        "workingSetBytes": usage.memory_working_set_bytes,
        "rssBytes": usage.memory_rss_bytes,
        "pageFaults": usage.page_faults,
        "majorPageFaults": usage.major_page_faults,
    }));
    if let Some(available) = usage.memory_available_bytes {
        memory.insert("availableBytes".to_owned(), available.into());
    }
    object(json!({"cpu": cpu, "memory": memory}))
}

fn network(network: Option<&NetworkStats>, time: &str) -> Map<String, Value> {
    let Some(network) = network else { return Map::new() };
    let figures = json!({
        "name": network.interface,
        "rxBytes": network.rx_bytes,
        "rxErrors": network.rx_errors,
        "txBytes": network.tx_bytes,
        "txErrors": network.tx_errors,
    });
    let mut value = object(figures.clone());
    value.insert("time".to_owned(), time.into());
    value.insert("interfaces".to_owned(), json!([figures]));
    object(json!({"network": value}))
}

fn filesystem(found: &FilesystemStats, time: &str) -> Value {
    json!({
        "time": time,
        "availableBytes": found.available_bytes,
        "capacityBytes": found.capacity_bytes,
        "usedBytes": found.used_bytes,
        "inodes": found.inodes,
        "inodesFree": found.inodes_free,
        "inodesUsed": found.inodes.saturating_sub(found.inodes_free),
    })
}

fn time(nanos: i64) -> String {
    Timestamp::from_nanosecond(nanos.into()).unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_the_kubelets_names() {
        let usage = Some(Usage {
            cpu_nano_cores: Some(5),
            memory_working_set_bytes: 7,
            memory_available_bytes: Some(9),
            ..Usage::default()
        });
        let container = ContainerStats { name: "c".to_owned(), usage, ..ContainerStats::default() };
        let pod =
            PodStats { name: "p".to_owned(), containers: vec![container], usage, ..PodStats::default() };
        let found =
            json(&NodeStats { node_name: "n".to_owned(), usage, pods: vec![pod], ..NodeStats::default() });
        assert_eq!(found["node"]["nodeName"], "n");
        assert_eq!(found["node"]["memory"]["availableBytes"], 9);
        let container = &found["pods"][0]["containers"][0];
        assert_eq!(
            (&container["cpu"]["usageNanoCores"], &container["memory"]["workingSetBytes"]),
            (&5.into(), &7.into())
        );
        assert_eq!(found["pods"][0]["podRef"]["name"], "p");
        assert_eq!(container["startTime"], "1970-01-01T00:00:00Z");
    }
}
