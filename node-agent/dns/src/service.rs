//! Services as DNS knows them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// One Service and what its name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub target: Target,
}

/// What the name of a service stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// Addresses of the service's own.
    Cluster { addresses: Vec<IpAddr>, ports: Vec<Port> },
    /// Those of its endpoints.
    Headless(Vec<Endpoints>),
    /// Another name.
    External(String),
}

/// Endpoints that have the same ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    pub ports: Vec<Port>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Empty for a sole port without a name.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    pub number: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: IpAddr,
    /// The pod's, if its subdomain is the service's name.
    pub hostname: Option<String>,
}

impl Endpoint {
    /// The name beneath the service's: `web-0`, or the address as `10-32-0-7`, `fd00--7`.
    pub(crate) fn label(&self) -> String {
        match &self.hostname {
            Some(hostname) => hostname.to_ascii_lowercase(),
            None => self.address.to_string().replace(['.', ':'], "-"),
        }
    }
}

impl Service {
    /// Addresses that lead back to the service's name, or to names beneath it.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses = match &self.target {
            Target::Cluster { addresses, .. } => addresses.clone(),
            Target::Headless(slices) => {
                slices.iter().flat_map(|slice| &slice.endpoints).map(|endpoint| endpoint.address).collect()
            }
            Target::External(_) => Vec::new(),
        };
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }
}
