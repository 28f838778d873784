//! Names, addresses and paths of a cluster on one machine. Pure: two layouts with the same name are the same cluster.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::shell::workspace;

/// Where the control plane keeps its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// One file, nothing to install
    Embedded,
    /// A real etcd, Debian's etcd-server, installed if missing
    Etcd,
}

#[derive(Clone, Debug)]
pub struct Layout {
    /// Prefix of every name in the machine: namespaces, cgroups, pins.
    pub name: String,
    /// All state: control plane, nodes, images, logs, kubeconfig.
    pub directory: PathBuf,
    pub nodes: u8,
    pub store: Store,
    /// Of every agent, beside what every cluster needs.
    pub agent_flags: Vec<String>,
    /// Of Services.
    pub service_cidr: String,
}

/// The nodes share one machine, whose disk and memory are none of theirs: they mind only when it is about to die.
const SHARED_MACHINE: &str = "--eviction-hard=memory.available<30Mi,nodefs.available<1%";

fn shared() -> Vec<String> {
    vec![SHARED_MACHINE.to_owned()]
}

impl Layout {
    /// The cluster of this workspace: `weir`, under `.weir/`.
    pub fn workspace(nodes: u8, store: Store) -> Result<Self> {
        Ok(Self {
            name: "weir".to_owned(),
            directory: workspace().join(".weir"),
            nodes,
            store,
            agent_flags: shared(),
            service_cidr: SERVICE_CIDR.to_owned(),
        })
    }

    /// A cluster for one test: its name and directory are its own.
    pub fn for_test(name: &str, nodes: u8, store: Store) -> Result<Self> {
        let directory = std::env::temp_dir().join(name);
        let directory = std::path::absolute(&directory).context("the temporary directory's path")?;
        Ok(Self {
            name: name.to_owned(),
            directory,
            nodes,
            store,
            agent_flags: shared(),
            service_cidr: SERVICE_CIDR.to_owned(),
        })
    }

    pub fn node_names(&self) -> impl Iterator<Item = String> {
        (1..=self.nodes).map(|number| format!("node-{number}"))
    }

    /// Network namespace of the bridge, the control plane and etcd.
    pub fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    /// Network namespace of a client outside the nodes.
    pub fn client(&self) -> String {
        format!("{}-client", self.name)
    }

    pub fn namespace_of(&self, node: &str) -> String {
        format!("{}-{node}", self.name)
    }

    /// The node's InternalIP: 10.31.0.11 for the first.
    pub fn address_of(&self, node: &str) -> Ipv4Addr {
        let number: u8 = node.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        Ipv4Addr::new(10, 31, 0, 10 + number)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    pub fn control_directory(&self) -> PathBuf {
        self.directory.join("control")
    }

    pub fn node_directory(&self, node: &str) -> PathBuf {
        self.directory.join("nodes").join(node)
    }

    pub fn images(&self) -> PathBuf {
        self.directory.join("images")
    }

    /// What the nodes take for their resolv.conf: nodes' and pods' names for the outside.
    pub fn resolv_conf(&self) -> PathBuf {
        self.directory.join("resolv.conf")
    }

    pub fn log_of(&self, process: &str) -> PathBuf {
        self.directory.join("logs").join(format!("{process}.log"))
    }

    /// Relative to each cgroup hierarchy's mount.
    pub fn cgroup_of(&self, process: &str) -> String {
        format!("{}/{process}", self.name)
    }

    pub fn pins(&self) -> PathBuf {
        PathBuf::from(BPFFS).join(&self.name)
    }

    pub fn pins_of(&self, node: &str) -> PathBuf {
        self.pins().join(node)
    }
}

pub(super) const BPFFS: &str = "/sys/fs/bpf";
pub(super) const BRIDGE: &str = "weir0";
pub const HUB_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 31, 0, 1);
pub(super) const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 31, 0, 200);
pub(super) const CLUSTER_CIDR: &str = "10.32.0.0/16";
pub(super) const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The tenth of the service range, as the control plane reserves it.
pub const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub(super) const API_PORT: u16 = 6443;
pub(super) const AGENT_PORT: u16 = 10250;
