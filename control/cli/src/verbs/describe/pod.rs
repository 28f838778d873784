//! Pods.

use weir_proto::core::v1::{Container, Pod};

use super::container::{containers, tolerations, volumes};
use super::{labels, line, or_none, pairs, time};

pub(super) fn describe(out: &mut String, pod: &Pod) {
    let (meta, spec, status) = (pod.meta(), pod.spec(), pod.status());
    line!(out, "Name:\t{}", meta.name);
    line!(out, "Namespace:\t{}", meta.namespace);
    line!(out, "Priority:\t{}", spec.priority.unwrap_or_default());
    if !spec.priority_class_name.is_empty() {
        line!(out, "Priority Class Name:\t{}", spec.priority_class_name);
    }
    line!(out, "Service Account:\t{}", or_none(&spec.service_account_name));
    match (spec.node_name.as_str(), status.host_ip.as_str()) {
        ("", _) => line!(out, "Node:\t<none>"),
        (node, address) => line!(out, "Node:\t{node}/{address}"),
    }
    if status.start_time.is_some() {
        line!(out, "Start Time:\t{}", time(status.start_time));
    }
    labels(out, meta);
    match (meta.deletion_timestamp, meta.deletion_grace_period_seconds) {
        (Some(at), grace) => {
            line!(out, "Status:\tTerminating (since {})", time(Some(at)));
            line!(out, "Termination Grace Period:\t{}s", grace.unwrap_or_default());
        }
        (None, _) => line!(out, "Status:\t{}", status.phase),
    }
    for (title, text) in [("Reason", &status.reason), ("Message", &status.message)] {
        if !text.is_empty() {
            line!(out, "{title}:\t{}", text.trim().replace('\n', " "));
        }
    }
    line!(out, "IP:\t{}", status.pod_ip);
    if status.pod_ips.is_empty() {
        line!(out, "IPs:\t<none>");
    } else {
        line!(out, "IPs:");
        status.pod_ips.iter().for_each(|address| line!(out, "  IP:\t{}", address.ip));
    }
    if let Some(owner) = meta.owner_references.iter().find(|owner| owner.controller == Some(true)) {
        line!(out, "Controlled By:\t{}/{}", owner.kind, owner.name);
    }
    if !status.nominated_node_name.is_empty() {
        line!(out, "NominatedNodeName:\t{}", status.nominated_node_name);
    }
    if !spec.init_containers.is_empty() {
        containers(out, "", "Init Containers", &spec.init_containers, &status.init_container_statuses);
    }
    containers(out, "", "Containers", &spec.containers, &status.container_statuses);
    if !spec.ephemeral_containers.is_empty() {
        let ephemeral: Vec<_> = spec.ephemeral_containers.iter().map(Container::from).collect();
        containers(out, "", "Ephemeral Containers", &ephemeral, &status.ephemeral_container_statuses);
    }
    if !status.conditions.is_empty() {
        line!(out, "Conditions:\n  Type\tStatus");
        for condition in &status.conditions {
            line!(out, "  {}\t{}", condition.r#type, condition.status);
        }
    }
    volumes(out, "", &spec.volumes);
    line!(out, "QoS Class:\t{}", or_none(&status.qos_class));
    pairs(out, "", "Node-Selectors", &spec.node_selector, "=");
    tolerations(out, "", &spec.tolerations);
}
