//! The cluster's subtree in every cgroup hierarchy, v1 and v2 alike.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Where each hierarchy is mounted; `unified` is the cgroup2 one.
pub(super) struct Hierarchies {
    pub(super) unified: PathBuf,
    pub(super) all: Vec<PathBuf>,
}

pub(super) fn hierarchies() -> Result<Hierarchies> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut unified = None;
    let mut all = Vec::new();
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let &[_, path, kind, ..] = words.as_slice() else { continue };
        match kind {
            // A container may have bound a hierarchy elsewhere: the first mount is the machine's.
            "cgroup2" if unified.is_none() => {
                unified = Some(PathBuf::from(path));
                all.push(PathBuf::from(path));
            }
            "cgroup" if path.starts_with("/sys/fs/cgroup/") => all.push(PathBuf::from(path)),
            _ => {}
        }
    }
    Ok(Hierarchies { unified: unified.context("no cgroup2 hierarchy is mounted")?, all })
}

/// Directories of `root` and below, deepest first, which is the order to remove them in.
fn deepest_first(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(root) else { return found };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(deepest_first(&entry.path()));
        }
    }
    found.push(root.to_owned());
    found
}

/// Every process in the cluster's subtree, in any hierarchy.
pub(super) fn processes(cluster: &str) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    for hierarchy in hierarchies()?.all {
        for directory in deepest_first(&hierarchy.join(cluster)) {
            let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            pids.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Removes the cluster's subtree from every hierarchy; its processes are gone already. Says how many directories.
pub(super) fn remove(cluster: &str) -> Result<usize> {
    let mut removed = 0;
    for hierarchy in hierarchies()?.all {
        for directory in deepest_first(&hierarchy.join(cluster)) {
            remove_one(&directory).with_context(|| format!("remove the cgroup {}", directory.display()))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// A killed process leaves the list of a cgroup's processes before it has left the cgroup: until then it is busy.
fn remove_one(directory: &Path) -> std::io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            outcome => return outcome,
        }
    }
}
