//! Services, with the endpoints behind each of their ports.

use anyhow::Result;
use weir_client::ListOptions;
use weir_proto::core::v1::{Service, ServicePort};
use weir_proto::discovery::v1::EndpointSlice;

use super::{joined, labels, line, or_none, pairs};
use crate::session::Session;

/// How many endpoints of a port are shown.
const SHOWN: usize = 3;

pub(super) async fn describe(session: &Session, out: &mut String, service: &Service) -> Result<()> {
    let (meta, spec) = (service.meta(), service.spec());
    line!(out, "Name:\t{}", meta.name);
    line!(out, "Namespace:\t{}", meta.namespace);
    labels(out, meta);
    pairs(out, "", "Selector", &spec.selector, "=");
    line!(out, "Type:\t{}", spec.r#type);
    if let Some(policy) = &spec.ip_family_policy {
        line!(out, "IP Family Policy:\t{policy}");
    }
    if !spec.ip_families.is_empty() {
        line!(out, "IP Families:\t{}", joined(&spec.ip_families));
    }
    line!(out, "IP:\t{}", or_none(&spec.cluster_ip));
    if !spec.cluster_ips.is_empty() {
        line!(out, "IPs:\t{}", joined(&spec.cluster_ips));
    }
    if !spec.external_ips.is_empty() {
        line!(out, "External IPs:\t{}", joined(&spec.external_ips));
    }
    if !spec.external_name.is_empty() {
        line!(out, "External Name:\t{}", spec.external_name);
    }
    let slices = ListOptions::labels(format!("kubernetes.io/service-name={}", meta.name));
    let slices = session.client.namespaced::<EndpointSlice>(&meta.namespace).list(&slices).await?.items;
    for port in &spec.ports {
        self::port(out, port, &slices);
    }
    line!(out, "Session Affinity:\t{}", or_none(&spec.session_affinity));
    for (title, policy) in [
        ("External Traffic Policy", Some(&spec.external_traffic_policy).filter(|policy| !policy.is_empty())),
        ("Internal Traffic Policy", spec.internal_traffic_policy.as_ref()),
    ] {
        if let Some(policy) = policy {
            line!(out, "{title}:\t{policy}");
        }
    }
    Ok(())
}

fn port(out: &mut String, port: &ServicePort, slices: &[EndpointSlice]) {
    let name = if port.name.is_empty() { "<unset>" } else { &port.name };
    let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
    line!(out, "Port:\t{name}\t{}/{protocol}", port.port);
    let target = port.target_port.as_ref().map_or_else(|| port.port.to_string(), ToString::to_string);
    line!(out, "TargetPort:\t{target}/{protocol}");
    if port.node_port > 0 {
        line!(out, "NodePort:\t{name}\t{}/{protocol}", port.node_port);
    }
    line!(out, "Endpoints:\t{}", endpoints(port, slices));
}

/// The addresses of those that are ready.
fn endpoints(port: &ServicePort, slices: &[EndpointSlice]) -> String {
    let mut addresses = Vec::new();
    for slice in slices {
        let of_port = slice.ports.iter().find(|known| known.name.as_deref().unwrap_or_default() == port.name);
        let Some(number) = of_port.and_then(|known| known.port) else { continue };
        let is_ready = |endpoint: &&weir_proto::discovery::v1::Endpoint| {
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
        };
        for address in slice.endpoints.iter().filter(is_ready).flat_map(|endpoint| &endpoint.addresses) {
            addresses.push(match address.contains(':') {
                true => format!("[{address}]:{number}"),
                false => format!("{address}:{number}"),
            });
        }
    }
    let more = addresses.len().saturating_sub(SHOWN);
    addresses.truncate(SHOWN);
    let shown = or_none(&addresses.join(",")).to_owned();
    if more > 0 { format!("{shown} + {more} more...") } else { shown }
}
