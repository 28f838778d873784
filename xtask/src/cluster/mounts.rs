//! The mounts of a cluster: those below its directory, and the bpf file system where `up` had to mount it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::layout::BPFFS;

/// Mount points at or below `directory`, in the order to unmount them in.
pub(super) fn below(directory: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(directory))
        .collect();
    // Later mounts lie over or inside earlier ones.
    points.reverse();
    Ok(points)
}

pub(super) fn unmount_below(directory: &Path) -> Result<usize> {
    let points = below(directory)?;
    for point in &points {
        umount2(point, MntFlags::MNT_DETACH).with_context(|| format!("unmount {}", point.display()))?;
    }
    Ok(points.len())
}

/// Mounts the bpf file system where it is not. True where it had to.
pub(super) fn ensure_bpffs() -> Result<bool> {
    if is_bpffs()? {
        return Ok(false);
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("mount the bpf file system on {BPFFS}"))?;
    Ok(true)
}

pub(super) fn is_bpffs() -> Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(BPFFS) && line.split(' ').nth(2) == Some("bpf")))
}

/// Unmounts what `ensure_bpffs` mounted, unless somebody else has pinned something there since.
pub(super) fn release_bpffs() -> Result<bool> {
    if !is_bpffs()? {
        return Ok(false);
    }
    for entry in fs::read_dir(BPFFS)? {
        // The kernel itself puts two iterators into each of these file systems.
        if !["maps.debug", "progs.debug"]
            .iter()
            .any(|name| entry.as_ref().is_ok_and(|entry| entry.file_name() == *name))
        {
            return Ok(false);
        }
    }
    umount2(BPFFS, MntFlags::MNT_DETACH).with_context(|| format!("unmount {BPFFS}"))?;
    Ok(true)
}
