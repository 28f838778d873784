//! Runs containers: images, pod sandboxes, cgroups, OCI bundles, the container shim, logs and exec.
//!
//! The API is blocking and knows no async runtime; an async caller wraps it (`spawn_blocking`) and learns of exits
//! through one channel, [`Runtime::events`]. Containers are run by libcontainer in one small process each, the shim,
//! because libcontainer clones its caller and must never do that inside a multi-threaded process.
//!
//! Invariants:
//! - Containers outlive the process that opened the [`Runtime`]: everything needed to find them again lies in the state
//!   directory, and [`Runtime::open`] finds it.
//! - Every operation may be repeated: creating what exists returns it, removing what is gone succeeds.
//! - After `remove_container` and `remove_sandbox` nothing is left: no process, mount, cgroup, namespace or file but the
//!   log files, which go with the sandbox.
//!
//! Left out on purpose: user namespaces. Asking for one is an [`Error::NotSupported`] that names the field.

pub mod bundle;
pub mod cgroup;
mod container;
mod disk;
mod error;
pub mod images;
mod json_file;
pub mod logs;
mod mounts;
mod runtime;
pub mod sandbox;
pub mod shim;
mod table;
mod watch;

#[cfg(test)]
mod records_tests;

pub use container::{
    ContainerEvent, ContainerKey, ContainerSpec, ContainerState, ContainerStatus, Exit, ExitReason,
    HugePages, Mount, Propagation, Resources, Seccomp, Security, SubPath,
};
pub use disk::disk_usage;
pub use error::{Error, Result};
pub use images::{Image, ImageStore, PullPolicy};
pub use mounts::unmount_below;
pub use runtime::{
    Config, ContainerUsage, DiskUsage, PodUsage, Runtime, TreeUsage, image_volume, tree_usage,
};
pub use sandbox::{Sandbox, SandboxSpec};
/// Frames of a session that is attached to a container.
pub mod attach {
    pub use crate::shim::attach::{AttachSpec, FrameKind, LONGEST_FRAME, frame, parse_header};
    pub use crate::shim::client::Attachment;
}
pub use shim::exec::{ExecSession, ExecSpec, ExecStdio, HangUp};
pub use shim::{TerminalSize, resize_terminal};
