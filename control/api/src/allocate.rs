//! Gives out cluster addresses and node ports.
//!
//! What is taken is a key in the store (`/registry/allocations/…`, the owner as value), written and deleted in the
//! same transaction as the Service: two servers cannot give the same address, and a crash cannot lose one.
//! A free one is guessed first, and looked for only when guesses were taken. The lower part of each range is left
//! to those who ask for an address by number, as in Kubernetes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use weir_proto::core::v1::{Service, ServiceSpec};
use weir_proto::status::ApiError;
use weir_proto::{Kind, Resource};
use weir_store::{ListOptions, Store, Txn};

use crate::random;
use crate::store_error;
use crate::strategy::service::{HEADLESS, has_node_ports};
use crate::validation::{Errors, Path};

const ADDRESSES: &str = "/registry/allocations/cluster-ips/";
const NODE_PORTS: &str = "/registry/allocations/node-ports/";
/// Guesses before the store is asked what is free.
const GUESSES: usize = 3;

/// From where addresses and ports are given.
#[derive(Debug, Clone)]
pub struct Ranges {
    pub cluster_ips: Cidr,
    pub node_ports: RangeInclusive<u16>,
}

impl Default for Ranges {
    fn default() -> Self {
        Ranges {
            cluster_ips: Cidr { base: Ipv4Addr::new(10, 96, 0, 0), bits: 16 },
            node_ports: 30_000..=32_767,
        }
    }
}

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    base: Ipv4Addr,
    bits: u8,
}

/// Why a text is not a service range.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    #[error("{0:?} is not an IPv4 network such as 10.96.0.0/16")]
    Cidr(String),
    #[error("{0:?}: a service range has between 8 and 24 fixed bits, and none set behind them")]
    Size(String),
    #[error("{0:?} is not a range of ports such as 30000-32767")]
    Ports(String),
}

impl FromStr for Cidr {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let wrong = || RangeError::Cidr(text.to_owned());
        let (base, bits) = text.split_once('/').ok_or_else(wrong)?;
        let base: Ipv4Addr = base.parse().map_err(|_| wrong())?;
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        let cidr = Cidr { base, bits };
        if !(8..=24).contains(&bits) || base.to_bits() & (cidr.size() - 1) != 0 {
            return Err(RangeError::Size(text.to_owned()));
        }
        Ok(cidr)
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

impl Cidr {
    /// The first address: the API's own.
    pub(crate) fn first(self) -> Ipv4Addr {
        self.at(1)
    }

    /// The tenth: that of cluster DNS.
    pub(crate) fn dns(self) -> Ipv4Addr {
        self.at(10)
    }

    fn size(self) -> u32 {
        1 << (32 - u32::from(self.bits.clamp(1, 32)))
    }

    /// Neither the network's own address nor its last one is given out.
    fn holds(self, address: Ipv4Addr) -> bool {
        let offset = address.to_bits().wrapping_sub(self.base.to_bits());
        offset > 0 && offset < self.size() - 1
    }

    fn at(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits().wrapping_add(offset))
    }

    /// Offsets that are given to those who do not ask for a number.
    fn dynamic(self) -> RangeInclusive<u32> {
        let reserved = (self.size() / 16).clamp(16, 256);
        reserved..=self.size() - 2
    }
}

/// Parses "30000-32767".
pub fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, RangeError> {
    let wrong = || RangeError::Ports(text.to_owned());
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let (first, last): (u16, u16) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    if first == 0 || last < first { Err(wrong()) } else { Ok(first..=last) }
}

/// Keys that a change takes and gives back, in the transaction that makes it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    taken: BTreeSet<String>,
    freed: BTreeSet<String>,
    owner: String,
}

impl Claims {
    pub(crate) fn add_to(&self, mut txn: Txn) -> Txn {
        for key in &self.taken {
            txn = txn.absent(key).put(key, self.owner.clone());
        }
        for key in &self.freed {
            txn = txn.delete(key);
        }
        txn
    }
}

pub(crate) struct Allocator {
    store: Arc<dyn Store>,
    ranges: Ranges,
}

impl Allocator {
    pub(crate) fn new(store: Arc<dyn Store>, ranges: Ranges) -> Self {
        Allocator { store, ranges }
    }

    /// Fills in what `service` needs and has not, and checks what it asks for by number.
    pub(crate) async fn plan(
        &self,
        service: &mut Service,
        old: Option<&Service>,
    ) -> Result<Claims, ApiError> {
        let meta = service.metadata.clone().unwrap_or_default();
        let before = old.and_then(|old| old.spec.as_ref()).map(claimed).unwrap_or_default();
        let spec = service.spec.get_or_insert_default();
        if spec.r#type != "ExternalName" && spec.cluster_ip.is_empty() {
            spec.cluster_ip = self.free_address().await?.to_string();
            spec.cluster_ips = vec![spec.cluster_ip.clone()];
        }
        if has_node_ports(spec) {
            self.fill_node_ports(spec).await?;
        }
        let after = claimed(spec);
        let taken: BTreeSet<_> = after.difference(&before).cloned().collect();
        self.check_claims(Service::KIND, &meta.name, spec, &taken).await?;
        let freed = before.difference(&after).cloned().collect();
        Ok(Claims { taken, freed, owner: format!("{}/{}", meta.namespace, meta.name) })
    }

    /// What goes with a deleted service.
    pub(crate) fn release(&self, service: &Service) -> Claims {
        let freed = service.spec.as_ref().map(claimed).unwrap_or_default();
        Claims { freed, ..Claims::default() }
    }

    async fn fill_node_ports(&self, spec: &mut ServiceSpec) -> Result<(), ApiError> {
        let mut own: BTreeSet<u16> = node_ports(spec).collect();
        for index in 0..spec.ports.len() {
            if spec.ports[index].node_port != 0 {
                continue;
            }
            // Two protocols of one port share a node port.
            let twin =
                spec.ports.iter().find(|other| other.port == spec.ports[index].port && other.node_port != 0);
            let number = match twin.map(|twin| twin.node_port) {
                Some(number) => number,
                None => {
                    let picked = self.free_node_port(&own).await?;
                    own.insert(picked);
                    i32::from(picked)
                }
            };
            spec.ports[index].node_port = number;
        }
        Ok(())
    }

    async fn free_address(&self) -> Result<Ipv4Addr, ApiError> {
        let cidr = self.ranges.cluster_ips;
        let range = cidr.dynamic();
        for _ in 0..GUESSES {
            let address = cidr.at(guess(&range)?);
            if self.is_free(&format!("{ADDRESSES}{address}")).await? {
                return Ok(address);
            }
        }
        let taken = self.taken(ADDRESSES).await?;
        let free = |offset: &u32| !taken.contains(&cidr.at(*offset).to_string());
        let offset = range.clone().find(free).or_else(|| (2..*range.start()).find(free));
        let exhausted =
            || ApiError::unavailable(format!("failed to allocate a serviceIP: range {cidr} is full"));
        offset.map(|offset| cidr.at(offset)).ok_or_else(exhausted)
    }

    async fn free_node_port(&self, own: &BTreeSet<u16>) -> Result<u16, ApiError> {
        let (first, last) = (*self.ranges.node_ports.start(), *self.ranges.node_ports.end());
        let reserved = ((u32::from(last) - u32::from(first) + 1) / 32).clamp(16, 128);
        let dynamic = (u32::from(first) + reserved).min(u32::from(last))..=u32::from(last);
        let to_port = |number: u32| u16::try_from(number).unwrap_or(last);
        for _ in 0..GUESSES {
            let port = to_port(guess(&dynamic)?);
            if !own.contains(&port) && self.is_free(&format!("{NODE_PORTS}{port}")).await? {
                return Ok(port);
            }
        }
        let taken = self.taken(NODE_PORTS).await?;
        let mut ports = dynamic.map(to_port).chain(first..=last);
        ports.find(|port| !own.contains(port) && !taken.contains(&port.to_string())).ok_or_else(|| {
            ApiError::unavailable(format!("failed to allocate a nodePort: {first}-{last} are taken"))
        })
    }

    async fn is_free(&self, key: &str) -> Result<bool, ApiError> {
        let found = self.store.get(key).await.map_err(store_error::during("read"))?;
        Ok(found.value.is_none())
    }

    async fn taken(&self, prefix: &str) -> Result<BTreeSet<String>, ApiError> {
        let page =
            self.store.list(prefix, ListOptions::default()).await.map_err(store_error::during("list"))?;
        Ok(page.items.into_iter().filter_map(|kv| kv.key.strip_prefix(prefix).map(str::to_owned)).collect())
    }

    /// What is asked for by number must be in range and free. (Whoever is faster in the transaction wins; the loser
    /// comes here again.)
    async fn check_claims(
        &self,
        kind: &'static Kind,
        name: &str,
        spec: &ServiceSpec,
        taken: &BTreeSet<String>,
    ) -> Result<(), ApiError> {
        let mut errors = Errors::default();
        let path = Path::root("spec");
        let address = &spec.cluster_ip;
        let key = format!("{ADDRESSES}{address}");
        if taken.contains(&key) {
            let path = path.child("clusterIPs");
            let path = path.index(0);
            let cidr = self.ranges.cluster_ips;
            if !address.parse().is_ok_and(|address| cidr.holds(address)) {
                let detail = format!(
                    "failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. The \
                     range of valid IPs is {cidr}"
                );
                errors.invalid(&path, address, detail);
            } else if !self.is_free(&key).await? {
                let detail = format!("failed to allocate IP {address}: provided IP is already allocated");
                errors.invalid(&path, address, detail);
            }
        }
        let ports = path.child("ports");
        for (index, port) in spec.ports.iter().enumerate() {
            let key = format!("{NODE_PORTS}{}", port.node_port);
            if port.node_port == 0 || !taken.contains(&key) {
                continue;
            }
            let path = ports.index(index);
            let path = path.child("nodePort");
            let range = &self.ranges.node_ports;
            if !u16::try_from(port.node_port).is_ok_and(|number| range.contains(&number)) {
                let detail = format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    range.start(),
                    range.end()
                );
                errors.invalid(&path, port.node_port, detail);
            } else if !self.is_free(&key).await? {
                errors.invalid(&path, port.node_port, "provided port is already allocated");
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, name, errors.into_causes())) }
    }
}

fn guess(range: &RangeInclusive<u32>) -> Result<u32, ApiError> {
    let width = range.end().saturating_sub(*range.start()) + 1;
    let offset = random::below(width).map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(range.start() + offset)
}

fn node_ports(spec: &ServiceSpec) -> impl Iterator<Item = u16> {
    spec.ports.iter().filter_map(|port| u16::try_from(port.node_port).ok()).filter(|port| *port != 0)
}

/// The keys that a service holds.
fn claimed(spec: &ServiceSpec) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    if !spec.cluster_ip.is_empty() && spec.cluster_ip != HEADLESS {
        keys.insert(format!("{ADDRESSES}{}", spec.cluster_ip));
    }
    if has_node_ports(spec) {
        keys.extend(
            spec.ports
                .iter()
                .filter(|port| port.node_port != 0)
                .map(|port| format!("{NODE_PORTS}{}", port.node_port)),
        );
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_bad_ones_refused() {
        let cidr: Cidr = "10.96.0.0/16".parse().unwrap();
        assert!(cidr.holds(Ipv4Addr::new(10, 96, 0, 1)));
        assert!(!cidr.holds(Ipv4Addr::new(10, 96, 0, 0)) && !cidr.holds(Ipv4Addr::new(10, 96, 255, 255)));
        assert!(!cidr.holds(Ipv4Addr::new(10, 97, 0, 1)) && !cidr.holds(Ipv4Addr::new(10, 95, 0, 1)));
        assert_eq!(cidr.dynamic(), 256..=65_534);
        for bad in ["10.96.0.0", "10.96.0.1/16", "x/16", "10.96.0.0/33", "10.0.0.0/4", "fd00::/108"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert_eq!(parse_ports("30000-32767").unwrap(), 30_000..=32_767);
        for bad in ["30000", "2-1", "0-5", "a-b", "1-70000"] {
            assert!(parse_ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_service_holds_its_address_and_its_node_ports() {
        let mut spec = ServiceSpec { cluster_ip: HEADLESS.to_owned(), ..ServiceSpec::default() };
        assert!(claimed(&spec).is_empty());
        spec.cluster_ip = "10.96.1.1".to_owned();
        spec.r#type = "NodePort".to_owned();
        spec.ports = vec![Default::default(), Default::default()];
        spec.ports[0].node_port = 30_001;
        spec.ports[1].node_port = 30_001;
        assert_eq!(claimed(&spec).len(), 2);
    }
}
