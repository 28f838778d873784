//! Control groups of pods and containers.
//!
//! A pod's group is `<parent>[/burstable|/besteffort]/pod<uid>`, a container's a directory in it named by the container's
//! id. The same relative path stands in every hierarchy: in each version 1 hierarchy (where limits live on hybrid hosts),
//! and in the cgroup2 hierarchy (where cgroup eBPF programs see the processes, and `cgroup.kill` ends them).
//!
//! Pods' groups are made here, through cgroups-rs; containers' groups by libcontainer. Removal of both, whatever a crash
//! left, is here.

pub(crate) mod devices;
mod hierarchies;
mod huge_pages;
mod pod;
mod qos;
mod usage;

use std::io;
use std::path::PathBuf;

pub(crate) use hierarchies::Hierarchies;
pub(crate) use huge_pages::huge_page_limits;
pub use huge_pages::huge_pages_of_node;
pub(crate) use pod::{PodCgroups, page_size_name};
pub use qos::{QosClass, cpu_quota, cpu_shares, oom_score_adj, pod_resources};
pub use usage::{Group, GroupMemory, Usage};

/// CFS period that quotas refer to, in microseconds.
pub const CPU_PERIOD: u64 = 100_000;

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("cgroup parent {path:?} is not a relative path, or is empty or holds '..'")]
    BadParent { path: String },
    #[error("no cgroup hierarchy is mounted below /sys/fs/cgroup")]
    NoHierarchy,
    #[error("cannot create cgroup {path}: {source}")]
    Create { path: String, source: cgroups_rs::fs::error::Error },
    #[error("cannot set {setting} of cgroup {path}: {source}")]
    Set { setting: &'static str, path: String, source: cgroups_rs::fs::error::Error },
    #[error("cannot set {setting} of cgroup {path}: the node has no such controller")]
    NoController { setting: &'static str, path: String },
    #[error("cannot {operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("processes in {path} survive SIGKILL")]
    Unkillable { path: PathBuf },
}
