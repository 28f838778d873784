//! Services, EndpointSlices and Nodes → what the kernel is told. Pure.
//!
//! Objects are reduced on arrival to [`Front`] and [`Slice`]; joining the two is all that a change costs. Output is
//! sorted and free of duplicates, so that equal states compile to equal messages.
//!
//! Not sent: services without addresses (headless, ExternalName), those that say by a label that another than the
//! dataplane serves them, and ports of protocols that the dataplane does not carry (SCTP; the API server warns about
//! those). What cluster DNS is told of them all is in [`super::names`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use weir_proto::core::v1::{Node, Service};
use weir_proto::discovery::v1::{Endpoint, EndpointSlice};
use weir_proto::weir::v1::{
    DataplaneBackend, DataplaneProtocol, DataplaneRoute, DataplaneServiceKey, DataplaneServicePort,
    NamedEndpoints,
};

use super::names;

/// The label by which a slice names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label by which a service names who serves it, where that is not the dataplane.
pub(crate) const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// Namespace and name.
pub(super) type Name = (String, String);

/// The side of a service that clients see.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Front {
    cluster_ips: Vec<Vec<u8>>,
    ports: Vec<FrontPort>,
}

#[derive(Clone, Debug, PartialEq)]
struct FrontPort {
    name: String,
    protocol: DataplaneProtocol,
    port: u32,
    node_port: u32,
}

impl Front {
    /// `None`: clients see no addresses that the dataplane would serve.
    pub(super) fn read(service: &Service) -> Option<Self> {
        let spec = service.spec();
        if spec.r#type == "ExternalName" || service.meta().labels.contains_key(PROXY_NAME) {
            return None;
        }
        let cluster_ips: Vec<_> =
            names::cluster_ips(spec).iter().filter_map(|address| octets(address)).collect();
        let ports = spec.ports.iter().filter_map(|port| {
            Some(FrontPort {
                name: port.name.clone(),
                protocol: protocol(&port.protocol)?,
                port: number(port.port)?,
                node_port: number(port.node_port).unwrap_or(0),
            })
        });
        let front = Self { cluster_ips, ports: ports.collect() };
        (!front.cluster_ips.is_empty() && !front.ports.is_empty()).then_some(front)
    }
}

/// A slice as far as nodes are concerned: backends per port, and endpoints that have names.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slice {
    pub(super) service: Name,
    ports: Vec<(String, DataplaneProtocol, u32)>,
    /// Without their port.
    endpoints: Vec<DataplaneBackend>,
    pub(super) named: NamedEndpoints,
}

impl Slice {
    /// `None`: it belongs to no service, or holds names instead of addresses.
    pub(super) fn read(slice: &EndpointSlice) -> Option<Self> {
        let meta = slice.meta();
        let service = meta.labels.get(SERVICE_NAME).filter(|name| !name.is_empty())?;
        if slice.address_type == "FQDN" {
            return None;
        }
        let ports = slice.ports.iter().filter_map(|port| {
            let protocol = protocol(port.protocol.as_deref().unwrap_or_default())?;
            Some((port.name.clone().unwrap_or_default(), protocol, number(port.port?)?))
        });
        Some(Self {
            service: (meta.namespace.clone(), service.clone()),
            ports: ports.collect(),
            endpoints: slice.endpoints.iter().filter_map(backend).collect(),
            named: names::endpoints(slice),
        })
    }
}

/// A backend takes new flows when it is ready; while it terminates it is sent as long as it still serves.
fn backend(endpoint: &Endpoint) -> Option<DataplaneBackend> {
    let conditions = endpoint.conditions.unwrap_or_default();
    let terminating = conditions.terminating.unwrap_or(false);
    let ready = conditions.ready.unwrap_or(true) && !terminating;
    let serving = conditions.serving.unwrap_or(ready);
    let drains = terminating && serving;
    if !ready && !drains {
        return None;
    }
    let pod = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod");
    Some(DataplaneBackend {
        // Kubernetes: the addresses of one endpoint are interchangeable, and the first is used.
        address: octets(endpoint.addresses.first()?)?,
        port: 0,
        node_name: endpoint.node_name.clone().unwrap_or_default(),
        pod: pod.map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default(),
        ready,
        terminating,
    })
}

/// The ports of a service with the backends from its slices, in the order of the ports' names.
pub(super) fn join<'a>(
    name: &Name,
    front: &Front,
    slices: impl Iterator<Item = &'a Slice> + Clone,
) -> Vec<DataplaneServicePort> {
    let mut ports: Vec<_> =
        front.ports.iter().map(|port| join_port(name, front, port, slices.clone())).collect();
    ports.sort_by(|a, b| key(a).port_name.cmp(&key(b).port_name));
    ports.dedup_by(|a, b| a.key == b.key);
    ports
}

fn join_port<'a>(
    (namespace, name): &Name,
    front: &Front,
    port: &FrontPort,
    slices: impl Iterator<Item = &'a Slice>,
) -> DataplaneServicePort {
    let mut backends: BTreeMap<(&[u8], u32), DataplaneBackend> = BTreeMap::new();
    for slice in slices {
        let numbers =
            slice.ports.iter().filter(|(name, protocol, _)| *name == port.name && *protocol == port.protocol);
        for (_, _, number) in numbers {
            for endpoint in &slice.endpoints {
                // While an endpoint moves between slices it may be in both; the readier one is the newer.
                let known = backends.entry((&endpoint.address, *number)).or_insert_with(|| endpoint.clone());
                if endpoint.ready && !known.ready {
                    *known = endpoint.clone();
                }
                known.port = *number;
            }
        }
    }
    DataplaneServicePort {
        key: Some(DataplaneServiceKey {
            namespace: namespace.clone(),
            name: name.clone(),
            port_name: port.name.clone(),
        }),
        protocol: port.protocol.into(),
        cluster_ips: front.cluster_ips.clone(),
        port: port.port,
        node_port: port.node_port,
        backends: backends.into_values().collect(),
    }
}

/// The key that [`join`] always sets.
pub(super) fn key(port: &DataplaneServicePort) -> DataplaneServiceKey {
    port.key.clone().unwrap_or_default()
}

/// How to reach a node's pods; `None` until it has an address and a pod range.
pub(super) fn route(node: &Node) -> Option<DataplaneRoute> {
    let (meta, spec, status) = (node.meta(), node.spec(), node.status());
    let mut internal = status.addresses.iter().filter(|address| address.r#type == "InternalIP");
    let node_address = internal.find_map(|address| octets(&address.address))?;
    let given =
        if spec.pod_cidrs.is_empty() { std::slice::from_ref(&spec.pod_cidr) } else { &spec.pod_cidrs };
    let pod_cidrs: Vec<String> = given.iter().filter(|cidr| !cidr.is_empty()).cloned().collect();
    (!pod_cidrs.is_empty()).then(|| DataplaneRoute { node_name: meta.name.clone(), node_address, pod_cidrs })
}

/// Empty means TCP, as everywhere in Kubernetes.
fn protocol(name: &str) -> Option<DataplaneProtocol> {
    match name {
        "" | "TCP" => Some(DataplaneProtocol::Tcp),
        "UDP" => Some(DataplaneProtocol::Udp),
        _ => None,
    }
}

pub(super) fn number(port: i32) -> Option<u32> {
    u16::try_from(port).ok().filter(|port| *port > 0).map(u32::from)
}

pub(super) fn octets(address: &str) -> Option<Vec<u8>> {
    Some(match address.parse().ok()? {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    })
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

    fn service(spec: Value) -> Service {
        read(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec}))
    }

    fn slice(ports: Value, endpoints: Value) -> Slice {
        let slice = json!({
            "metadata": {"name": "web-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
        });
        Slice::read(&read(slice)).unwrap()
    }

    fn compile(spec: Value, slices: &[Slice]) -> Vec<DataplaneServicePort> {
        let name = ("shop".to_owned(), "web".to_owned());
        let front = Front::read(&service(spec));
        front.map(|front| join(&name, &front, slices.iter())).unwrap_or_default()
    }

    /// "10.0.0.1:80 node pod ready|draining" of each backend.
    fn backends(port: &DataplaneServicePort) -> Vec<String> {
        let describe = |backend: &DataplaneBackend| {
            let address: Vec<String> = backend.address.iter().map(u8::to_string).collect();
            let state = match (backend.ready, backend.terminating) {
                (true, false) => "ready",
                (false, true) => "draining",
                other => panic!("{other:?}"),
            };
            format!("{}:{} {} {} {state}", address.join("."), backend.port, backend.node_name, backend.pod)
        };
        port.backends.iter().map(describe).collect()
    }

    fn endpoint(address: &str, conditions: Value) -> Value {
        json!({"addresses": [address], "conditions": conditions, "nodeName": "n1",
               "targetRef": {"kind": "Pod", "namespace": "shop", "name": "web-1"}})
    }

    #[test]
    fn each_port_gets_the_backends_of_the_slice_port_of_its_name() {
        let spec = json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "type": "NodePort", "ports": [
            {"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080},
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "sctp", "port": 1, "protocol": "SCTP"}]});
        let slice = slice(
            json!([{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}]),
            json!([endpoint("10.32.1.2", json!({"ready": true}))]),
        );
        let [dns, http] = &compile(spec, &[slice])[..] else { panic!("not two ports") };
        assert_eq!(key(http).port_name, "http");
        assert_eq!((http.port, http.node_port, http.protocol), (80, 30080, DataplaneProtocol::Tcp.into()));
        assert_eq!(http.cluster_ips.iter().map(Vec::len).collect::<Vec<_>>(), [4, 16]);
        assert_eq!(backends(http), ["10.32.1.2:8080 n1 shop/web-1 ready"]);
        assert_eq!((dns.port, dns.node_port, dns.protocol), (53, 0, DataplaneProtocol::Udp.into()));
        assert_eq!(backends(dns), ["10.32.1.2:5353 n1 shop/web-1 ready"]);
    }

    #[test]
    fn services_without_addresses_are_not_sent() {
        let ports = json!([{"port": 80}]);
        for spec in [
            json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": ports}),
            json!({"type": "ExternalName", "externalName": "example.com", "clusterIP": "10.96.0.7", "ports": ports}),
            json!({"ports": ports}),
            json!({"clusterIP": "10.96.0.7"}),
        ] {
            assert_eq!(compile(spec.clone(), &[]), [], "{spec}");
        }
    }

    #[test]
    fn a_service_that_somebody_else_serves_is_not_sent() {
        let spec = json!({"clusterIP": "10.96.0.10", "ports": [{"port": 53}]});
        let metadata = json!({"name": "kube-dns", "labels": {PROXY_NAME: "weir-agent"}});
        assert_eq!(Front::read(&read(json!({"metadata": metadata, "spec": spec}))), None);
    }

    #[test]
    fn a_service_without_backends_is_sent_empty() {
        let [port] = &compile(json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}), &[])[..] else {
            panic!()
        };
        assert!(port.backends.is_empty());
    }

    #[test]
    fn conditions_decide_who_is_sent_and_as_what() {
        let cases = [
            (json!({}), Some("ready")),
            (json!({"ready": true}), Some("ready")),
            (json!({"ready": false}), None),
            (json!({"ready": false, "serving": true}), None),
            (json!({"ready": false, "serving": true, "terminating": true}), Some("draining")),
            (json!({"ready": true, "serving": true, "terminating": true}), Some("draining")),
            (json!({"ready": false, "serving": false, "terminating": true}), None),
        ];
        for (conditions, expected) in cases {
            let slice = slice(json!([{"port": 8080}]), json!([endpoint("10.32.1.2", conditions.clone())]));
            let [port] = &compile(json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}), &[slice])[..]
            else {
                panic!()
            };
            let expected: Vec<_> =
                expected.map(|state| format!("10.32.1.2:8080 n1 shop/web-1 {state}")).into_iter().collect();
            assert_eq!(backends(port), expected, "{conditions}");
        }
    }

    #[test]
    fn an_endpoint_in_two_slices_is_one_backend() {
        let ports = json!([{"port": 8080}]);
        let draining = json!({"ready": false, "serving": true, "terminating": true});
        let one =
            slice(ports.clone(), json!([endpoint("10.32.1.2", draining), endpoint("10.32.1.1", json!({}))]));
        let two = slice(ports, json!([endpoint("10.32.1.2", json!({"ready": true}))]));
        let spec = json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]});
        for slices in [[one.clone(), two.clone()], [two, one]] {
            let [port] = &compile(spec.clone(), &slices)[..] else { panic!() };
            let expected = ["10.32.1.1:8080 n1 shop/web-1 ready", "10.32.1.2:8080 n1 shop/web-1 ready"];
            assert_eq!(backends(port), expected);
        }
    }

    #[test]
    fn nonsense_addresses_and_ports_are_left_out() {
        let slice = slice(
            json!([{"port": 8080}, {"port": 0}, {}]),
            json!([endpoint("nowhere", json!({})), {"addresses": []}, endpoint("10.32.1.2", json!({}))]),
        );
        let spec = json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}, {"name": "bad", "port": 70000}]});
        let [port] = &compile(spec, &[slice])[..] else { panic!() };
        assert_eq!(backends(port), ["10.32.1.2:8080 n1 shop/web-1 ready"]);
    }

    #[test]
    fn a_node_has_a_route_once_it_has_an_address_and_a_range() {
        let node = |spec: Value, addresses: Value| -> Node {
            read(json!({"metadata": {"name": "n1"}, "spec": spec, "status": {"addresses": addresses}}))
        };
        let addresses =
            json!([{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "10.31.0.11"}]);
        assert_eq!(route(&node(json!({}), addresses.clone())), None);
        assert_eq!(route(&node(json!({"podCIDR": "10.32.1.0/24"}), json!([]))), None);
        let expected = DataplaneRoute {
            node_name: "n1".to_owned(),
            node_address: vec![10, 31, 0, 11],
            pod_cidrs: vec!["10.32.1.0/24".to_owned()],
        };
        for spec in [json!({"podCIDR": "10.32.1.0/24"}), json!({"podCIDRs": ["10.32.1.0/24"]})] {
            assert_eq!(route(&node(spec, addresses.clone())), Some(expected.clone()));
        }
    }
}
