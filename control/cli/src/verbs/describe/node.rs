//! Nodes: their state, what they have, and what of it is promised to pods.

use std::collections::BTreeMap;

use anyhow::Result;
use weir_client::ListOptions;
use weir_proto::Quantity;
use weir_proto::core::v1::{Node, Pod};

use super::container::{list, quantities};
use super::{labels, line, or_none, time};
use crate::session::Session;

pub(super) async fn describe(session: &Session, out: &mut String, node: &Node) -> Result<()> {
    state(out, node);
    info(out, node);
    let list = ListOptions::fields(format!("spec.nodeName={}", node.meta().name));
    let mut pods = session.client.api::<Pod>().list(&list).await?.items;
    pods.retain(|pod| {
        let ended = matches!(pod.status().phase.as_str(), "Succeeded" | "Failed");
        pod.spec().node_name == node.meta().name && !ended
    });
    promised(session, out, node, &pods);
    Ok(())
}

fn state(out: &mut String, node: &Node) {
    let (meta, spec, status) = (node.meta(), node.spec(), node.status());
    line!(out, "Name:\t{}", meta.name);
    let roles: Vec<&str> =
        meta.labels.keys().filter_map(|label| label.strip_prefix("node-role.kubernetes.io/")).collect();
    line!(out, "Roles:\t{}", or_none(&roles.join(",")));
    labels(out, meta);
    line!(out, "CreationTimestamp:\t{}", time(meta.creation_timestamp));
    let taints: Vec<String> = spec
        .taints
        .iter()
        .map(|taint| match taint.value.as_str() {
            "" => format!("{}:{}", taint.key, taint.effect),
            value => format!("{}={value}:{}", taint.key, taint.effect),
        })
        .collect();
    let (first, rest) =
        taints.split_first().map_or(("<none>", &[][..]), |(first, rest)| (first.as_str(), rest));
    line!(out, "Taints:\t{first}");
    rest.iter().for_each(|taint| line!(out, "\t{taint}"));
    line!(out, "Unschedulable:\t{}", spec.unschedulable);
    line!(out, "Conditions:\n  Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage");
    line!(out, "  ----\t------\t-----------------\t------------------\t------\t-------");
    for condition in &status.conditions {
        line!(
            out,
            "  {}\t{}\t{}\t{}\t{}\t{}",
            condition.r#type,
            condition.status,
            time(condition.last_heartbeat_time),
            time(condition.last_transition_time),
            condition.reason,
            condition.message
        );
    }
    line!(out, "Addresses:");
    for address in &status.addresses {
        line!(out, "  {}:\t{}", address.r#type, address.address);
    }
    quantities(out, "", "Capacity", &status.capacity);
    quantities(out, "", "Allocatable", &status.allocatable);
}

fn info(out: &mut String, node: &Node) {
    let info = node.status().node_info.clone().unwrap_or_default();
    line!(out, "System Info:");
    for (title, text) in [
        ("Machine ID", &info.machine_id),
        ("System UUID", &info.system_uuid),
        ("Boot ID", &info.boot_id),
        ("Kernel Version", &info.kernel_version),
        ("OS Image", &info.os_image),
        ("Operating System", &info.operating_system),
        ("Architecture", &info.architecture),
        ("Container Runtime Version", &info.container_runtime_version),
        ("Kubelet Version", &info.kubelet_version),
    ] {
        line!(out, "  {title}:\t{text}");
    }
    if !node.spec().pod_cidr.is_empty() {
        line!(out, "PodCIDR:\t{}", node.spec().pod_cidr);
        list(out, "PodCIDRs", &node.spec().pod_cidrs);
    }
}

type Amounts = BTreeMap<String, Quantity>;

fn promised(session: &Session, out: &mut String, node: &Node, pods: &[Pod]) {
    let allocatable = &node.status().allocatable;
    line!(out, "Non-terminated Pods:\t({} in total)", pods.len());
    line!(out, "  Namespace\tName\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    line!(out, "  ---------\t----\t------------\t----------\t---------------\t-------------\t---");
    let (mut all_requests, mut all_limits) = (Amounts::new(), Amounts::new());
    for pod in pods {
        let (requests, limits) = amounts(pod);
        let share = |of: &Amounts, name: &str| share(of.get(name), allocatable.get(name));
        line!(
            out,
            "  {}\t{}\t{}\t{}\t{}\t{}\t{}",
            pod.meta().namespace,
            pod.meta().name,
            share(&requests, "cpu"),
            share(&limits, "cpu"),
            share(&requests, "memory"),
            share(&limits, "memory"),
            session.age(pod.meta().creation_timestamp)
        );
        requests.iter().for_each(|(name, amount)| add(&mut all_requests, name, *amount));
        limits.iter().for_each(|(name, amount)| add(&mut all_limits, name, *amount));
    }
    line!(out, "Allocated resources:\n  (Total limits may be over 100 percent, i.e., overcommitted.)");
    line!(out, "  Resource\tRequests\tLimits\n  --------\t--------\t------");
    for name in ["cpu", "memory", "ephemeral-storage"] {
        let share = |of: &Amounts| share(of.get(name), allocatable.get(name));
        line!(out, "  {name}\t{}\t{}", share(&all_requests), share(&all_limits));
    }
}

/// What a pod's containers ask for and may use; init containers run before them, so that the larger of both counts.
fn amounts(pod: &Pod) -> (Amounts, Amounts) {
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    for container in &pod.spec().containers {
        let resources = container.resources.clone().unwrap_or_default();
        resources.requests.iter().for_each(|(name, amount)| add(&mut requests, name, *amount));
        resources.limits.iter().for_each(|(name, amount)| add(&mut limits, name, *amount));
    }
    for container in &pod.spec().init_containers {
        let resources = container.resources.clone().unwrap_or_default();
        for (of, most) in [(&resources.requests, &mut requests), (&resources.limits, &mut limits)] {
            for (name, amount) in of {
                let present = most.entry(name.clone()).or_default();
                *present = (*present).max(*amount);
            }
        }
    }
    (requests, limits)
}

fn add(amounts: &mut Amounts, name: &str, amount: Quantity) {
    let present = amounts.entry(name.to_owned()).or_default();
    *present = if present.is_zero() { amount } else { *present + amount };
}

/// "250m (12%)".
fn share(amount: Option<&Quantity>, of: Option<&Quantity>) -> String {
    let amount = amount.copied().unwrap_or_default();
    let whole = of.map(Quantity::milli_value).filter(|whole| *whole > 0);
    let percent = whole.map(|whole| amount.milli_value().saturating_mul(100) / whole).unwrap_or_default();
    format!("{amount} ({percent}%)")
}
