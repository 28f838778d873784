//! The eBPF dataplane of one node: loads the programs, owns the pinned maps, turns services into map writes.

mod batch;
mod config;
mod view;

use std::net::IpAddr;
use std::path::Path;

pub use batch::{Applied, Backend, Batch, Protocol, ServiceKey, ServicePort};
pub use config::{Config, Sizes, XdpMode};
pub use view::{Table, UnknownView, View};

/// A pod's way into the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// The veth's end on the node.
    pub ifindex: u32,
    /// At most one of each family.
    pub addresses: Vec<IpAddr>,
    pub pod_mac: [u8; 6],
    pub host_mac: [u8; 6],
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("built without eBPF programs; run `cargo xtask ebpf` first")]
    NotBuilt,
}

type Result<T, E = Error> = std::result::Result<T, E>;

/// The loaded dataplane. Dropping it changes nothing in the kernel.
#[derive(Debug)]
pub struct Dataplane {}

impl Dataplane {
    /// Loads and pins programs and maps, or adopts what is pinned. The caller is in the node's network namespace, and
    /// makes all further calls from it.
    pub fn open(_config: &Config) -> Result<Self> {
        Err(Error::NotBuilt)
    }

    /// Opens the pinned maps of a node for `view` alone.
    pub fn inspect_only(_bpffs: &Path) -> Result<Self> {
        Err(Error::NotBuilt)
    }

    /// Puts a pod on the network; again with the same link is no change.
    pub fn attach_pod(&mut self, _link: &PodLink) -> Result<()> {
        Err(Error::NotBuilt)
    }

    /// Takes a pod off; one that is not there is no error.
    pub fn detach_pod(&mut self, _ifindex: u32) -> Result<()> {
        Err(Error::NotBuilt)
    }

    pub fn pod_links(&self) -> Result<Vec<PodLink>> {
        Err(Error::NotBuilt)
    }

    /// Brings the kernel to what the batch says. On an error the old state stands.
    pub fn apply(&mut self, _batch: &Batch) -> Result<Applied> {
        Err(Error::NotBuilt)
    }

    /// Forgets flows whose time is over; to be called every few seconds. Returns how many.
    pub fn collect(&mut self) -> Result<usize> {
        Err(Error::NotBuilt)
    }

    pub fn view(&self, _view: View) -> Result<Table> {
        Err(Error::NotBuilt)
    }

    /// Removes every pinned map, program and link of a node. Returns what was removed.
    pub fn unload(_bpffs: &Path) -> Result<Vec<String>> {
        Err(Error::NotBuilt)
    }
}
