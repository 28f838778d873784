//! The pod network of one node: addresses from the node's pod range, a veth pair for each pod, routes to the
//! other nodes' pods.
//!
//! A pod gets one address as a /32 on `eth0` and a default route by a link-local next hop whose neighbour entry
//! is permanent, so that a pod never asks for anything by ARP; the node gets a /32 route to the host-side end.
//! This alone makes pods reach each other; eBPF programs on the host-side ends are another crate's business.
//!
//! Invariants:
//! - The kernel and the address file are the only state. Each operation may be cut off anywhere and repeated.
//! - The calling process lives in the node's network namespace. A pod's namespace is entered only on a thread
//!   made for that purpose, which ends right after: no thread of the async runtime ever changes namespace.
//! - Routes are recognised by their protocol number ([`ROUTE_PROTOCOL`]); nothing else is ever removed.
//!
//! Left out: IPv6 pod ranges (refused by name), tunnels between nodes that share no link.

mod cidr;
mod error;
mod link;
mod loopback;
mod netns;
mod node;
mod offload;
mod pod;
mod pool;
mod removal;
mod routes;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

pub use cidr::{Cidr, CidrError};
pub use error::Error;
pub use link::{Interface, host_name, interface};
pub use loopback::hold_address;
pub use netns::run_in;
pub use node::prepare_node;
pub use pod::PodAttachment;
pub use pool::PoolError;
pub use routes::{ROUTE_PROTOCOL, Route};

/// What a node's pod network is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// Holds the file `addresses`; created if missing.
    pub state_dir: PathBuf,
    /// The node's own range, as the control plane assigned it.
    pub pod_cidr: Cidr,
    /// MTU of both ends of each pair.
    pub mtu: u32,
}

/// The pod network of this node. Cheap to share; calls for different pods may run at once, calls for one pod
/// must follow one another.
#[derive(Debug)]
pub struct Network {
    mtu: u32,
    netlink: rtnetlink::Handle,
    /// Held while listing: the kernel answers EBUSY to a second listing on the same socket.
    listing: tokio::sync::Mutex<()>,
    pool: Arc<Mutex<pool::PoolFile>>,
    removals: removal::Removals,
}

impl Network {
    /// Reads the address file and takes up the node's range: addresses of it that no pod holds become
    /// unreachable, instead of following the node's default route.
    ///
    /// Must be called within a tokio runtime, in the node's network namespace.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let pool = pool::PoolFile::open(&config.state_dir, config.pod_cidr)?;
        let netlink = netns::connect_here()?;
        routes::claim_range(&netlink, config.pod_cidr).await?;
        Ok(Self {
            mtu: config.mtu,
            netlink,
            listing: tokio::sync::Mutex::default(),
            pool: Arc::new(Mutex::new(pool)),
            removals: removal::Removals::default(),
        })
    }

    /// Pods that hold an address, by uid.
    pub fn leases(&self) -> BTreeMap<String, Ipv4Addr> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).leases().clone()
    }

    /// Runs `f` on the pool where its file may be written.
    async fn with_pool<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut pool::PoolFile) -> Result<T, PoolError> + Send + 'static,
    ) -> Result<T, Error> {
        let pool = Arc::clone(&self.pool);
        let work = move || f(&mut pool.lock().unwrap_or_else(PoisonError::into_inner));
        let done = tokio::task::spawn_blocking(work).await.map_err(|_| Error::Interrupted)?;
        Ok(done?)
    }
}
