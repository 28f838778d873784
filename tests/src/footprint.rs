//! What the first node of a cluster holds of pods, by name, and what the cluster's processes need, in numbers: to compare
//! before and after work. Other clusters on the machine do not show in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use xtask::cluster;
use xtask::shell::output;

use crate::cluster::Cluster;

const NODE: &str = "node-1";
/// The maps that hold an entry for what there is, not for what lately was.
const MAPS: [&str; 4] = ["SERVICES", "NAMES", "LINKS", "ENDPOINTS"];

/// By kind, as sorted names.
#[derive(Debug, PartialEq, Eq)]
pub struct Footprint {
    kinds: Vec<(&'static str, BTreeSet<String>)>,
}

impl Footprint {
    pub fn take(cluster: &Cluster) -> Result<Self> {
        let layout = &cluster.layout;
        let namespace = layout.namespace_of(NODE);
        let ip = |words: &[&str]| output(Command::new("ip").args(["-n", &namespace]).args(words));
        let node = layout.node_directory(NODE);
        // Made with the first pod.
        let leases = fs::read_to_string(node.join("network/addresses")).unwrap_or_default();
        let (processes, dead) = processes(&layout.name)?;
        Ok(Self {
            kinds: vec![
                ("process", processes),
                ("zombie", dead),
                ("mount", mounts(&layout.directory)?),
                ("cgroup", cgroups(&layout.name)?),
                ("link", links(&ip(&["-o", "link"])?)),
                ("route", lines(&ip(&["route", "show", "table", "all", "proto", "119"])?)),
                ("neighbour", lines(&ip(&["neigh", "show", "nud", "permanent"])?)),
                (
                    "address",
                    leases.lines().filter(|line| !line.starts_with("next ")).map(str::to_owned).collect(),
                ),
                ("file", below(&node)),
                ("pin", below(&layout.pins())),
                ("map", entries(&cluster.weir(&["net", "maps", "--node", NODE])?)?),
            ],
        })
    }

    /// What this one has that `before` has not, and the other way round, one a line; empty where they are equal.
    pub fn differences_from(&self, before: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for ((kind, now), (_, then)) in self.kinds.iter().zip(&before.kinds) {
            differences.extend(now.difference(then).map(|name| format!("new {kind}: {name}")));
            differences.extend(then.difference(now).map(|name| format!("lost {kind}: {name}")));
        }
        differences
    }
}

/// What a process needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Costs {
    /// Open descriptors by what they are: `socket`, `anon_inode:[eventpoll]`, `/a/file`.
    pub descriptors: BTreeMap<String, usize>,
    pub threads: usize,
    /// Bytes that it has to itself.
    pub private: u64,
}

impl Costs {
    /// Of one of the cluster's programs, by machine and name.
    pub fn of(cluster: &Cluster, machine: &str, program: &str) -> Result<Self> {
        let process =
            Path::new("/proc").join(cluster::process(&cluster.layout, machine, program)?.to_string());
        let mut descriptors = BTreeMap::new();
        for entry in fs::read_dir(process.join("fd"))?.flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy();
            // `socket:[4711]` and `pipe:[4711]` are called by their kind, files by their path.
            let kind = match target.split_once(":[") {
                Some((kind @ ("socket" | "pipe"), _)) => kind,
                _ => &target,
            };
            *descriptors.entry(kind.to_owned()).or_default() += 1;
        }
        let rollup = fs::read_to_string(process.join("smaps_rollup"))?;
        let kibibytes = |field: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(field))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let private = kibibytes("Private_Clean:").zip(kibibytes("Private_Dirty:"));
        let (clean, dirty) = private.context("smaps_rollup is not as expected")?;
        let threads = fs::read_dir(process.join("task"))?.count();
        Ok(Self { descriptors, threads, private: (clean + dirty) << 10 })
    }

    /// Of which descriptors there are more than `before`, by more than `slack`: connections come and go.
    pub fn descriptors_beyond(&self, before: &Self, slack: usize) -> Vec<String> {
        let more = |(kind, now): (&String, &usize)| {
            let then = before.descriptors.get(kind).copied().unwrap_or(0);
            (*now > then + slack).then(|| format!("{then} descriptors of {kind} became {now}"))
        };
        self.descriptors.iter().filter_map(more).collect()
    }
}

/// The cluster's processes by id and command, and the dead whom one of them has not collected.
fn processes(name: &str) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let (mut alive, mut all) = (BTreeMap::new(), Vec::new());
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let stat = read("stat");
        let mut fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
        let (state, parent) =
            (fields.next().unwrap_or(""), fields.next().and_then(|field| field.parse().ok()));
        if state == "Z" {
            all.push((pid, parent.unwrap_or(0)));
        } else if read("cgroup").lines().any(|line| line.contains(&format!(":/{name}/"))) {
            alive.insert(pid, format!("{pid} {}", read("cmdline").replace('\0', " ").trim_end()));
        }
    }
    let dead = all.into_iter().filter(|(_, parent)| alive.contains_key(parent));
    let dead = dead.map(|(pid, parent)| format!("{pid}, child of {}", alive[&parent])).collect();
    Ok((alive.into_values().collect(), dead))
}

fn mounts(directory: &Path) -> Result<BTreeSet<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.filter(|point| Path::new(point).starts_with(directory)).map(str::to_owned).collect())
}

/// Directories of the cluster's in every hierarchy.
fn cgroups(name: &str) -> Result<BTreeSet<String>> {
    let table = fs::read_to_string("/proc/self/mounts")?;
    let mut found = BTreeSet::new();
    for line in table.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let &[_, point, "cgroup" | "cgroup2", ..] = words.as_slice()
            && point.starts_with("/sys/fs/cgroup")
        {
            found.extend(directories(&Path::new(point).join(name)));
        }
    }
    Ok(found)
}

fn directories(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.insert(entry.path().display().to_string());
            found.extend(directories(&entry.path()));
        }
    }
    found
}

fn below(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(below(&entry.path()));
        }
        found.insert(entry.path().display().to_string());
    }
    found
}

fn links(text: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned).collect()
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// `LINKS: 3`, from the table that `weir net maps` prints.
fn entries(table: &str) -> Result<BTreeSet<String>> {
    let mut rows = table.lines();
    let column = rows.next().and_then(|header| header.find("ENTRIES")).context("no column ENTRIES")?;
    let mut found = BTreeSet::new();
    for row in rows {
        let Some(name) = row.split_whitespace().nth(1).filter(|name| MAPS.contains(name)) else { continue };
        let count = row.get(column..).and_then(|rest| rest.split_whitespace().next()).unwrap_or("");
        found.insert(format!("{name}: {count}"));
    }
    Ok(found)
}
