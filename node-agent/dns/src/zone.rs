//! What is known about the cluster's names, and what it says to a question. No I/O.
//!
//! Records are not stored: a question's name is taken apart, and what it asks for is looked up among the services. So
//! memory holds each service once, and a service of thousands of endpoints changes without thousands of records.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use thiserror::Error;

use crate::order::shuffle;
use crate::service::{Endpoint, Endpoints, Port, Service, Target};

/// For how long clients may keep an answer, in seconds; negative ones, too.
const TTL: u32 = 5;
/// The version of Kubernetes' specification of cluster DNS that is kept to.
const SPECIFICATION: &str = "1.1.0";

/// A domain that cannot be a cluster's.
#[derive(Debug, Error)]
#[error("{domain:?} is not a domain name: {reason}")]
pub struct ZoneError {
    domain: String,
    reason: String,
}

/// The cluster's names.
#[derive(Clone, Debug)]
pub struct Zone {
    origin: Name,
    /// Where this zone is served.
    addresses: Vec<IpAddr>,
    serial: u32,
    namespaces: BTreeMap<String, BTreeMap<String, Arc<Service>>>,
    by_address: HashMap<IpAddr, Vec<Arc<Service>>>,
}

/// What the zone says to a question.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Lookup {
    /// These records; with no answers, the name exists, but has nothing of this type.
    Found {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// The name stands for another.
    Alias {
        record: Box<Record>,
        target: Name,
    },
    NoSuchName,
    /// Not a name of the cluster.
    Foreign,
}

impl Lookup {
    fn found(answers: Vec<Record>) -> Self {
        Self::Found { answers, additionals: Vec::new() }
    }

    const fn nothing() -> Self {
        Self::Found { answers: Vec::new(), additionals: Vec::new() }
    }

    fn exists(exists: bool) -> Self {
        if exists { Self::nothing() } else { Self::NoSuchName }
    }
}

impl Zone {
    pub fn new(domain: &str, addresses: &[IpAddr]) -> Result<Self, ZoneError> {
        let wrong = |reason: String| ZoneError { domain: domain.to_owned(), reason };
        let mut origin =
            Name::from_ascii(domain.to_ascii_lowercase()).map_err(|error| wrong(error.to_string()))?;
        origin.set_fqdn(true);
        if origin.is_root() {
            return Err(wrong("a cluster cannot own every name".to_owned()));
        }
        Ok(Self {
            origin,
            addresses: addresses.to_vec(),
            serial: 1,
            namespaces: BTreeMap::new(),
            by_address: HashMap::new(),
        })
    }

    /// Where it is served from now on.
    pub fn set_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.addresses = addresses;
        self.serial = self.serial.wrapping_add(1);
    }

    /// Adds a service, or changes one.
    pub fn set(&mut self, service: Service) {
        self.remove(&service.namespace, &service.name);
        let service = Arc::new(service);
        for address in service.addresses() {
            self.by_address.entry(address).or_default().push(Arc::clone(&service));
        }
        let namespace = self.namespaces.entry(service.namespace.clone()).or_default();
        namespace.insert(service.name.clone(), service);
        self.serial = self.serial.wrapping_add(1);
    }

    pub fn remove(&mut self, namespace: &str, name: &str) {
        let Some(services) = self.namespaces.get_mut(namespace) else { return };
        let Some(service) = services.remove(name) else { return };
        if services.is_empty() {
            self.namespaces.remove(namespace);
        }
        for address in service.addresses() {
            if let Some(owners) = self.by_address.get_mut(&address) {
                owners.retain(|owner| !Arc::ptr_eq(owner, &service));
                if owners.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
        self.serial = self.serial.wrapping_add(1);
    }

    /// Makes these all the services there are.
    pub fn replace(&mut self, services: Vec<Service>) {
        self.namespaces.clear();
        self.by_address.clear();
        services.into_iter().for_each(|service| self.set(service));
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.namespaces.values().flat_map(BTreeMap::values)
    }

    pub(crate) fn origin(&self) -> &Name {
        &self.origin
    }

    /// Where it is served.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// What goes with a negative answer: how long it may be kept.
    pub(crate) fn soa(&self) -> Record {
        let beneath = |labels: &[&str]| self.beneath(labels).unwrap_or_else(|| self.origin.clone());
        let soa =
            SOA::new(beneath(&["ns", "dns"]), beneath(&["hostmaster"]), self.serial, 7200, 1800, 86400, TTL);
        Record::from_rdata(self.origin.clone(), TTL, RData::SOA(soa))
    }

    pub(crate) fn lookup(&self, name: &Name, kind: RecordType) -> Lookup {
        if !self.origin.zone_of(name) {
            return self.reverse(name, kind);
        }
        let depth = usize::from(name.num_labels().saturating_sub(self.origin.num_labels()));
        let labels: Option<Vec<String>> = name
            .iter()
            .take(depth)
            .map(|label| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase()))
            .collect();
        let Some(labels) = labels else { return Lookup::NoSuchName };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels[..] {
            [] => self.apex(name, kind),
            ["dns-version"] => match kind {
                RecordType::TXT => {
                    let text = RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()]));
                    Lookup::found(vec![record(name, text)])
                }
                _ => Lookup::nothing(),
            },
            ["ns", "dns"] => Lookup::found(addresses(name, kind, self.addresses.iter().copied())),
            ["dns" | "svc" | "pod"] | [_, "pod"] => Lookup::nothing(),
            [address, _, "pod"] => match pod_address(address) {
                Some(address) => Lookup::found(addresses(name, kind, [address].into_iter())),
                None => Lookup::NoSuchName,
            },
            [namespace, "svc"] => Lookup::exists(self.namespaces.contains_key(namespace)),
            [.., service, namespace, "svc"] => match self.service(namespace, service) {
                Some(service) => self.beneath_service(service, &labels[..labels.len() - 3], name, kind),
                None => Lookup::NoSuchName,
            },
            _ => Lookup::NoSuchName,
        }
    }

    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        Some(self.namespaces.get(namespace)?.get(name)?)
    }

    fn apex(&self, name: &Name, kind: RecordType) -> Lookup {
        let server = self.beneath(&["ns", "dns"]);
        match (kind, server) {
            (RecordType::SOA, _) => Lookup::found(vec![self.soa()]),
            (RecordType::NS, Some(server)) => Lookup::Found {
                additionals: self.all_addresses(&server, self.addresses.iter().copied()),
                answers: vec![record(name, RData::NS(NS(server)))],
            },
            _ => Lookup::nothing(),
        }
    }

    /// `labels` is what stands before the service's own name.
    fn beneath_service(&self, service: &Service, labels: &[&str], name: &Name, kind: RecordType) -> Lookup {
        match (&service.target, labels) {
            (Target::External(target), []) => match Name::from_ascii(target) {
                Ok(mut target) => {
                    target.set_fqdn(true);
                    let record = record(name, RData::CNAME(CNAME(target.clone())));
                    Lookup::Alias { record: Box::new(record), target }
                }
                Err(_) => Lookup::nothing(),
            },
            (Target::Cluster { addresses: given, ports }, []) => match kind {
                RecordType::SRV => self.ports_of(service, given, ports.iter(), name),
                _ => Lookup::found(addresses(name, kind, given.iter().copied())),
            },
            (Target::Cluster { addresses, ports }, [port, protocol]) => {
                let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_'))
                else {
                    return Lookup::NoSuchName;
                };
                let mut matching = ports.iter().filter(|one| is_called(one, port, protocol)).peekable();
                match (matching.peek(), kind) {
                    (None, _) => Lookup::NoSuchName,
                    (_, RecordType::SRV) => self.ports_of(service, addresses, matching, name),
                    _ => Lookup::nothing(),
                }
            }
            (Target::Cluster { ports, .. }, [protocol]) => Lookup::exists(names_protocol(ports, protocol)),
            (Target::Headless(slices), labels) => self.beneath_headless(service, slices, labels, name, kind),
            _ => Lookup::NoSuchName,
        }
    }

    /// A headless service without endpoints does not exist, by the specification.
    fn beneath_headless(
        &self,
        service: &Service,
        slices: &[Endpoints],
        labels: &[&str],
        name: &Name,
        kind: RecordType,
    ) -> Lookup {
        let chosen: Vec<(&Endpoints, &Endpoint)> =
            slices.iter().flat_map(|slice| slice.endpoints.iter().map(move |one| (slice, one))).collect();
        if chosen.is_empty() {
            return Lookup::NoSuchName;
        }
        let of = |endpoints: &[(&Endpoints, &Endpoint)]| match kind {
            RecordType::SRV => self.endpoints_of(service, endpoints, |_| true, name),
            _ => {
                let mut found = addresses(name, kind, endpoints.iter().map(|(_, endpoint)| endpoint.address));
                shuffle(&mut found);
                Lookup::found(found)
            }
        };
        match labels {
            [] => of(&chosen),
            [label] if label.starts_with('_') => {
                Lookup::exists(slices.iter().any(|slice| names_protocol(&slice.ports, label)))
            }
            [label] => {
                let called: Vec<_> =
                    chosen.into_iter().filter(|(_, endpoint)| endpoint.label() == *label).collect();
                if called.is_empty() { Lookup::NoSuchName } else { of(&called) }
            }
            [port, protocol] => {
                let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_'))
                else {
                    return Lookup::NoSuchName;
                };
                let called = |one: &Port| is_called(one, port, protocol);
                let matching: Vec<_> =
                    chosen.into_iter().filter(|(slice, _)| slice.ports.iter().any(called)).collect();
                match (matching.is_empty(), kind) {
                    (true, _) => Lookup::NoSuchName,
                    (_, RecordType::SRV) => self.endpoints_of(service, &matching, called, name),
                    _ => Lookup::nothing(),
                }
            }
            _ => Lookup::NoSuchName,
        }
    }

    /// SRV of a service with addresses of its own: its own name is the target.
    fn ports_of<'a>(
        &self,
        service: &Service,
        given: &[IpAddr],
        ports: impl Iterator<Item = &'a Port>,
        name: &Name,
    ) -> Lookup {
        let Some(target) = self.name_of(service, None) else { return Lookup::nothing() };
        let srv = |port: &Port| record(name, RData::SRV(SRV::new(0, 100, port.number, target.clone())));
        let answers = ports.map(srv).collect();
        Lookup::Found { answers, additionals: self.all_addresses(&target, given.iter().copied()) }
    }

    /// SRV of endpoints: the name of each is a target. One of two families is two endpoints of one name.
    fn endpoints_of(
        &self,
        service: &Service,
        endpoints: &[(&Endpoints, &Endpoint)],
        called: impl Fn(&Port) -> bool,
        name: &Name,
    ) -> Lookup {
        let mut targets: BTreeMap<(String, u16), ()> = BTreeMap::new();
        let mut addresses: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for (slice, endpoint) in endpoints {
            let label = endpoint.label();
            for port in slice.ports.iter().filter(|port| called(port)) {
                targets.insert((label.clone(), port.number), ());
            }
            addresses.entry(label).or_default().push(endpoint.address);
        }
        let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(1).max(1);
        let mut answers: Vec<Record> = targets
            .into_keys()
            .filter_map(|(label, port)| {
                let target = self.name_of(service, Some(&label))?;
                Some(record(name, RData::SRV(SRV::new(0, weight, port, target))))
            })
            .collect();
        shuffle(&mut answers);
        let additionals = addresses.into_iter().filter_map(|(label, addresses)| {
            let target = self.name_of(service, Some(&label))?;
            Some(self.all_addresses(&target, addresses.into_iter()))
        });
        Lookup::Found { additionals: additionals.flatten().collect(), answers }
    }

    /// `10.0.96.10.in-addr.arpa` and the like. Addresses that are not the cluster's may be somebody else's.
    fn reverse(&self, name: &Name, kind: RecordType) -> Lookup {
        let Some(address) = arpa_address(name) else { return Lookup::Foreign };
        let Some(owners) = self.by_address.get(&address) else { return Lookup::Foreign };
        if kind != RecordType::PTR {
            return Lookup::nothing();
        }
        let mut names = Vec::new();
        for service in owners {
            match &service.target {
                Target::Headless(slices) => {
                    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
                    let there = endpoints.filter(|endpoint| endpoint.address == address);
                    names.extend(there.filter_map(|endpoint| self.name_of(service, Some(&endpoint.label()))));
                }
                _ => names.extend(self.name_of(service, None)),
            }
        }
        names.sort_unstable();
        names.dedup();
        Lookup::found(names.into_iter().map(|target| record(name, RData::PTR(PTR(target)))).collect())
    }

    /// `service.namespace.svc.cluster.local`, or the name of an endpoint beneath it; `None` if it were too long.
    fn name_of(&self, service: &Service, label: Option<&str>) -> Option<Name> {
        let own = [service.name.as_str(), &service.namespace, "svc"];
        let labels: Vec<&str> = label.into_iter().chain(own).collect();
        self.beneath(&labels)
    }

    fn beneath(&self, labels: &[&str]) -> Option<Name> {
        let name = Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?;
        name.append_domain(&self.origin).ok()
    }

    fn all_addresses(&self, name: &Name, given: impl Iterator<Item = IpAddr> + Clone) -> Vec<Record> {
        let mut all = addresses(name, RecordType::A, given.clone());
        all.extend(addresses(name, RecordType::AAAA, given));
        all
    }
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

/// Those of the family that is asked for, each once.
fn addresses(name: &Name, kind: RecordType, given: impl Iterator<Item = IpAddr>) -> Vec<Record> {
    let mut matching: Vec<IpAddr> = given
        .filter(|address| {
            matches!((kind, address), (RecordType::A, IpAddr::V4(_)) | (RecordType::AAAA, IpAddr::V6(_)))
        })
        .collect();
    matching.sort_unstable();
    matching.dedup();
    let data = |address| match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    matching.into_iter().map(|address| record(name, data(address))).collect()
}

fn is_called(port: &Port, name: &str, protocol: &str) -> bool {
    !name.is_empty() && port.name.eq_ignore_ascii_case(name) && port.protocol == protocol
}

/// Whether `_tcp` stands between a port's name and the service's.
fn names_protocol(ports: &[Port], label: &str) -> bool {
    let protocol = label.strip_prefix('_');
    ports.iter().any(|port| !port.name.is_empty() && Some(port.protocol.as_str()) == protocol)
}

/// `10-32-0-7` and `fd00--7`.
fn pod_address(label: &str) -> Option<IpAddr> {
    if let Ok(address) = label.replace('-', ".").parse() {
        return Some(IpAddr::V4(address));
    }
    label.replace('-', ":").parse().ok().map(IpAddr::V6)
}

/// The whole address that a name of `in-addr.arpa` or `ip6.arpa` stands for.
fn arpa_address(name: &Name) -> Option<IpAddr> {
    // Anything else is told from its length, before it is parsed.
    match name.num_labels() {
        6 | 34 => {}
        _ => return None,
    }
    let network = name.parse_arpa_name().ok()?;
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
