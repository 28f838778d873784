//! Takes away images that nobody uses: those unused for too long, and the longest unused where the disk is full.
//!
//! Invariant: nothing that a container's record names is removed, nor what a pull or a creation has pinned. Both are
//! looked at while nobody can pin; a layer that goes loses its name in that same moment, its files later.
//!
//! Before any image go the leftovers: layers of no image (their tag moved on, or a pull never ended) and partial downloads.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::statvfs::statvfs;

use super::store::{Record, hex, touch};
use super::{Image, ImageError, ImageStore, io_error};

/// How long leftovers wait for somebody to go on with them, where there is room.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// When to remove images; the fields are the kubelet's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectionPolicy {
    /// Percent of the disk in use from which images are removed; 100 for never.
    pub high_threshold: u8,
    /// Percent of the disk in use that is aimed at.
    pub low_threshold: u8,
    /// What was used more recently stays.
    pub minimum_age: Duration,
    /// What was not used for longer goes, full disk or not; zero for never.
    pub maximum_age: Duration,
}

impl Default for CollectionPolicy {
    fn default() -> Self {
        Self {
            high_threshold: 85,
            low_threshold: 80,
            minimum_age: Duration::from_secs(120),
            maximum_age: Duration::ZERO,
        }
    }
}

/// What containers hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct InUse {
    /// Digests of manifests.
    pub(crate) images: BTreeSet<String>,
    pub(crate) layers: BTreeSet<String>,
}

/// What a collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// By age and for space.
    pub aged: Vec<Image>,
    pub removed: Vec<Image>,
    /// Bytes of files.
    pub freed: u64,
    /// Bytes that had to be freed.
    pub wanted: u64,
    /// Percent of the disk that was in use before.
    pub usage: u8,
}

/// A disk's size and what of it can still be written, in bytes.
struct Disk {
    size: u64,
    available: u64,
}

impl ImageStore {
    /// `in_use` is asked anew before each removal, so it sees containers created meanwhile.
    pub(crate) fn collect(
        &self,
        policy: &CollectionPolicy,
        in_use: &dyn Fn() -> io::Result<InUse>,
    ) -> Result<Collected, ImageError> {
        let disk = self.disk()?;
        let mut done = Collected { usage: disk.usage(), ..Collected::default() };
        if policy.high_threshold < 100 && done.usage >= policy.high_threshold {
            let aim = disk.size / 100 * u64::from(100 - policy.low_threshold.min(100));
            done.wanted = aim.saturating_sub(disk.available);
        }
        let pressed = done.wanted > 0;
        done.freed +=
            self.collect_leftovers(if pressed { policy.minimum_age } else { LEFTOVER_AGE }, in_use)?;
        let now = SystemTime::now();
        let unused = |record: &Record| now.duration_since(record.used).unwrap_or_default();
        let mut records = self.unused_records(in_use)?;
        records.sort_by_key(|record| record.used);
        for record in records {
            let aged = !policy.maximum_age.is_zero() && unused(&record) > policy.maximum_age;
            let for_space = done.freed < done.wanted && unused(&record) >= policy.minimum_age;
            if !aged && !for_space {
                continue;
            }
            let Some(freed) = self.remove(&record, in_use)? else { continue };
            done.freed += freed;
            tracing::info!(
                image = record.image.reference,
                digest = record.image.digest,
                freed,
                "removed an image"
            );
            if aged { done.aged.push(record.image) } else { done.removed.push(record.image) }
        }
        Ok(done)
    }

    fn disk(&self) -> Result<Disk, ImageError> {
        let stat = statvfs(&self.dir).map_err(io::Error::from).map_err(io_error("measure", &self.dir))?;
        let size = stat.fragment_size();
        Ok(Disk { size: stat.blocks() * size, available: stat.blocks_available() * size })
    }

    /// Records of images that no container has; those of the others count as used now.
    fn unused_records(&self, in_use: &dyn Fn() -> io::Result<InUse>) -> Result<Vec<Record>, ImageError> {
        let used = in_use().map_err(io_error("list the containers beside", &self.dir))?;
        let (used, unused): (Vec<_>, Vec<_>) =
            self.records()?.into_iter().partition(|record| used.images.contains(&record.image.digest));
        for record in used {
            touch(&record.path);
        }
        Ok(unused)
    }

    /// Removes an image and the layers that only it had; nothing when it was used meanwhile.
    fn remove(
        &self,
        record: &Record,
        in_use: &dyn Fn() -> io::Result<InUse>,
    ) -> Result<Option<u64>, ImageError> {
        let doomed = self.pins.frozen(|is_pinned| {
            let used = in_use().map_err(io_error("list the containers beside", &self.dir))?;
            let now = fs::metadata(&record.path).and_then(|metadata| metadata.modified()).ok();
            let pinned = record.image.layers.iter().any(|layer| is_pinned(hex(layer)));
            if used.images.contains(&record.image.digest) || now != Some(record.used) || pinned {
                return Ok(None);
            }
            fs::remove_file(&record.path).map_err(io_error("remove", &record.path))?;
            let kept = self.kept_layers(&used)?;
            let own = record.image.layers.iter().map(|layer| hex(layer).to_owned());
            let own: BTreeSet<_> = own.filter(|layer| !kept.contains(layer) && !is_pinned(layer)).collect();
            own.iter().map(|layer| self.doom(layer)).collect::<Result<Vec<_>, _>>().map(Some)
        })?;
        doomed.map(|doomed| bury(doomed.into_iter().flatten())).transpose()
    }

    /// Layers that no image has, and downloads that nobody went on with.
    fn collect_leftovers(
        &self,
        age: Duration,
        in_use: &dyn Fn() -> io::Result<InUse>,
    ) -> Result<u64, ImageError> {
        let old = |path: &Path| {
            // Of a directory mtime is the layer's own; ctime is when it got its name.
            let changed = fs::symlink_metadata(path).map(|metadata| metadata.ctime()).unwrap_or(i64::MAX);
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            now.as_secs().saturating_sub(u64::try_from(changed).unwrap_or(u64::MAX)) >= age.as_secs()
        };
        let doomed = self.pins.frozen(|is_pinned| {
            let used = in_use().map_err(io_error("list the containers beside", &self.dir))?;
            let kept = self.kept_layers(&used)?;
            let mut doomed = Vec::new();
            for (name, path) in entries(&self.dir.join("layers"))? {
                let whole = path.extension().is_none();
                if whole && !kept.contains(&name) && !is_pinned(&name) && old(&path) {
                    doomed.extend(self.doom(&name)?);
                }
            }
            for (name, path) in entries(&self.dir.join("ingest/blobs"))? {
                if !is_pinned(name.trim_end_matches(".part")) && old(&path) {
                    doomed.push(path);
                }
            }
            Ok::<_, ImageError>(doomed)
        })?;
        bury(doomed)
    }

    fn kept_layers(&self, used: &InUse) -> Result<BTreeSet<String>, ImageError> {
        let recorded = self.records()?.into_iter().flat_map(|record| record.image.layers);
        Ok(recorded.chain(used.layers.iter().cloned()).map(|layer| hex(&layer).to_owned()).collect())
    }

    /// Takes a layer's name from it: from here on it is rubbish, which the next start would sweep.
    fn doom(&self, layer: &str) -> Result<Option<PathBuf>, ImageError> {
        let path = self.layer_dir(layer);
        let doomed = path.with_extension("removed.part");
        match fs::rename(&path, &doomed) {
            Ok(()) => Ok(Some(doomed)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("rename", &path)(error)),
        }
    }
}

impl Disk {
    fn usage(&self) -> u8 {
        let used = self.size.saturating_sub(self.available);
        u8::try_from(used.saturating_mul(100).checked_div(self.size).unwrap_or(0)).unwrap_or(100)
    }
}

fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>, ImageError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("read", dir))? {
        let entry = entry.map_err(io_error("read", dir))?;
        found.extend(entry.file_name().into_string().ok().map(|name| (name, entry.path())));
    }
    Ok(found)
}

/// Removes files and trees; returns how many bytes of disk they held.
fn bury(doomed: impl IntoIterator<Item = PathBuf>) -> Result<u64, ImageError> {
    let mut freed = 0;
    for path in doomed {
        let metadata = fs::symlink_metadata(&path).map_err(io_error("read", &path))?;
        freed += size_of_tree(&path, &metadata);
        let removed = if metadata.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(io_error("remove", &path))?;
    }
    Ok(freed)
}

fn size_of_tree(path: &Path, metadata: &fs::Metadata) -> u64 {
    // A file with several names frees nothing until the last is gone; all of them are in one layer.
    let mut size = metadata.blocks() * 512 / if metadata.is_dir() { 1 } else { metadata.nlink().max(1) };
    if metadata.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            size += entry.metadata().map_or(0, |metadata| size_of_tree(&entry.path(), &metadata));
        }
    }
    size
}
