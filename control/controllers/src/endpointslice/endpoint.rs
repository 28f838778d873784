//! What a service says about one pod behind it.

use std::net::IpAddr;

use weir_client::reference;
use weir_proto::IntOrString;
use weir_proto::core::v1::{Node, ObjectReference, Pod, Service, ServicePort};
use weir_proto::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};

use crate::pods;

pub(super) const ZONE: &str = "topology.kubernetes.io/zone";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    IPv4,
    IPv6,
}

impl Family {
    pub(super) fn parse(text: &str) -> Option<Family> {
        match text {
            "IPv4" => Some(Family::IPv4),
            "IPv6" => Some(Family::IPv6),
            _ => None,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Family::IPv4 => "IPv4",
            Family::IPv6 => "IPv6",
        }
    }

    fn of(address: &str) -> Option<Family> {
        match address.parse().ok()? {
            IpAddr::V4(_) => Some(Family::IPv4),
            IpAddr::V6(_) => Some(Family::IPv6),
        }
    }
}

/// The families that the service serves; IPv4 where it does not say.
pub(super) fn families(service: &Service) -> Vec<Family> {
    let mut families: Vec<Family> =
        service.spec().ip_families.iter().filter_map(|family| Family::parse(family)).collect();
    if families.is_empty() {
        families.push(Family::of(&service.spec().cluster_ip).unwrap_or(Family::IPv4));
    }
    families.dedup();
    families
}

/// None while the pod has no address of the family, and once it has ended.
pub(super) fn endpoint(
    service: &Service,
    pod: &Pod,
    node: Option<&Node>,
    family: Family,
) -> Option<Endpoint> {
    if pods::is_terminal(pod) {
        return None;
    }
    let status = pod.status();
    let listed = status.pod_ips.iter().map(|address| address.ip.as_str());
    let mut addresses = listed.chain([status.pod_ip.as_str()]);
    let address = addresses.find(|address| Family::of(address) == Some(family))?;

    let (serving, terminating) = (pods::is_ready(pod), pods::is_leaving(pod));
    let ready = service.spec().publish_not_ready_addresses || (serving && !terminating);
    let spec = pod.spec();
    // A name of its own under the service's: `hostname.service`.
    let named = !spec.hostname.is_empty() && spec.subdomain == service.meta().name;
    Some(Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: named.then(|| spec.hostname.clone()),
        // Without the pod's revision, which changes when nothing of this does.
        target_ref: Some(ObjectReference {
            api_version: String::new(),
            resource_version: String::new(),
            ..reference(pod)
        }),
        node_name: Some(spec.node_name.clone()).filter(|node| !node.is_empty()),
        zone: node.and_then(|node| node.meta().labels.get(ZONE).cloned()),
        hints: None,
        deprecated_topology: Default::default(),
    })
}

/// The service's ports as this pod has them: a port by name may be another number in each pod, and is left out where
/// the pod has none of that name.
pub(super) fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec().ports.iter();
    ports
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone()),
                protocol: Some(protocol(&port.protocol).to_owned()),
                port: Some(number(port, pod)?),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn protocol(protocol: &str) -> &str {
    if protocol.is_empty() { "TCP" } else { protocol }
}

fn number(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let restartable =
        pod.spec().init_containers.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let containers = pod.spec().containers.iter().chain(restartable);
    let mut ports = containers.flat_map(|container| &container.ports);
    let found = ports.find(|p| p.name == *name && protocol(&p.protocol) == protocol(&port.protocol))?;
    Some(found.container_port)
}
