//! What the control plane wants a node's kernel to hold.

use std::fmt;
use std::net::IpAddr;

/// A change to the services of the node. Routes are not the dataplane's: the programs ask the kernel's FIB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub revision: i64,
    /// What a snapshot does not name is removed.
    pub snapshot: bool,
    pub upserts: Vec<ServicePort>,
    pub deletes: Vec<ServiceKey>,
}

/// Names one port of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub namespace: String,
    pub name: String,
    /// Empty for a sole unnamed port.
    pub port_name: String,
}

impl ServiceKey {
    /// Reads what `Display` writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (namespace, rest) = text.split_once('/')?;
        let (name, port_name) = rest.split_once(':').unwrap_or((rest, ""));
        Some(Self { namespace: namespace.to_owned(), name: name.to_owned(), port_name: port_name.to_owned() })
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if self.port_name.is_empty() { Ok(()) } else { write!(f, ":{}", self.port_name) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// The number in the IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// One port of one Service with all that may answer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub key: ServiceKey,
    pub protocol: Protocol,
    pub cluster_ips: Vec<IpAddr>,
    pub port: u16,
    pub node_port: Option<u16>,
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub address: IpAddr,
    pub port: u16,
    pub node_name: String,
    /// "namespace/name" of the pod, for people to see.
    pub pod: String,
    /// Takes new flows.
    pub ready: bool,
    /// Still serves: keeps the flows it has, and takes new ones while no backend is ready.
    pub terminating: bool,
}

/// What the kernel maps hold after a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Service ports.
    pub services: u64,
    /// Backends that take new flows, summed over the service ports.
    pub backends: u64,
}
