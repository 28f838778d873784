//! What pods and containers use: of CPU and memory from their cgroups, of the disk from their files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;

use super::{Runtime, log_path};
use crate::cgroup::Usage;
use crate::container::{ContainerKey, ContainerState};
use crate::disk::disk_usage;
use crate::error::Result;

/// What `st_blocks` counts in.
const BLOCK: u64 = 512;
/// Files that are looked at to measure one container.
const MOST_FILES: u64 = 200_000;

/// What a pod and its running containers use.
#[derive(Debug, Clone)]
pub struct PodUsage {
    pub uid: String,
    pub usage: Usage,
    /// A process in the pod's namespaces.
    pub pid: i32,
    pub containers: Vec<ContainerUsage>,
}

#[derive(Debug, Clone)]
pub struct ContainerUsage {
    pub key: ContainerKey,
    pub started_at: Timestamp,
    pub usage: Usage,
}

/// In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUsage {
    pub rootfs: u64,
    pub log: u64,
}

impl Runtime {
    /// What the pods with running containers use.
    pub fn usage(&self) -> Vec<PodUsage> {
        let mut pods = BTreeMap::<String, PodUsage>::new();
        for status in self.list() {
            let ContainerState::Running { pid, started_at } = status.state else { continue };
            let Ok(record) = self.record(&status.key) else { continue };
            let usage = |cgroup: &str| self.cgroups.hierarchies().usage(cgroup);
            // Where it is gone, the container has ended a moment ago.
            let Some(of_container) = usage(&record.cgroup) else { continue };
            let pod = pods.entry(status.key.pod_uid.clone()).or_insert_with(|| {
                let cgroup = record.cgroup.rsplit_once('/').map_or("", |(parent, _)| parent);
                let uid = status.key.pod_uid.clone();
                PodUsage { uid, usage: usage(cgroup).unwrap_or_default(), pid, containers: Vec::new() }
            });
            pod.containers.push(ContainerUsage { key: status.key, started_at, usage: of_container });
        }
        pods.into_values().collect()
    }

    /// Bytes that a container takes on the disk: what it has written to its root, and its log. Walks the files.
    pub fn disk_usage(&self, key: &ContainerKey) -> Result<DiskUsage> {
        let dir = self.container_dir(key)?;
        let log = fs::metadata(log_path(&dir)).map_or(0, |metadata| metadata.blocks() * BLOCK);
        Ok(DiskUsage { rootfs: disk_usage(&dir.join("upper")), log })
    }

    /// What a container has written to its root. Walks the files.
    pub fn rootfs_usage(&self, key: &ContainerKey) -> Result<TreeUsage> {
        Ok(tree_usage(&self.container_dir(key)?.join("upper")))
    }

    /// Processes of the pod's containers.
    pub fn process_count(&self, uid: &str) -> u64 {
        let record = self.list_pod(uid).into_iter().find_map(|status| self.record(&status.key).ok());
        let pod = record.as_ref().and_then(|record| record.cgroup.rsplit_once('/'));
        pod.map_or(0, |(pod, _)| self.cgroups.hierarchies().count(pod) as u64)
    }
}

/// A directory and all below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeUsage {
    pub bytes: u64,
    /// Inodes, directories included.
    pub files: u64,
}

/// What a directory holds, up to a bound: one with more files than that is large anyway.
pub fn tree_usage(root: &Path) -> TreeUsage {
    let mut found = TreeUsage::default();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            found.bytes += metadata.blocks() * BLOCK;
            found.files += 1;
            if metadata.is_dir() {
                directories.push(entry.path());
            }
            if found.files >= MOST_FILES {
                return found;
            }
        }
    }
    found
}
