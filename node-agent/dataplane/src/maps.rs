//! The pinned maps: what they are called, who uses them, and typed handles on them.

use std::fmt;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray};
use weir_ebpf_common::{
    Address, Counter, DropReason, Endpoint, Flow, Frontend, IfIndex, Link, Node, Peer, Service, ServiceId,
    ServiceName, Slot, SocketKey, Tuple,
};

use crate::{Error, Result, Sizes};

/// A map and what people should know about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapSpec {
    pub(crate) name: &'static str,
    pub(crate) key: usize,
    pub(crate) value: usize,
    pub(crate) written_by: &'static str,
    pub(crate) read_by: &'static str,
    /// Its size by configuration; `None` where it is fixed.
    pub(crate) size: fn(&Sizes) -> Option<u32>,
}

/// All maps, in the order in which `view` shows them.
pub(crate) const MAPS: [MapSpec; 12] = [
    spec::<Frontend, Service>("SERVICES", "agent", "socket LB, from_pod, from_uplink, uplink_xdp", |s| {
        Some(s.services)
    }),
    spec::<u32, Slot>("SLOTS", "agent", "socket LB, from_pod, from_uplink, uplink_xdp", |s| Some(s.slots)),
    spec::<ServiceId, ServiceName>("NAMES", "agent", "agent", |s| Some(s.services)),
    spec::<Tuple, Flow>("CONNTRACK", "packet programs, agent (removes)", "packet programs, agent", |s| {
        Some(s.conntrack)
    }),
    spec::<SocketKey, Peer>("SOCKET_FORWARD", "sendmsg4/6, agent (removes)", "sendmsg4/6, agent", |s| {
        Some(s.sockets)
    }),
    spec::<SocketKey, Peer>(
        "SOCKET_REVERSE",
        "connect4/6, sendmsg4/6, agent (removes)",
        "recvmsg4/6, getpeername4/6, agent",
        |s| Some(s.sockets),
    ),
    spec::<IfIndex, Link>("LINKS", "agent", "from_pod, agent", |s| Some(s.pods)),
    // Two families each.
    spec::<Address, Endpoint>("ENDPOINTS", "agent", "packet programs", |s| Some(s.pods.saturating_mul(2))),
    spec::<u32, Node>("NODE", "agent", "from_uplink, uplink_xdp, agent", |_| None),
    spec::<u32, u64>("COUNTERS", "all programs", "agent", |_| None),
    spec::<u32, u64>("DROPS", "all programs", "agent", |_| None),
    MapSpec {
        name: "EVENTS",
        key: 0,
        value: 0,
        written_by: "packet programs",
        read_by: "agent",
        size: |s| Some(s.events),
    },
];

const fn spec<K, V>(
    name: &'static str,
    written_by: &'static str,
    read_by: &'static str,
    size: fn(&Sizes) -> Option<u32>,
) -> MapSpec {
    MapSpec { name, key: size_of::<K>(), value: size_of::<V>(), written_by, read_by, size }
}

/// Where a map is pinned.
pub(crate) fn pin_path(bpffs: &Path, name: &str) -> PathBuf {
    bpffs.join(name)
}

pub(crate) struct Maps {
    pub(crate) services: HashMap<MapData, Frontend, Service>,
    pub(crate) slots: Array<MapData, Slot>,
    pub(crate) names: HashMap<MapData, ServiceId, ServiceName>,
    pub(crate) conntrack: HashMap<MapData, Tuple, Flow>,
    pub(crate) socket_forward: HashMap<MapData, SocketKey, Peer>,
    pub(crate) socket_reverse: HashMap<MapData, SocketKey, Peer>,
    pub(crate) links: HashMap<MapData, IfIndex, Link>,
    pub(crate) endpoints: HashMap<MapData, Address, Endpoint>,
    pub(crate) node: Array<MapData, Node>,
    pub(crate) counters: PerCpuArray<MapData, u64>,
    pub(crate) drops: PerCpuArray<MapData, u64>,
}

/// Not all of aya's handles can be printed.
impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

impl Maps {
    /// Opens the maps pinned below `bpffs`, and refuses those that an incompatible agent made.
    pub(crate) fn open(bpffs: &Path) -> Result<Self> {
        for spec in &MAPS {
            check_layout(bpffs, spec)?;
        }
        Ok(Self {
            services: typed(bpffs, "SERVICES")?,
            slots: typed(bpffs, "SLOTS")?,
            names: typed(bpffs, "NAMES")?,
            conntrack: typed(bpffs, "CONNTRACK")?,
            socket_forward: typed(bpffs, "SOCKET_FORWARD")?,
            socket_reverse: typed(bpffs, "SOCKET_REVERSE")?,
            links: typed(bpffs, "LINKS")?,
            endpoints: typed(bpffs, "ENDPOINTS")?,
            node: typed(bpffs, "NODE")?,
            counters: typed(bpffs, "COUNTERS")?,
            drops: typed(bpffs, "DROPS")?,
        })
    }

    /// The sum over all CPUs.
    pub(crate) fn counter(&self, counter: Counter) -> Result<u64> {
        sum(&self.counters, "COUNTERS", counter as u32)
    }

    /// The sum over all CPUs.
    pub(crate) fn dropped(&self, reason: DropReason) -> Result<u64> {
        sum(&self.drops, "DROPS", reason as u32)
    }
}

pub(crate) fn info(bpffs: &Path, name: &'static str) -> Result<MapInfo> {
    MapInfo::from_pin(pin_path(bpffs, name)).map_err(|source| Error::Map {
        action: "open",
        map: name,
        source,
    })
}

fn check_layout(bpffs: &Path, spec: &MapSpec) -> Result<()> {
    let info = info(bpffs, spec.name)?;
    let found = (info.key_size(), info.value_size());
    if (found.0 as usize, found.1 as usize) == (spec.key, spec.value) {
        Ok(())
    } else {
        let path = pin_path(bpffs, spec.name);
        Err(Error::Layout { path, key: found.0, value: found.1, want_key: spec.key, want_value: spec.value })
    }
}

fn typed<M>(bpffs: &Path, name: &'static str) -> Result<M>
where
    M: TryFrom<Map, Error = MapError>,
{
    MapData::from_pin(pin_path(bpffs, name))
        .and_then(Map::from_map_data)
        .and_then(M::try_from)
        .map_err(|source| Error::Map { action: "open", map: name, source })
}

fn sum(map: &PerCpuArray<MapData, u64>, name: &'static str, index: u32) -> Result<u64> {
    let values = map.get(&index, 0).map_err(|source| Error::Map { action: "read", map: name, source })?;
    Ok(values.iter().sum())
}

/// Removes an entry; one that is not there is as good as removed.
pub(crate) fn remove<K: aya::Pod, V: aya::Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    key: &K,
) -> Result<()> {
    match map.remove(key) {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Map { action: "remove from", map: name, source }),
    }
}
