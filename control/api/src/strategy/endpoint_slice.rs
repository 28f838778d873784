//! EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weir_proto::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use super::Strategy;
use crate::validation::{Errors, Path, addresses, names};

pub(super) struct EndpointSlices;

const MOST_ENDPOINTS: usize = 1000;
const MOST_PORTS: usize = 100;
const MOST_ADDRESSES: usize = 100;

impl Strategy for EndpointSlices {
    type Object = EndpointSlice;

    fn fill_defaults(&self, slice: &mut EndpointSlice) {
        for port in &mut slice.ports {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }

    fn generation_moves(&self, new: &EndpointSlice, old: &EndpointSlice) -> Option<bool> {
        let same =
            new.endpoints == old.endpoints && new.ports == old.ports && new.address_type == old.address_type;
        Some(!same)
    }

    fn validate(&self, slice: &EndpointSlice, errors: &mut Errors) {
        let path = Path::root("addressType");
        if slice.address_type.is_empty() {
            errors.required(&path, "");
        } else {
            errors.one_of(&path, &slice.address_type, &["IPv4", "IPv6", "FQDN"]);
        }
        let path = Path::root("endpoints");
        if slice.endpoints.len() > MOST_ENDPOINTS {
            return errors.too_many(&path, slice.endpoints.len(), MOST_ENDPOINTS);
        }
        for (index, endpoint) in slice.endpoints.iter().enumerate() {
            validate_endpoint(endpoint, &slice.address_type, &path.index(index), errors);
        }
        validate_ports(&slice.ports, &Path::root("ports"), errors);
    }

    fn validate_update(&self, new: &EndpointSlice, old: &EndpointSlice, errors: &mut Errors) {
        errors.immutable(
            &Path::root("addressType"),
            &new.address_type,
            &old.address_type,
            format!("{:?}", new.address_type),
        );
    }
}

fn validate_endpoint(endpoint: &Endpoint, family: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Some(name) = &endpoint.node_name {
        errors.syntax(&path.child("nodeName"), name, names::dns_subdomain(name));
    }
    if let Some(name) = &endpoint.hostname {
        errors.syntax(&path.child("hostname"), name, names::dns_label(name));
    }
    let path = path.child("addresses");
    if endpoint.addresses.is_empty() {
        errors.required(&path, "must contain at least 1 address");
    }
    if endpoint.addresses.len() > MOST_ADDRESSES {
        errors.too_many(&path, endpoint.addresses.len(), MOST_ADDRESSES);
    }
    for (index, address) in endpoint.addresses.iter().enumerate() {
        let path = path.index(index);
        match (family, address.parse()) {
            ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => {
                addresses::not_special(address, &path, errors);
            }
            ("IPv4", _) => errors.invalid(&path, address, "must be a valid IPv4 address"),
            ("IPv6", _) => errors.invalid(&path, address, "must be a valid IPv6 address"),
            _ => errors.syntax(&path, address, names::dns_subdomain(address)),
        }
    }
}

fn validate_ports(ports: &[EndpointPort], path: &Path<'_>, errors: &mut Errors) {
    if ports.len() > MOST_PORTS {
        return errors.too_many(path, ports.len(), MOST_PORTS);
    }
    let mut taken = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = port.name.as_deref().unwrap_or_default();
        if !taken.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        if !name.is_empty() {
            errors.syntax(&path.child("name"), name, names::dns_label(name));
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        errors.one_of(&path.child("protocol"), protocol, &["TCP", "UDP", "SCTP"]);
        if let Some(number) = port.port {
            errors.port(&path.child("port"), number);
        }
    }
}
