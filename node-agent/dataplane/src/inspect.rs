//! Views of the live maps.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::maps::MapType;
use weir_ebpf_common::{Counter, DropReason, ServiceId, Tuple};

use crate::maps::{MAPS, Maps};
use crate::services::Services;
use crate::view::{Table, View};
use crate::{Error, Result, entries, flows, maps, pods, programs, sys};

/// A node's dataplane, to look at only. Needs no agent.
#[derive(Debug)]
pub struct Inspector {
    bpffs: PathBuf,
    maps: Maps,
}

impl Inspector {
    pub fn open(bpffs: &Path) -> Result<Self> {
        Ok(Self { bpffs: bpffs.to_owned(), maps: Maps::open(bpffs)? })
    }

    /// A table read from the live maps. Backends come without the names of their pods, which no map holds.
    pub fn view(&self, view: View) -> Result<Table> {
        table(view, &self.bpffs, &self.maps, None)
    }
}

pub(crate) fn table(view: View, bpffs: &Path, maps: &Maps, services: Option<&Services>) -> Result<Table> {
    match view {
        View::Services => show_services(maps),
        View::Backends => show_backends(maps, services),
        View::Maps => show_maps(bpffs, maps),
        View::Conntrack => show_conntrack(maps),
        View::Drops => show_drops(maps),
        View::Links => show_links(bpffs, maps),
    }
}

fn table_of(columns: &[&str], rows: Vec<Vec<String>>) -> Table {
    Table { columns: columns.iter().map(|column| (*column).to_owned()).collect(), rows }
}

fn show_services(maps: &Maps) -> Result<Table> {
    let names = names(maps)?;
    let mut found = Vec::new();
    for entry in maps.services.iter() {
        let (at, service) = entry.map_err(|source| Error::Map { action: "read", map: "SERVICES", source })?;
        found.push((name(&names, service.id()), (at.address().ip(), at.port(), at.protocol()), service));
    }
    found.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    let row = |(name, (address, port, protocol), service): (String, _, weir_ebpf_common::Service)| {
        vec![
            name,
            service.id().get().to_string(),
            socket(address, port),
            protocol_name(protocol),
            if service.is_external() { "NodePort" } else { "ClusterIP" }.to_owned(),
            service.length().to_string(),
            slots_name(service.offset(), service.length()),
        ]
    };
    let columns = ["SERVICE", "ID", "FRONTEND", "PROTOCOL", "KIND", "BACKENDS", "SLOTS"];
    Ok(table_of(&columns, found.into_iter().map(row).collect()))
}

fn slots_name(offset: u32, length: u32) -> String {
    match length {
        0 => "-".to_owned(),
        1 => offset.to_string(),
        _ => format!("{offset}-{}", offset + length - 1),
    }
}

fn show_backends(maps: &Maps, services: Option<&Services>) -> Result<Table> {
    let names = names(maps)?;
    // Frontends of a service share their table.
    let mut tables = BTreeMap::new();
    for entry in maps.services.iter() {
        let (_, service) = entry.map_err(|source| Error::Map { action: "read", map: "SERVICES", source })?;
        tables.insert((name(&names, service.id()), service.offset()), service);
    }
    let mut rows = Vec::new();
    for ((name, _), service) in tables {
        for index in service.offset()..service.offset() + service.length() {
            let slot = maps.slots.get(&index, 0);
            let slot = slot.map_err(|source| Error::Map { action: "read", map: "SLOTS", source })?;
            let at = (slot.address().ip(), slot.port());
            let known = services
                .and_then(|services| services.by_id(service.id()))
                .and_then(|held| held.backends.get(&at))
                .filter(|backend| !backend.pod.is_empty() || !backend.node_name.is_empty());
            rows.push(vec![
                name.clone(),
                index.to_string(),
                socket(at.0, at.1),
                known.map_or_else(|| "-".to_owned(), |backend| backend.pod.clone()),
                known.map_or_else(|| "-".to_owned(), |backend| backend.node_name.clone()),
                match known {
                    Some(backend) if !backend.ready => "terminating",
                    _ => "ready",
                }
                .to_owned(),
            ]);
        }
    }
    Ok(table_of(&["SERVICE", "SLOT", "BACKEND", "POD", "ON", "STATE"], rows))
}

fn show_maps(bpffs: &Path, maps: &Maps) -> Result<Table> {
    let mut rows = Vec::new();
    for spec in &MAPS {
        let info = maps::info(bpffs, spec.name)?;
        let kind = info.map_type().map_or_else(|_| "unknown".to_owned(), kind_name);
        rows.push(vec![
            spec.name.to_owned(),
            kind,
            spec.key.to_string(),
            spec.value.to_string(),
            entries(maps, spec.name)?.map_or_else(|| "-".to_owned(), |count| count.to_string()),
            info.max_entries().to_string(),
            spec.written_by.to_owned(),
            spec.read_by.to_owned(),
            maps::pin_path(bpffs, spec.name).display().to_string(),
        ]);
    }
    let columns = ["MAP", "TYPE", "KEY", "VALUE", "ENTRIES", "MAX", "WRITTEN BY", "READ BY", "PINNED"];
    Ok(table_of(&columns, rows))
}

fn kind_name(kind: MapType) -> String {
    format!("{kind:?}").to_lowercase()
}

/// Entries of a hash map; arrays and rings have no number of entries to speak of.
fn entries(maps: &Maps, name: &'static str) -> Result<Option<usize>> {
    Ok(Some(match name {
        "SERVICES" => entries::count(&maps.services, name)?,
        "NAMES" => entries::count(&maps.names, name)?,
        "CONNTRACK" => entries::count(&maps.conntrack, name)?,
        "SOCKET_FORWARD" => entries::count(&maps.socket_forward, name)?,
        "SOCKET_REVERSE" => entries::count(&maps.socket_reverse, name)?,
        "LINKS" => entries::count(&maps.links, name)?,
        "ENDPOINTS" => entries::count(&maps.endpoints, name)?,
        _ => return Ok(None),
    }))
}

/// One row for each flow: its opening direction, with the answers' age if they are the younger.
fn show_conntrack(maps: &Maps) -> Result<Table> {
    let (now, names, flows) = (flows::now()?, names(maps)?, flows::all(maps)?);
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (arrives, flow) in flows.iter().filter(|(_, flow)| !flow.is_reply()) {
        let answered = flows.get(&flow.peer()).map_or(0, |peer| peer.last_seen());
        let idle = now.saturating_sub(flow.last_seen().max(answered)) / 1_000_000_000;
        rows.push(vec![
            protocol_name(arrives.protocol()),
            source(arrives),
            destination(arrives),
            source(flow.leaves()),
            destination(flow.leaves()),
            name(&names, flow.service()),
            flow.state().name().to_owned(),
            format!("{idle}s"),
        ]);
    }
    rows.sort_unstable();
    let columns = ["PROTOCOL", "CLIENT", "FRONTEND", "SOURCE", "BACKEND", "SERVICE", "STATE", "IDLE"];
    Ok(table_of(&columns, rows))
}

fn show_drops(maps: &Maps) -> Result<Table> {
    let mut rows = Vec::new();
    for reason in DropReason::ALL {
        rows.push(vec!["drop".to_owned(), reason.name().to_owned(), maps.dropped(reason)?.to_string()]);
    }
    for counter in Counter::ALL {
        rows.push(vec!["count".to_owned(), counter.name().to_owned(), maps.counter(counter)?.to_string()]);
    }
    Ok(table_of(&["KIND", "NAME", "TOTAL"], rows))
}

/// Every pinned link, with the pod behind it if it is one's.
fn show_links(bpffs: &Path, maps: &Maps) -> Result<Table> {
    let pods = pods::all(maps)?;
    let mut rows = Vec::new();
    for name in programs::link_names(bpffs)? {
        let path = programs::links_directory(bpffs).join(&name);
        let failed = |source| Error::Pin { action: "open", path: path.clone(), source };
        let link = sys::get(&path).map_err(failed)?;
        let info = sys::link_info(link.as_fd()).map_err(failed)?;
        let ifindex = programs::pod_of_link(&name);
        let pod = pods.iter().find(|pod| Some(pod.ifindex) == ifindex);
        let addresses: Vec<String> =
            pod.into_iter().flat_map(|pod| &pod.addresses).map(ToString::to_string).collect();
        rows.push(vec![
            name,
            info.id.to_string(),
            info.program.to_string(),
            if info.cgroup() == 0 { "gone".to_owned() } else { info.cgroup().to_string() },
            if addresses.is_empty() { "-".to_owned() } else { addresses.join(",") },
        ]);
    }
    Ok(table_of(&["LINK", "ID", "PROGRAM", "ATTACHED TO", "POD"], rows))
}

fn names(maps: &Maps) -> Result<BTreeMap<ServiceId, String>> {
    let mut names = BTreeMap::new();
    for entry in maps.names.iter() {
        let (id, name) = entry.map_err(|source| Error::Map { action: "read", map: "NAMES", source })?;
        names.insert(id, name.as_str().unwrap_or("?").to_owned());
    }
    Ok(names)
}

fn name(names: &BTreeMap<ServiceId, String>, id: ServiceId) -> String {
    names.get(&id).cloned().unwrap_or_else(|| format!("#{}", id.get()))
}

fn source(tuple: &Tuple) -> String {
    socket(tuple.source().ip(), tuple.source_port())
}

fn destination(tuple: &Tuple) -> String {
    socket(tuple.destination().ip(), tuple.destination_port())
}

fn socket(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

fn protocol_name(number: u8) -> String {
    match number {
        weir_ebpf_common::protocol::TCP => "TCP".to_owned(),
        weir_ebpf_common::protocol::UDP => "UDP".to_owned(),
        other => other.to_string(),
    }
}
