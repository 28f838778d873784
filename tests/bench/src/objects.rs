//! The objects that loads are made of.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weir_proto::Resource;
use weir_proto::apps::v1::Deployment;
use weir_proto::core::v1::{Node, NodeStatus, Pod};
use weir_proto::meta::v1::{MicroTime, Time};

pub(crate) const NAMESPACE: &str = "default";
/// What the pods of a load are named after and labelled with.
pub(crate) const APP: &str = "bench";
/// What pods that run are made of; the node has it.
pub(crate) const IMAGE: &str = "weir.dev/echo:0.1.0";
/// The least that its program can be told to do.
pub(crate) const NOTHING: [&str; 2] = ["/echo", "exit"];
/// Nodes are spread over this many zones.
const ZONES: usize = 10;

pub(crate) fn node_name(index: usize) -> String {
    format!("node-{index:05}")
}

/// Four CPUs, 16 GiB, and room for 110 pods. What a node tells when it registers; its status comes behind.
pub(crate) fn node(index: usize) -> Result<Node> {
    let name = node_name(index);
    read(json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": format!("zone-{}", index % ZONES),
        }},
    }))
}

/// As an agent reports it.
pub(crate) fn node_status(index: usize) -> Result<NodeStatus> {
    let now = Time::now();
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "simulated",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    let resources = json!({"cpu": "4", "memory": "16Gi", "ephemeral-storage": "100Gi", "pods": "110"});
    let node: Node = read(json!({"status": {
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            {"type": "InternalIP", "address": address(index)},
            {"type": "Hostname", "address": node_name(index)},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "weir://simulated",
            "kernelVersion": "6.12.0", "kubeProxyVersion": "", "kubeletVersion": "v0.1.0", "machineID": "",
            "operatingSystem": "linux", "osImage": "Linux", "systemUUID": "",
        },
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
            condition("Ready", "True", "KubeletReady"),
        ],
    }}))?;
    Ok(node.status.unwrap_or_default())
}

/// Addresses that lead nowhere.
pub(crate) fn address(index: usize) -> String {
    format!("10.128.{}.{}", index / 250, 1 + index % 250)
}

pub(crate) fn lease(node: &str) -> Result<weir_proto::coordination::v1::Lease> {
    read(json!({
        "metadata": {"name": node, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": MicroTime::now()},
    }))
}

pub(crate) fn deployment(pods: usize) -> Result<Deployment> {
    read(json!({
        "metadata": {"name": APP, "namespace": NAMESPACE},
        "spec": {
            "replicas": pods,
            "selector": {"matchLabels": {"app": APP}},
            "template": {"metadata": {"labels": {"app": APP}}, "spec": pod_spec(&json!({}))},
        },
    }))
}

/// A pod that waits to be placed; `wishes` are added to its specification.
pub(crate) fn pod(index: usize, wishes: &Value) -> Result<Pod> {
    let name = format!("{APP}-{index}");
    read(json!({
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": name, "labels": {"app": APP}},
        "spec": pod_spec(wishes),
    }))
}

/// A pod that runs the demo's server, with a readiness probe or without one.
pub(crate) fn echo_pod(name: &str, probe: bool) -> Result<Pod> {
    let mut container = json!({
        "name": "main", "image": IMAGE, "args": ["serve", "--port", "8080"],
        "ports": [{"containerPort": 8080}],
    });
    if probe {
        container["readinessProbe"] = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 10});
    }
    // The server does not heed signals: its grace is waited for in full.
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [container]});
    let meta = json!({"name": name, "namespace": NAMESPACE, "labels": {"app": APP}});
    read(json!({"metadata": meta, "spec": spec}))
}

fn pod_spec(wishes: &Value) -> Value {
    let mut spec = json!({
        "containers": [{
            "name": "main",
            "image": "registry.example/bench:1",
            "resources": {"requests": {"cpu": "100m", "memory": "50Mi"}},
        }],
        "schedulerName": "default-scheduler",
    });
    if let (Value::Object(spec), Value::Object(wishes)) = (&mut spec, wishes) {
        spec.extend(wishes.clone());
    }
    spec
}

/// What an agent makes of a pod once it runs.
pub(crate) fn running(mut pod: Pod, node: usize, number: usize) -> Result<Pod> {
    let now = Time::now();
    let pod_ip = format!("10.{}.{}.{}", 32 + node / 256, node % 256, 1 + number % 254);
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"]
        .map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": now}));
    let told: Pod = read(json!({"status": {
        "phase": "Running",
        "conditions": conditions,
        "hostIP": address(node),
        "podIP": pod_ip,
        "podIPs": [{"ip": pod_ip}],
        "startTime": now,
        "containerStatuses": [{
            "name": "main", "ready": true, "started": true, "restartCount": 0,
            "image": "registry.example/bench:1", "imageID": "sha256:0", "containerID": "weir://0",
            "state": {"running": {"startedAt": now}},
        }],
    }}))?;
    let mut status = told.status.unwrap_or_default();
    status.qos_class = pod.status().qos_class.clone();
    pod.status = Some(status);
    Ok(pod)
}

fn read<R: Resource>(value: Value) -> Result<R> {
    let mut unknown = Vec::new();
    let object = R::KIND.from_json(&value, &mut unknown)?;
    anyhow::ensure!(unknown.is_empty(), "{} has no fields {unknown:?}", R::KIND.kind);
    object.as_any().downcast_ref::<R>().cloned().context("the object is of another kind")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_objects_have_only_fields_that_exist() {
        assert_eq!(node(12).unwrap().meta().name, "node-00012");
        assert_eq!(node_status(300).unwrap().addresses[0].address, "10.128.1.51");
        assert_eq!(deployment(7).unwrap().spec().replicas, Some(7));
        lease("node-00001").unwrap();
        echo_pod("echo", true).unwrap();
        let placed = running(pod(1, &json!({"nodeName": "node-00001"})).unwrap(), 1, 1).unwrap();
        assert_eq!(
            (placed.spec().node_name.as_str(), placed.status().phase.as_str()),
            ("node-00001", "Running")
        );
    }
}
