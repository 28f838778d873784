//! Services and EndpointSlices → what cluster DNS says of each service. Pure.
//!
//! Not sent: endpoints of services with cluster addresses (clients see the address), and endpoints that are not ready
//! (with `publishNotReadyAddresses`, slices call all of them ready).

use weir_proto::core::v1::{Service, ServiceSpec};
use weir_proto::discovery::v1::{Endpoint, EndpointSlice};
use weir_proto::weir::v1::{NamedEndpoint, NamedEndpoints, NamedPort, ServiceNames};

use super::compile::{Slice, number, octets};
use crate::strategy::service::HEADLESS;

/// What names a service has, but for the endpoints of a headless one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Naming {
    names: ServiceNames,
    headless: bool,
}

impl Naming {
    /// `None`: it has no address yet.
    pub(super) fn read(service: &Service) -> Option<Self> {
        let (meta, spec) = (service.meta(), service.spec());
        let mut names = ServiceNames {
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            ..ServiceNames::default()
        };
        if spec.r#type == "ExternalName" {
            let target = spec.external_name.trim_end_matches('.');
            if target.is_empty() {
                return None;
            }
            names.external_name = target.to_ascii_lowercase();
            return Some(Self { names, headless: false });
        }
        if spec.cluster_ip == HEADLESS {
            return Some(Self { names, headless: true });
        }
        names.cluster_ips = cluster_ips(spec).iter().filter_map(|address| octets(address)).collect();
        if names.cluster_ips.is_empty() {
            return None;
        }
        names.ports =
            spec.ports.iter().filter_map(|port| named(&port.name, &port.protocol, port.port)).collect();
        Some(Self { names, headless: false })
    }
}

/// The service's addresses, by the newer field or the older one.
pub(super) fn cluster_ips(spec: &ServiceSpec) -> &[String] {
    if spec.cluster_ips.is_empty() { std::slice::from_ref(&spec.cluster_ip) } else { &spec.cluster_ips }
}

/// The endpoints of a slice that are to be found by name.
pub(super) fn endpoints(slice: &EndpointSlice) -> NamedEndpoints {
    let ports = slice.ports.iter().filter_map(|port| {
        named(
            port.name.as_deref().unwrap_or_default(),
            port.protocol.as_deref().unwrap_or_default(),
            port.port?,
        )
    });
    NamedEndpoints {
        ports: ports.collect(),
        endpoints: slice.endpoints.iter().filter_map(endpoint).collect(),
    }
}

fn endpoint(endpoint: &Endpoint) -> Option<NamedEndpoint> {
    if endpoint.conditions.unwrap_or_default().ready == Some(false) {
        return None;
    }
    Some(NamedEndpoint {
        address: octets(endpoint.addresses.first()?)?,
        hostname: endpoint.hostname.clone().unwrap_or_default(),
    })
}

fn named(name: &str, protocol: &str, port: i32) -> Option<NamedPort> {
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_ascii_lowercase() };
    Some(NamedPort { name: name.to_owned(), protocol, port: number(port)? })
}

/// All that DNS says of a service.
pub(super) fn join<'a>(naming: &Naming, slices: impl Iterator<Item = &'a Slice>) -> ServiceNames {
    let mut names = naming.names.clone();
    if naming.headless {
        let found = slices.map(|slice| &slice.named).filter(|named| !named.endpoints.is_empty());
        names.endpoints = found.cloned().collect();
    }
    names
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weir_proto::Resource;

    use super::*;

    fn read<R: Resource>(value: Value) -> R {
        let object = R::KIND.from_json(&value, &mut Vec::new()).unwrap();
        object.as_any().downcast_ref::<R>().unwrap().clone()
    }

    fn naming(spec: Value) -> Option<Naming> {
        Naming::read(&read(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})))
    }

    fn slice(endpoints: Value) -> Slice {
        let slice = json!({
            "metadata": {"name": "web-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
        });
        Slice::read(&read(slice)).unwrap()
    }

    #[test]
    fn a_service_with_addresses_is_named_with_every_port() {
        let spec = json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "ports": [
            {"name": "http", "port": 80}, {"name": "m3", "port": 2905, "protocol": "SCTP"}]});
        let slices = [slice(json!([{"addresses": ["10.32.0.1"]}]))];
        let names = join(&naming(spec).unwrap(), slices.iter());
        assert_eq!(names.cluster_ips.iter().map(Vec::len).collect::<Vec<_>>(), [4, 16]);
        let ports: Vec<_> =
            names.ports.iter().map(|port| (&*port.name, &*port.protocol, port.port)).collect();
        assert_eq!(ports, [("http", "tcp", 80), ("m3", "sctp", 2905)]);
        assert!(names.endpoints.is_empty());
    }

    #[test]
    fn a_headless_service_is_named_with_its_ready_endpoints() {
        let endpoints = json!([
            {"addresses": ["10.32.0.1"], "hostname": "web-0", "conditions": {"ready": true}},
            {"addresses": ["10.32.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.32.0.3"]},
            {"addresses": ["nonsense"]},
        ]);
        let naming = naming(json!({"clusterIP": "None"})).unwrap();
        let none = slice(json!([{"addresses": ["10.32.0.4"], "conditions": {"ready": false}}]));
        let names = join(&naming, [slice(endpoints), none].iter());
        let [slice] = &names.endpoints[..] else { panic!("{names:?}") };
        let found: Vec<_> = slice.endpoints.iter().map(|one| (&*one.address, &*one.hostname)).collect();
        assert_eq!(found, [(&[10, 32, 0, 1][..], "web-0"), (&[10, 32, 0, 3][..], "")]);
        assert_eq!((slice.ports[0].port, &*slice.ports[0].protocol), (8080, "tcp"));
    }

    #[test]
    fn an_external_name_stands_for_itself() {
        let spec =
            json!({"type": "ExternalName", "externalName": "Db.Example.COM.", "ports": [{"port": 5432}]});
        let names = join(&naming(spec).unwrap(), [].iter());
        assert_eq!((&*names.external_name, names.ports.len()), ("db.example.com", 0));
    }

    #[test]
    fn what_has_no_address_yet_has_no_name() {
        assert_eq!(naming(json!({"ports": [{"port": 80}]})), None);
        assert_eq!(naming(json!({"type": "ExternalName"})), None);
    }
}
