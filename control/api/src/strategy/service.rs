//! Services. Their addresses and node ports are given out by [`crate::allocate`].

use std::collections::BTreeSet;

use weir_proto::IntOrString;
use weir_proto::core::v1::{
    ClientIpConfig, Service, ServicePort, ServiceSpec, ServiceStatus, SessionAffinityConfig,
};

use super::pod_spec::validate_ip;
use super::{Strategy, unsupported};
use crate::validation::meta::{NameCheck, validate_labels};
use crate::validation::{Errors, Path, addresses, names};

pub(super) struct Services;

/// How long a client stays with its pod under affinity ClientIP: three hours.
const AFFINITY_SECONDS: i32 = 10_800;
/// A day.
const LONGEST_AFFINITY: i32 = 86_400;
/// An address that means "none".
pub(crate) const HEADLESS: &str = "None";

/// Whether the service's ports are opened on nodes.
pub(crate) fn has_node_ports(spec: &ServiceSpec) -> bool {
    match spec.r#type.as_str() {
        "NodePort" => true,
        "LoadBalancer" => spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}

impl Strategy for Services {
    type Object = Service;

    fn name_check(&self) -> NameCheck {
        names::dns1035_label
    }

    fn fill_defaults(&self, service: &mut Service) {
        let spec = service.spec.get_or_insert_default();
        let fill = |field: &mut String, value: &str| {
            if field.is_empty() {
                value.clone_into(field);
            }
        };
        fill(&mut spec.r#type, "ClusterIP");
        fill(&mut spec.session_affinity, "None");
        for port in &mut spec.ports {
            fill(&mut port.protocol, "TCP");
            let unset = match &port.target_port {
                None => true,
                Some(IntOrString::Int(number)) => *number == 0,
                Some(IntOrString::String(name)) => name.is_empty(),
            };
            if unset {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        if spec.session_affinity == "ClientIP" {
            let config: &mut SessionAffinityConfig = spec.session_affinity_config.get_or_insert_default();
            let client: &mut ClientIpConfig = config.client_ip.get_or_insert_default();
            client.timeout_seconds.get_or_insert(AFFINITY_SECONDS);
        } else {
            spec.session_affinity_config = None;
        }
        if spec.r#type == "ExternalName" {
            return;
        }
        spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
        if matches!(spec.r#type.as_str(), "NodePort" | "LoadBalancer") {
            fill(&mut spec.external_traffic_policy, "Cluster");
        }
        if spec.r#type == "LoadBalancer" {
            spec.allocate_load_balancer_node_ports.get_or_insert(true);
        }
        if spec.ip_families.is_empty() {
            spec.ip_families.push("IPv4".to_owned());
        }
        spec.ip_family_policy.get_or_insert_with(|| "SingleStack".to_owned());
        // The old field and the new one always say the same.
        if spec.cluster_ip.is_empty()
            && let Some(first) = spec.cluster_ips.first()
        {
            spec.cluster_ip.clone_from(first);
        }
        if spec.cluster_ips.is_empty() && !spec.cluster_ip.is_empty() {
            spec.cluster_ips = vec![spec.cluster_ip.clone()];
        }
    }

    fn prepare_create(&self, service: &mut Service) {
        service.status =
            Some(ServiceStatus { load_balancer: Some(Default::default()), ..ServiceStatus::default() });
    }

    /// What was given out stays, where the new form leaves it open.
    fn prepare_update(&self, new: &mut Service, old: &Service) {
        let (Some(new), Some(old)) = (&mut new.spec, &old.spec) else { return };
        if new.r#type != "ExternalName" && old.r#type != "ExternalName" && new.cluster_ip.is_empty() {
            new.cluster_ip.clone_from(&old.cluster_ip);
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
        if has_node_ports(new) && has_node_ports(old) {
            for port in new.ports.iter_mut().filter(|port| port.node_port == 0) {
                let same =
                    |before: &&ServicePort| before.port == port.port && before.protocol == port.protocol;
                if let Some(before) = old.ports.iter().find(same) {
                    port.node_port = before.node_port;
                }
            }
        }
        // A type without node ports gives them back, unless the client insists (and is refused).
        if !has_node_ports(new) && has_node_ports(old) {
            for port in &mut new.ports {
                if old.ports.iter().any(|before| before.node_port == port.node_port) {
                    port.node_port = 0;
                }
            }
        }
        drop_what_the_type_has_not(new, old);
    }

    fn copy_status(&self, to: &mut Service, from: &Service) {
        to.status.clone_from(&from.status);
    }

    fn validate(&self, service: &Service, errors: &mut Errors) {
        let Some(spec) = &service.spec else { return };
        let path = Path::root("spec");
        let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
        errors.one_of(&path.child("type"), &spec.r#type, &types);
        errors.one_of(&path.child("sessionAffinity"), &spec.session_affinity, &["ClientIP", "None"]);
        validate_labels(&spec.selector, &path.child("selector"), errors);
        validate_addresses(spec, &path, errors);
        validate_ports(spec, &path, errors);
        validate_affinity(spec, &path, errors);
        if let Some(policy) = &spec.internal_traffic_policy {
            errors.one_of(&path.child("internalTrafficPolicy"), policy, &["Cluster", "Local"]);
        }
        if !spec.external_traffic_policy.is_empty() {
            let path = path.child("externalTrafficPolicy");
            if matches!(spec.r#type.as_str(), "NodePort" | "LoadBalancer") {
                errors.one_of(&path, &spec.external_traffic_policy, &["Cluster", "Local"]);
            } else if spec.external_ips.is_empty() {
                let detail = "may only be set for externally-accessible services";
                errors.invalid(&path, &spec.external_traffic_policy, detail);
            }
        }
    }

    fn validate_update(&self, new: &Service, old: &Service, errors: &mut Errors) {
        let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return };
        let keeps = new.r#type != "ExternalName" && old.r#type != "ExternalName";
        if keeps && !old.cluster_ip.is_empty() && new.cluster_ip != old.cluster_ip {
            let path = Path::root("spec");
            errors.invalid(&path.child("clusterIPs").index(0), &new.cluster_ip, "may not change once set");
        }
    }

    fn warnings(&self, service: &Service) -> Vec<String> {
        service.spec.as_ref().map(unsupported::in_service).unwrap_or_default()
    }
}

/// After a change of type, fields that only the old type has are dropped, unless the client changed them too.
fn drop_what_the_type_has_not(new: &mut ServiceSpec, old: &ServiceSpec) {
    let external = matches!(new.r#type.as_str(), "NodePort" | "LoadBalancer");
    if !external && new.external_traffic_policy == old.external_traffic_policy {
        new.external_traffic_policy.clear();
    }
    if new.r#type != "LoadBalancer" && old.r#type == "LoadBalancer" {
        new.allocate_load_balancer_node_ports = None;
    }
    if new.r#type == "ExternalName" && new.cluster_ip == old.cluster_ip {
        new.cluster_ip.clear();
        new.cluster_ips.clear();
        new.internal_traffic_policy = None;
        new.ip_families.clear();
        new.ip_family_policy = None;
    }
}

fn validate_addresses(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    for (index, address) in spec.external_ips.iter().enumerate() {
        let path = path.child("externalIPs");
        validate_ip(&path.index(index), address, errors);
        addresses::not_special(address, &path.index(index), errors);
    }
    if spec.r#type == "ExternalName" {
        if !spec.cluster_ip.is_empty() {
            errors.forbidden(&path.child("clusterIPs"), "may not be set when `type` is 'ExternalName'");
        }
        let path = path.child("externalName");
        if spec.external_name.is_empty() {
            errors.required(&path, "");
        } else {
            let name = spec.external_name.trim_end_matches('.');
            errors.syntax(&path, name, names::dns_subdomain(name));
        }
        return;
    }
    let at_ips = path.child("clusterIPs");
    if spec.cluster_ips.first().is_some_and(|first| *first != spec.cluster_ip) {
        errors.invalid(&at_ips, &spec.cluster_ips.join(","), "first value must match `clusterIP`");
    }
    if spec.cluster_ips.len() > 1 {
        errors.too_many(&at_ips, spec.cluster_ips.len(), 1);
    }
    if spec.cluster_ip == HEADLESS {
        if spec.r#type != "ClusterIP" {
            let detail = format!("may not be set to 'None' for {} services", spec.r#type);
            errors.invalid(&at_ips.index(0), HEADLESS, detail);
        }
    } else if !spec.cluster_ip.is_empty() {
        validate_ip(&at_ips.index(0), &spec.cluster_ip, errors);
    }
    for (index, family) in spec.ip_families.iter().enumerate() {
        if family != "IPv4" {
            let detail = "not configured on this cluster";
            errors.invalid(&path.child("ipFamilies").index(index), family, detail);
        }
    }
    let policy = spec.ip_family_policy.as_deref().unwrap_or_default();
    let policies = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    errors.one_of(&path.child("ipFamilyPolicy"), policy, &policies);
    if policy == "RequireDualStack" {
        let detail = "this cluster is not configured for dual-stack services";
        errors.invalid(&path.child("ipFamilyPolicy"), policy, detail);
    }
}

fn validate_affinity(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = config.and_then(|client| client.timeout_seconds) else { return };
    if !(1..=LONGEST_AFFINITY).contains(&seconds) {
        let path = path.child("sessionAffinityConfig.clientIP.timeoutSeconds");
        errors.invalid(&path, seconds, format!("must be greater than 0 and less than {LONGEST_AFFINITY}"));
    }
}

fn validate_ports(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("ports");
    if spec.ports.is_empty() && spec.cluster_ip != HEADLESS && spec.r#type != "ExternalName" {
        errors.required(&path, "");
    }
    let (mut taken_names, mut taken_ports) = (BTreeSet::new(), BTreeSet::new());
    let mut taken_node_ports = BTreeSet::new();
    for (index, port) in spec.ports.iter().enumerate() {
        let path = path.index(index);
        let at_name = path.child("name");
        if port.name.is_empty() && spec.ports.len() > 1 {
            errors.required(&at_name, "");
        } else if !port.name.is_empty() {
            errors.syntax(&at_name, &port.name, names::dns_label(&port.name));
            if !taken_names.insert(&port.name) {
                errors.duplicate(&at_name, &port.name);
            }
        }
        errors.port(&path.child("port"), port.port);
        errors.one_of(&path.child("protocol"), &port.protocol, &["SCTP", "TCP", "UDP"]);
        match &port.target_port {
            Some(IntOrString::Int(number)) => errors.port(&path.child("targetPort"), *number),
            Some(IntOrString::String(name)) => {
                errors.syntax(&path.child("targetPort"), name, names::port_name(name));
            }
            None => {}
        }
        if !taken_ports.insert((port.port, &port.protocol)) {
            errors.duplicate(&path, &format!("{}/{}", port.port, port.protocol));
        }
        if port.node_port == 0 {
            continue;
        }
        let at_node_port = path.child("nodePort");
        if !matches!(spec.r#type.as_str(), "NodePort" | "LoadBalancer") {
            let detail = format!("may not be used when `type` is '{}'", spec.r#type);
            errors.forbidden(&at_node_port, detail);
        } else if !taken_node_ports.insert((port.node_port, &port.protocol)) {
            errors.duplicate(&at_node_port, i64::from(port.node_port));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(change: impl FnOnce(&mut ServiceSpec)) -> Service {
        let mut spec = ServiceSpec {
            ports: vec![ServicePort { port: 80, ..ServicePort::default() }],
            ..ServiceSpec::default()
        };
        change(&mut spec);
        let mut service = Service { spec: Some(spec), ..Service::default() };
        Services.fill_defaults(&mut service);
        service
    }

    fn causes(service: &Service) -> Vec<String> {
        let mut errors = Errors::default();
        Services.validate(service, &mut errors);
        errors.into_causes().into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn a_port_is_all_it_takes() {
        let service = service(|_| {});
        assert!(causes(&service).is_empty());
        let spec = service.spec.unwrap();
        assert_eq!(spec.r#type, "ClusterIP");
        assert_eq!(spec.ports[0].target_port, Some(IntOrString::Int(80)));
        assert_eq!(spec.ip_families, ["IPv4"]);
    }

    #[test]
    fn node_ports_belong_to_their_types() {
        let service = service(|spec| spec.ports[0].node_port = 30_000);
        assert_eq!(
            causes(&service),
            ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]
        );
    }

    #[test]
    fn several_ports_need_names_and_no_port_is_only_for_the_headless() {
        let twice = service(|spec| spec.ports.push(ServicePort { port: 81, ..ServicePort::default() }));
        assert_eq!(
            causes(&twice),
            ["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"]
        );
        assert_eq!(causes(&service(|spec| spec.ports.clear())), ["spec.ports: Required value"]);
        let headless = service(|spec| {
            spec.ports.clear();
            spec.cluster_ip = HEADLESS.to_owned();
        });
        assert!(causes(&headless).is_empty());
    }

    #[test]
    fn an_update_keeps_what_was_given_out() {
        let old = service(|spec| {
            spec.r#type = "NodePort".to_owned();
            spec.ports[0].node_port = 30_001;
            spec.cluster_ip = "10.96.0.9".to_owned();
        });
        let mut new = service(|spec| spec.r#type = "NodePort".to_owned());
        Services.prepare_update(&mut new, &old);
        let spec = new.spec.unwrap();
        assert_eq!((spec.ports[0].node_port, spec.cluster_ip.as_str()), (30_001, "10.96.0.9"));
        let mut plain = service(|spec| {
            spec.ports[0].node_port = 30_001;
        });
        Services.prepare_update(&mut plain, &old);
        assert_eq!(plain.spec.unwrap().ports[0].node_port, 0);
    }
}
