//! A pod's sandbox: namespaces pinned by bind mounts, `/dev/shm`, host name, sysctls, and the pod's cgroup.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Resources;
use crate::cgroup::QosClass;

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("sandbox {uid}: {problem}")]
    Helper { uid: String, problem: String },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxSpec {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub hostname: String,
    pub host_network: bool,
    pub host_ipc: bool,
    pub host_pid: bool,
    /// Not supported yet.
    pub share_process_namespace: bool,
    /// Namespaced kernel parameters, `net.…`, `kernel.shm…`, `kernel.msg…`, `kernel.sem`, `fs.mqueue.…`.
    pub sysctls: BTreeMap<String, String>,
    pub qos: QosClass,
    /// Sum over the pod's containers, see [`crate::cgroup::pod_resources`].
    pub resources: Resources,
    /// Lines of `/etc/hosts`, `/etc/resolv.conf`: whole files, written for the containers to see.
    pub hosts: String,
    pub resolv_conf: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sandbox {
    pub spec: SandboxSpec,
    /// The pod's network namespace, pinned. Absent with `host_network`.
    pub netns: Option<PathBuf>,
    /// The pod's directory: containers, logs, and room for the agent's volumes under `volumes/`.
    pub dir: PathBuf,
    /// The pod's directory in the cgroup2 hierarchy, where cgroup eBPF programs see its processes.
    pub cgroup2: PathBuf,
    /// Relative to the root of each cgroup hierarchy.
    pub cgroup: String,
}
