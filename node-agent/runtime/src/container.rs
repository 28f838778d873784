//! What a container is: its key, its specification, its state and its end.
//!
//! These types are the contract with the agent, and what is kept in the state directory (as JSON).

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::images::Image;

/// Names one run of one container of one pod. `restart` counts from 0; each restart is a new container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerKey {
    pub pod_uid: String,
    pub name: String,
    pub restart: u32,
}

impl ContainerKey {
    pub fn new(pod_uid: impl Into<String>, name: impl Into<String>, restart: u32) -> Self {
        Self { pod_uid: pod_uid.into(), name: name.into(), restart }
    }

    /// The container's id, 64 hexadecimal digits derived from the key: what stands behind `weir://` in a pod's status,
    /// and the name of the container's cgroup.
    pub fn id(&self) -> String {
        let digest = Sha256::digest(format!("{}/{}/{}", self.pod_uid, self.name, self.restart));
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for ContainerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.pod_uid, self.name, self.restart)
    }
}

/// Everything that decides how a container runs. Fields follow Kubernetes' `Container`, with what the agent has already
/// resolved: environment values, volume paths, and the image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub key: ContainerKey,
    pub image: Image,
    /// Replaces the image's entrypoint (and its cmd) when not empty.
    pub command: Vec<String>,
    /// Replaces the image's cmd when not empty.
    pub args: Vec<String>,
    /// Set over the image's environment, in order; the last value of a name wins.
    pub env: Vec<(String, String)>,
    /// Absolute; overrides the image's. Created when missing.
    pub working_dir: Option<String>,
    /// Volumes, in order; a later mount may lie inside an earlier one.
    pub mounts: Vec<Mount>,
    pub resources: Resources,
    pub security: Security,
    /// Give the container's process a terminal. What it writes then all comes as standard output.
    pub tty: bool,
    /// Keep standard input open, for [`crate::Runtime::attach`]. Without it the process reads end-of-file at once.
    pub stdin: bool,
    /// Close it when the first session that was attached to it ends.
    #[serde(default)]
    pub stdin_once: bool,
    /// Sent first by [`crate::Runtime::stop_container`]; overrides the image's `StopSignal` (default SIGTERM).
    pub stop_signal: Option<String>,
    /// The running container of the same pod whose processes this one sees, and with whose first process it ends.
    #[serde(default)]
    pub target: Option<ContainerKey>,
}

impl ContainerSpec {
    /// A container of `image` with nothing overridden, no volume, no limit.
    pub fn new(key: ContainerKey, image: Image) -> Self {
        Self {
            key,
            image,
            command: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            working_dir: None,
            mounts: Vec::new(),
            resources: Resources::default(),
            security: Security::default(),
            tty: false,
            stdin: false,
            stdin_once: false,
            stop_signal: None,
            target: None,
        }
    }
}

/// A bind mount into the container. The source must exist; the destination is created.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mount {
    pub source: PathBuf,
    pub destination: PathBuf,
    pub read_only: bool,
    pub propagation: Propagation,
    /// Only this part of the source.
    #[serde(default)]
    pub sub_path: Option<SubPath>,
    /// Read-only with all that is mounted below the source.
    #[serde(default)]
    pub recursive_read_only: bool,
}

/// A path that containers of the pod may be changing: it never leads out of the mount's source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubPath {
    /// Relative, without `..`.
    pub path: PathBuf,
    /// Make it, as directories, where it is missing.
    pub create: bool,
}

/// Kubernetes' `mountPropagation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    None,
    HostToContainer,
    Bidirectional,
}

/// Requests and limits of a container, or their sum for a pod. Absent means: not given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu_request: Option<u64>,
    /// Thousandths of a CPU.
    pub cpu_limit: Option<u64>,
    /// Bytes.
    pub memory_request: Option<u64>,
    /// Bytes.
    pub memory_limit: Option<u64>,
    /// Largest number of tasks.
    pub pids_limit: Option<u64>,
    pub huge_pages: Vec<HugePages>,
}

/// A limit of huge pages of one size, both in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    pub page_size: u64,
    pub limit: u64,
}

/// The container's security context, the pod's defaults already merged in.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Security {
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    /// Refuse to run as uid 0, whether that comes from the image or from `run_as_user`.
    pub run_as_non_root: bool,
    /// Added to the groups that the image's `/etc/group` gives the user; fsGroup goes here too.
    pub supplemental_groups: Vec<u32>,
    /// The image's groups do not count: Kubernetes' `supplementalGroupsPolicy: Strict`.
    #[serde(default)]
    pub strict_groups: bool,
    pub privileged: bool,
    pub read_only_root: bool,
    /// `Some(false)` sets no_new_privs.
    pub allow_privilege_escalation: Option<bool>,
    /// Names with or without `CAP_`, or `ALL`.
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    pub seccomp: Seccomp,
}

/// Kubernetes' `seccompProfile`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Seccomp {
    #[default]
    Unconfined,
    /// The profile of [`crate::bundle::seccomp`].
    RuntimeDefault,
    /// A profile file on the node, in the JSON of the OCI runtime specification.
    Localhost(PathBuf),
}

/// A container as the runtime sees it now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerStatus {
    pub key: ContainerKey,
    /// See [`ContainerKey::id`].
    pub id: String,
    /// The reference the container was created from.
    pub image: String,
    /// The manifest's digest, `sha256:…`.
    pub image_digest: String,
    pub created_at: Timestamp,
    pub log_path: PathBuf,
    pub state: ContainerState,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ContainerState {
    /// The process exists and waits to be started.
    Created {
        pid: i32,
    },
    Running {
        pid: i32,
        started_at: Timestamp,
    },
    Exited(Exit),
}

/// How a container ended. Kept in `exit.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// As a shell reports it: 128 + signal when a signal ended the process.
    pub code: i32,
    pub signal: Option<i32>,
    /// The kernel's out-of-memory killer struck in the container's cgroup.
    pub oom_killed: bool,
    pub reason: ExitReason,
    /// Why its program could not be executed; empty otherwise.
    #[serde(default)]
    pub message: String,
    /// Absent when the container was never started.
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    Completed,
    Error,
    OomKilled,
    /// The program could not be executed.
    StartError,
    /// The shim that held the container is gone and its exit code with it (killed shim, node rebooted).
    ShimLost,
}

impl ExitReason {
    /// Kubernetes' `terminated.reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::ShimLost => "ContainerStatusUnknown",
        }
    }
}

impl Exit {
    /// containerd's code for a program that could not be executed.
    pub(crate) const NOT_EXECUTED: i32 = 128;

    /// The end of a container whose program could not be executed, for this reason.
    pub(crate) fn not_executed(message: String, finished_at: Timestamp) -> Self {
        Self {
            code: Self::NOT_EXECUTED,
            signal: None,
            oom_killed: false,
            reason: ExitReason::StartError,
            message,
            started_at: None,
            finished_at,
        }
    }
}

/// Sent once for each container that ends, by whatever cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    pub key: ContainerKey,
    pub exit: Exit,
}
