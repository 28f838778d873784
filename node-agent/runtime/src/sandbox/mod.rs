//! A pod's sandbox: namespaces pinned by bind mounts, `/dev/shm`, host name, sysctls, and the pod's cgroup.
//!
//! No pause process holds the namespaces: a helper process makes them and bind-mounts `/proc/self/ns/*` into the pod's
//! directory. Below `pods/<uid>/`, `.sandbox` (no container can have that name) holds:
//!
//! ```text
//! sandbox.json          the sandbox, written last: with it, and its namespaces mounted, the sandbox is complete
//! ns/{net,uts,ipc,pid}  the namespaces
//! pause.json            the first process of the shared process namespace
//! shm/                  /dev/shm of the pod's containers, a tmpfs
//! hostname, hosts, resolv.conf
//! ```
//!
//! A process namespace that the pod shares needs a first process, see [`pause`]; it is made anew when that has died.
//!
//! Left out: user namespaces.

pub(crate) mod helper;
pub(crate) mod pause;
mod pod;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use pod::{create, ensure_pause, load, remove, set_files};

use crate::Resources;
use crate::cgroup::QosClass;

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("sandbox {uid}: {problem}")]
    Helper { uid: String, problem: String },
    #[error("sandbox {uid}: sysctl {name:?} is not namespaced: setting it would change the node")]
    Sysctl { uid: String, name: String },
    #[error("sandbox: cannot {operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

/// What a pod's sandbox is made from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxSpec {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub hostname: String,
    /// Shares the node's network and host name (UTS) namespaces.
    pub host_network: bool,
    pub host_ipc: bool,
    pub host_pid: bool,
    /// The pod's containers see each other's processes. Not with `host_pid`.
    pub share_process_namespace: bool,
    /// A user namespace of the pod's own. Not supported yet.
    #[serde(default)]
    pub user_namespace: bool,
    /// Namespaced kernel parameters: `net.*`, `kernel.shm*`, `kernel.msg*`, `kernel.sem`, `fs.mqueue.*`.
    pub sysctls: BTreeMap<String, String>,
    pub qos: QosClass,
    /// See [`crate::cgroup::pod_resources`].
    pub resources: Resources,
    /// The whole of the containers' `/etc/hosts`. Empty: the image's own is left alone.
    pub hosts: String,
    /// The whole of the containers' `/etc/resolv.conf`. Empty: the image's own is left alone.
    pub resolv_conf: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sandbox {
    pub spec: SandboxSpec,
    /// The pod's network namespace, pinned. Absent with `host_network`.
    pub netns: Option<PathBuf>,
    /// The pod's directory: containers, logs, and room for the agent's volumes below `.volumes/`. All of it goes when the
    /// sandbox is removed, mounts included.
    pub dir: PathBuf,
    /// The pod's group in the cgroup2 hierarchy, where cgroup eBPF programs see its processes.
    pub cgroup2: Option<PathBuf>,
    /// The pod's group, relative to the root of each hierarchy.
    pub cgroup: String,
}

impl Sandbox {
    pub(crate) fn shares_processes(&self) -> bool {
        self.spec.share_process_namespace && !self.spec.host_pid
    }

    pub(crate) fn namespace(&self, kind: &str) -> PathBuf {
        self.file("ns").join(kind)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(".sandbox").join(name)
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SandboxError {
    let path = path.to_owned();
    move |source| SandboxError::Io { operation, path, source }
}
