//! Nodes and what their dataplanes hold.

use super::{NONE, UNKNOWN, age, or};
use crate::core::v1::Node;
use crate::meta::v1::Time;
use crate::net::v1alpha1::DataplaneNode;

pub(super) fn cells(node: &Node, now: Time) -> Vec<String> {
    let info = node.status().node_info.clone().unwrap_or_default();
    let address = |kind: &str| {
        let found = node.status().addresses.iter().find(|address| address.r#type == kind);
        found.map_or_else(|| NONE.to_owned(), |address| address.address.clone())
    };
    vec![
        status(node),
        roles(node),
        age(node.meta(), now),
        info.kubelet_version,
        address("InternalIP"),
        address("ExternalIP"),
        or(&info.os_image, UNKNOWN),
        or(&info.kernel_version, UNKNOWN),
        or(&info.container_runtime_version, UNKNOWN),
    ]
}

fn status(node: &Node) -> String {
    let ready = node.status().conditions.iter().find(|condition| condition.r#type == "Ready");
    let mut status = match ready {
        Some(ready) if ready.status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.spec().unschedulable {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(node: &Node) -> String {
    let role = |(key, value): (&String, &String)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some("") => None,
        Some(role) => Some(role.to_owned()),
        None => (key == "kubernetes.io/role" && !value.is_empty()).then(|| value.clone()),
    };
    let mut roles: Vec<_> = node.meta().labels.iter().filter_map(role).collect();
    roles.sort();
    roles.dedup();
    or(&roles.join(","), NONE)
}

pub(super) fn dataplane_cells(node: &DataplaneNode, now: Time) -> Vec<String> {
    let status = node.status();
    vec![
        status.revision.to_string(),
        status.services.to_string(),
        status.backends.to_string(),
        status.error.clone(),
        age(node.meta(), now),
    ]
}
