//! The eBPF dataplane of one node: loads the programs, owns the pinned maps, turns services into map writes.
//!
//! - Programs, maps and links are pinned on a bpffs: the dataplane outlives the agent. An agent that starts adopts what it
//!   finds; one with other programs exchanges them behind the same links and maps.
//! - What the maps hold is the state. All that an agent knows besides is read back from them, or comes with the next
//!   snapshot.
//! - Everything here is synchronous and runs in the node's network namespace, on the thread of the caller.
//!
//! Left out: routes, which the programs ask the kernel's FIB for, and interfaces, which the network crate makes.

mod apply;
mod batch;
mod config;
mod entries;
mod error;
mod events;
mod flows;
mod inspect;
mod maps;
mod object;
mod pods;
mod programs;
mod services;
mod slots;
mod sys;
mod unload;
mod view;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{self, FsType};
use tracing::info;
use weir_ebpf_common::{IfIndex, Node};

pub use batch::{Applied, Backend, Batch, Protocol, ServiceKey, ServicePort};
pub use config::{Config, Sizes, UnknownXdpMode, XdpMode};
pub use error::Error;
pub use events::Dropped;
pub use inspect::Inspector;
pub use pods::PodLink;
pub use services::PlanError;
pub use view::{Table, UnknownView, View};

use apply::Quarantine;
use maps::Maps;
use programs::Programs;
use services::Services;
use slots::Slots;

type Result<T, E = Error> = std::result::Result<T, E>;

/// `BPF_FS_MAGIC`.
const BPFFS: FsType = FsType(0xcafe_4a11);

/// The loaded dataplane. Dropping it changes nothing in the kernel.
#[derive(Debug)]
pub struct Dataplane {
    bpffs: PathBuf,
    node_addresses: Vec<IpAddr>,
    /// What the maps really hold: an adopted map keeps its size.
    sizes: Sizes,
    maps: Maps,
    programs: Programs,
    services: Services,
    slots: Slots,
    quarantine: Quarantine,
}

impl Dataplane {
    /// Loads and pins programs and maps, or adopts what is pinned. The caller is in the node's network namespace, and
    /// makes all further calls from it.
    pub fn open(config: &Config) -> Result<Self> {
        let object = object::bytes()?;
        let build = object::build(object);
        prepare(&config.bpffs)?;
        let (mut maps, programs) = match adopt(&config.bpffs, build)? {
            Some(adopted) => adopted,
            None => {
                let programs = Programs::load(object, config)?;
                let mut maps = Maps::open(&config.bpffs)?;
                set_node(&mut maps, config, 0)?;
                programs.pin(&config.bpffs)?;
                (maps, programs)
            }
        };
        let (services, slots) = apply::read(&mut maps, maps::info(&config.bpffs, "SLOTS")?.max_entries())?;
        for ifindex in programs.attach_node(config)? {
            info!(ifindex, "a pod's interface is gone; forgetting it");
            programs::detach_pod(&config.bpffs, ifindex)?;
            pods::forget(&mut maps, ifindex)?;
        }
        set_node(&mut maps, config, build)?;
        let sizes = Sizes {
            services: maps::info(&config.bpffs, "SERVICES")?.max_entries(),
            slots: maps::info(&config.bpffs, "SLOTS")?.max_entries(),
            ..config.sizes
        };
        Ok(Self {
            bpffs: config.bpffs.clone(),
            node_addresses: config.node_addresses.clone(),
            sizes,
            maps,
            programs,
            services,
            slots,
            quarantine: Quarantine::default(),
        })
    }

    /// Opens the pinned maps of a node for `view` alone.
    pub fn inspect_only(bpffs: &Path) -> Result<Inspector> {
        Inspector::open(bpffs)
    }

    /// A table read from the live maps.
    pub fn view(&self, view: View) -> Result<Table> {
        inspect::table(view, &self.bpffs, &self.maps, Some(&self.services))
    }

    /// Forgets flows whose time is over; to be called every few seconds. Returns how many map entries.
    pub fn collect(&mut self) -> Result<usize> {
        flows::collect(&mut self.maps)
    }

    /// Removes every pinned map, program and link of a node. Returns what was removed.
    pub fn unload(bpffs: &Path) -> Result<Vec<String>> {
        unload::unload(bpffs)
    }
}

/// Makes the directories, if they are on a bpffs.
fn prepare(bpffs: &Path) -> Result<()> {
    let failed = |source| Error::Directory { path: bpffs.to_owned(), source };
    let existing = bpffs.ancestors().find(|path| path.exists()).unwrap_or(bpffs);
    let filesystem = statfs::statfs(existing).map_err(|errno| failed(errno.into()))?;
    if filesystem.filesystem_type() != BPFFS {
        return Err(Error::NotBpffs { path: bpffs.to_owned() });
    }
    fs::create_dir_all(programs::programs_directory(bpffs)).map_err(failed)?;
    fs::create_dir_all(programs::links_directory(bpffs)).map_err(failed)
}

/// The maps and programs that an agent with the very same programs left.
fn adopt(bpffs: &Path, build: u64) -> Result<Option<(Maps, Programs)>> {
    if maps::MAPS.iter().any(|spec| !maps::pin_path(bpffs, spec.name).exists()) {
        return Ok(None);
    }
    let maps = Maps::open(bpffs)?;
    let node = maps.node.get(&0, 0).map_err(|source| Error::Map { action: "read", map: "NODE", source })?;
    if node.build() != build {
        return Ok(None);
    }
    Ok(Programs::adopt(bpffs).map(|programs| (maps, programs)))
}

fn set_node(maps: &mut Maps, config: &Config, build: u64) -> Result<()> {
    let mut first = [None; 2];
    for address in &config.node_addresses {
        first[usize::from(address.is_ipv6())].get_or_insert(*address);
    }
    let first: Vec<IpAddr> = first.into_iter().flatten().collect();
    let redirects = config.xdp == XdpMode::NativeRedirect;
    let node = Node::new(pods::by_family(&first)?, IfIndex::new(config.uplink), redirects, build);
    maps.node.set(0, node, 0).map_err(|source| Error::Map { action: "write to", map: "NODE", source })
}
