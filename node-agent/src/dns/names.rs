//! What the control plane's stream says of services → what the zone holds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir_dns::{Endpoint, Endpoints, Port, Service, Target, Zone};
use weir_proto::weir::v1::{DataplaneBatch, DataplaneServiceKey, NamedEndpoints, NamedPort, ServiceNames};

/// The part of a batch that is about names.
#[derive(Debug, Default)]
pub struct Change {
    snapshot: bool,
    names: Vec<ServiceNames>,
    unnamed: Vec<DataplaneServiceKey>,
}

impl Change {
    /// Takes it out of the batch.
    pub fn of(batch: &mut DataplaneBatch) -> Self {
        Self {
            snapshot: batch.snapshot,
            names: std::mem::take(&mut batch.names),
            unnamed: std::mem::take(&mut batch.unnamed),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.snapshot && self.names.is_empty() && self.unnamed.is_empty()
    }

    pub(super) fn apply(self, zone: &mut Zone) {
        let services = self.names.into_iter().map(service);
        if self.snapshot {
            zone.replace(services.collect());
            return;
        }
        for key in self.unnamed {
            zone.remove(&key.namespace, &key.name);
        }
        services.for_each(|service| zone.set(service));
    }
}

/// What makes no sense of it is left out: one service's nonsense is no reason to be silent about the others.
fn service(names: ServiceNames) -> Service {
    let target = if !names.external_name.is_empty() {
        Target::External(names.external_name)
    } else if !names.cluster_ips.is_empty() {
        Target::Cluster {
            addresses: names.cluster_ips.iter().filter_map(|bytes| address(bytes)).collect(),
            ports: ports(names.ports),
        }
    } else {
        Target::Headless(names.endpoints.into_iter().map(endpoints).collect())
    };
    Service { namespace: names.namespace, name: names.name, target }
}

fn endpoints(slice: NamedEndpoints) -> Endpoints {
    let endpoints = slice.endpoints.into_iter().filter_map(|endpoint| {
        Some(Endpoint {
            address: address(&endpoint.address)?,
            hostname: (!endpoint.hostname.is_empty()).then_some(endpoint.hostname),
        })
    });
    Endpoints { ports: ports(slice.ports), endpoints: endpoints.collect() }
}

fn ports(ports: Vec<NamedPort>) -> Vec<Port> {
    let port = |port: NamedPort| {
        Some(Port { name: port.name, protocol: port.protocol, number: u16::try_from(port.port).ok()? })
    };
    ports.into_iter().filter_map(port).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into())
}

#[cfg(test)]
mod tests {
    use weir_proto::weir::v1::NamedEndpoint;

    use super::*;

    fn names(name: &str) -> ServiceNames {
        ServiceNames { namespace: "shop".to_owned(), name: name.to_owned(), ..ServiceNames::default() }
    }

    fn held(zone: &Zone) -> Vec<(String, Target)> {
        zone.services().map(|service| (service.name.clone(), service.target.clone())).collect()
    }

    #[test]
    fn a_snapshot_replaces_and_changes_add_up() {
        let mut zone = Zone::new("cluster.local", &[]).unwrap();
        let port = NamedPort { name: "http".to_owned(), protocol: "tcp".to_owned(), port: 80 };
        let web = ServiceNames {
            cluster_ips: vec![vec![10, 96, 0, 7], vec![1, 2, 3]],
            ports: vec![port.clone(), NamedPort { port: 70_000, ..port.clone() }],
            ..names("web")
        };
        let endpoint = |last, hostname: &str| NamedEndpoint {
            address: vec![10, 32, 0, last],
            hostname: hostname.to_owned(),
        };
        let slice =
            NamedEndpoints { ports: vec![port], endpoints: vec![endpoint(1, "db-0"), endpoint(2, "")] };
        let db = ServiceNames { endpoints: vec![slice], ..names("db") };
        let ext = ServiceNames { external_name: "example.com".to_owned(), ..names("ext") };
        let mut batch =
            DataplaneBatch { snapshot: true, names: vec![web, db, ext], ..DataplaneBatch::default() };
        Change::of(&mut batch).apply(&mut zone);
        assert!(batch.names.is_empty(), "taken");
        let ports = vec![Port { name: "http".to_owned(), protocol: "tcp".to_owned(), number: 80 }];
        let endpoint = |last, hostname: Option<&str>| Endpoint {
            address: [10, 32, 0, last].into(),
            hostname: hostname.map(str::to_owned),
        };
        let slice =
            Endpoints { ports: ports.clone(), endpoints: vec![endpoint(1, Some("db-0")), endpoint(2, None)] };
        let expected = [
            ("db".to_owned(), Target::Headless(vec![slice])),
            ("ext".to_owned(), Target::External("example.com".to_owned())),
            ("web".to_owned(), Target::Cluster { addresses: vec![[10, 96, 0, 7].into()], ports }),
        ];
        assert_eq!(held(&zone), expected);

        let gone = |name: &str| DataplaneServiceKey {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            port_name: String::new(),
        };
        let mut batch = DataplaneBatch {
            names: vec![names("idle")],
            unnamed: vec![gone("db"), gone("never")],
            ..DataplaneBatch::default()
        };
        Change::of(&mut batch).apply(&mut zone);
        let left: Vec<_> = held(&zone).into_iter().map(|(name, _)| name).collect();
        assert_eq!(left, ["ext", "idle", "web"]);

        let mut batch = DataplaneBatch { snapshot: true, ..DataplaneBatch::default() };
        Change::of(&mut batch).apply(&mut zone);
        assert_eq!(held(&zone), []);
    }
}
