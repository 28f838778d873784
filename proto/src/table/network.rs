//! Services and the addresses behind them.

use super::{NONE, UNSET, age, or, pairs};
use crate::core::v1::{Service, ServicePort};
use crate::discovery::v1::EndpointSlice;
use crate::meta::v1::Time;

/// More addresses than these are counted only.
const SHOWN: usize = 3;

pub(super) fn service_cells(service: &Service, now: Time) -> Vec<String> {
    let spec = service.spec();
    vec![
        or(&spec.r#type, "ClusterIP"),
        or(&spec.cluster_ip, NONE),
        external(service),
        or(&spec.ports.iter().map(port).collect::<Vec<_>>().join(","), NONE),
        age(service.meta(), now),
        pairs(&spec.selector),
    ]
}

fn external(service: &Service) -> String {
    let spec = service.spec();
    if spec.r#type == "ExternalName" {
        return spec.external_name.clone();
    }
    let mut addresses = Vec::new();
    if spec.r#type == "LoadBalancer" {
        let ingress = service.status().load_balancer.iter().flat_map(|balancer| &balancer.ingress);
        addresses.extend(ingress.map(|way| if way.ip.is_empty() { &way.hostname } else { &way.ip }));
    }
    addresses.extend(&spec.external_ips);
    let none = if spec.r#type == "LoadBalancer" { "<pending>" } else { NONE };
    or(&addresses.into_iter().map(String::as_str).collect::<Vec<_>>().join(","), none)
}

/// "80:30080/TCP".
fn port(port: &ServicePort) -> String {
    let protocol = or(&port.protocol, "TCP");
    match port.node_port {
        0 => format!("{}/{protocol}", port.port),
        node_port => format!("{}:{node_port}/{protocol}", port.port),
    }
}

pub(super) fn endpoint_slice_cells(slice: &EndpointSlice, now: Time) -> Vec<String> {
    let ports =
        slice.ports.iter().map(|port| port.port.map_or_else(|| "*".to_owned(), |port| port.to_string()));
    let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    vec![
        slice.address_type.clone(),
        first(ports.collect()),
        first(addresses.cloned().collect()),
        age(slice.meta(), now),
    ]
}

fn first(all: Vec<String>) -> String {
    match all.len() {
        0 => UNSET.to_owned(),
        count if count > SHOWN => format!("{} + {} more...", all[..SHOWN].join(","), count - SHOWN),
        _ => all.join(","),
    }
}
