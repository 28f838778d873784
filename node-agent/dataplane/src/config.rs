//! What the dataplane is told when it is opened.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the dataplane lives and whom it serves. One per node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory on a bpffs that holds this node's maps, programs and links; made when missing.
    pub bpffs: PathBuf,
    /// The node's cgroup2 directory: the socket programs serve every process below it.
    pub cgroup: PathBuf,
    /// Index of the interface towards the other nodes and the clients outside, in the caller's network namespace.
    pub uplink: u32,
    /// Addresses on which NodePorts answer. The first of each family is the source of translated traffic.
    pub node_addresses: Vec<IpAddr>,
    /// How the uplink's accelerator is attached.
    pub xdp: XdpMode,
    pub sizes: Sizes,
}

/// The XDP program only accelerates what the programs on tcx do as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    #[default]
    Off,
    /// In the driver, sending back out by XDP_TX. The uplink's driver must support it.
    Native,
    /// In the driver, sending back out by redirect. For a veth: its XDP_TX does not wake up the other end unless that runs
    /// an XDP program, too; a redirect does if the other end has GRO on.
    NativeRedirect,
    /// In the network stack, for drivers without support. Slower than none at all; for tests.
    Generic,
}

/// As flags and configuration files write it.
impl FromStr for XdpMode {
    type Err = UnknownXdpMode;

    fn from_str(word: &str) -> Result<Self, UnknownXdpMode> {
        match word {
            "off" => Ok(Self::Off),
            "native" => Ok(Self::Native),
            "native-redirect" => Ok(Self::NativeRedirect),
            "generic" => Ok(Self::Generic),
            _ => Err(UnknownXdpMode(word.to_owned())),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not off, native, native-redirect or generic")]
pub struct UnknownXdpMode(String);

/// Entries of the maps whose size is a choice. They count when a map is made: one that is adopted keeps its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Frontends: (address, port, protocol) triples. A service port with a ClusterIP and a NodePort takes one for its
    /// ClusterIP and one for each node address.
    pub services: u32,
    /// Backends of all service ports together, with room for old and new tables side by side.
    pub slots: u32,
    /// Translated flows take two entries each, one for each direction.
    pub conntrack: u32,
    /// Sockets whose destination was translated.
    pub sockets: u32,
    /// Pods on this node.
    pub pods: u32,
    /// Bytes of the ring of drop events, rounded up to a power of two of pages.
    pub events: u32,
}

/// About 75 MB of kernel memory at once, of which conntrack takes the most; the hashes of services and pods grow as they fill.
impl Default for Sizes {
    fn default() -> Self {
        Self {
            services: 1 << 17,
            slots: 1 << 19,
            conntrack: 1 << 18,
            sockets: 1 << 16,
            pods: 1 << 10,
            events: 1 << 18,
        }
    }
}
