//! `down`: back to a machine as it was. Works from what is on the machine, not from what `up` remembers, so that it
//! also cleans up after a crash of either.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::layout::Layout;
use super::{cgroups, mounts, namespaces};

/// How many of each were removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub processes: usize,
    pub mounts: usize,
    pub pins: usize,
    pub namespaces: usize,
    pub cgroups: usize,
    pub bpffs: bool,
    pub files: bool,
}

/// Removes the cluster and says what was there.
pub fn down(layout: &Layout) -> Result<()> {
    let removed = remove(layout)?;
    if removed == Removed::default() {
        println!("nothing to remove: no cluster {:?} on this machine", layout.name);
        return Ok(());
    }
    println!("removed {} processes", removed.processes);
    println!(
        "removed {} mounts{}",
        removed.mounts,
        if removed.bpffs { ", and the bpf file system's" } else { "" }
    );
    println!("removed {} pinned eBPF objects", removed.pins);
    println!("removed {} network namespaces, and their links with them", removed.namespaces);
    println!("removed {} cgroups", removed.cgroups);
    if removed.files {
        println!("removed {}", layout.directory.display());
    }
    Ok(())
}

pub fn remove(layout: &Layout) -> Result<Removed> {
    let bpffs_was_ours = layout.directory.join(super::up::BPFFS_MARK).exists();
    let mut removed = Removed { processes: kill_all(&layout.name)?, ..Removed::default() };
    removed.mounts = mounts::unmount_below(&layout.directory)?;
    removed.pins = remove_tree(&layout.pins())?;
    for namespace in namespaces::existing(&layout.name)? {
        removed.namespaces += usize::from(namespace.remove()?);
    }
    removed.cgroups = cgroups::remove(&layout.name)?;
    if bpffs_was_ours {
        removed.bpffs = mounts::release_bpffs()?;
    }
    if layout.directory.exists() {
        fs::remove_dir_all(&layout.directory)
            .with_context(|| format!("remove {}", layout.directory.display()))?;
        removed.files = true;
    }
    Ok(removed)
}

/// Every process of a cluster, or of a machine of it, lives in its cgroups. New ones may appear while it dies, so look until none is left.
pub(super) fn kill_all(cluster: &str) -> Result<usize> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut killed = std::collections::BTreeSet::new();
    loop {
        let pids = cgroups::processes(cluster)?;
        if pids.is_empty() {
            return Ok(killed.len());
        }
        if Instant::now() > deadline {
            bail!("processes {pids:?} of cluster {cluster} do not die");
        }
        for pid in pids {
            // Gone in the meantime is as good as killed.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            killed.insert(pid);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Removes a directory of pins; says how many objects were in it.
pub(super) fn remove_tree(directory: &Path) -> Result<usize> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(0) };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            removed += remove_tree(&entry.path())?;
        } else {
            fs::remove_file(entry.path()).with_context(|| format!("unpin {}", entry.path().display()))?;
            removed += 1;
        }
    }
    fs::remove_dir(directory).with_context(|| format!("remove {}", directory.display()))?;
    Ok(removed)
}
