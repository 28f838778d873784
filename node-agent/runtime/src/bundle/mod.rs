//! Turns a [`crate::ContainerSpec`] into an OCI bundle: `config.json` beside the mounted root.
//!
//! Defaults are those of containerd's CRI plugin, so that images and security contexts behave as on other clusters, with
//! what libcontainer leaves open closed: devices denied first, cgroup mounts read-only on version 1 too, working
//! directories made.
//!
//! The document is written as JSON in the specification's own words; libcontainer parses it.

mod capabilities;
mod linux;
mod mounts;
mod node;
mod process;
mod rootfs;
pub mod seccomp;
pub(crate) mod subpath;
mod user;

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cgroup::Hierarchies;
use crate::container::ContainerSpec;
use crate::error::Result;
use crate::sandbox::Sandbox;

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("no command specified: neither the container nor image {image:?} gives one")]
    NoCommand { image: String },
    /// In the kubelet's words.
    #[error("{problem} (pod: {pod:?}, container: {container})")]
    RunsAsRoot { problem: String, pod: String, container: String },
    #[error("user {user:?} of the image: {problem}")]
    NoUser { user: String, problem: String },
    #[error("securityContext.capabilities: {name:?} is not a capability")]
    UnknownCapability { name: String },
    #[error("securityContext.capabilities.add: this node does not have {name}")]
    CapabilityNotAvailable { name: String },
    #[error("working directory {path:?} is not absolute")]
    RelativeWorkingDir { path: String },
    #[error("volume mount at {destination}: {path} does not exist on the node")]
    NoMountSource { destination: PathBuf, path: PathBuf },
    #[error("volume mount path {path:?} is not absolute or holds '..'")]
    BadMountPath { path: PathBuf },
    #[error(
        "volume mount at {destination}: mountPropagation {kind} needs a shared mount, and {path} is mounted on {point}, which is \
         not; on the node: mount --make-rshared {point}"
    )]
    NotShared { destination: PathBuf, path: PathBuf, kind: &'static str, point: PathBuf },
    #[error("failed to prepare subPath for the volume mount at {destination}: {path:?}: {problem}")]
    SubPath { destination: PathBuf, path: PathBuf, problem: String },
    #[error("seccomp profile {path}: {problem}")]
    BadSeccomp { path: PathBuf, problem: String },
    #[error("{name:?} is not a signal")]
    UnknownSignal { name: String },
    #[error("environment variable {name:?}: {problem}")]
    BadEnvironment { name: String, problem: &'static str },
    #[error("in the container's root: cannot {operation} {path}: {source}")]
    Root { operation: &'static str, path: PathBuf, source: io::Error },
}

impl BundleError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::RunsAsRoot { .. }
            | Self::BadSeccomp { .. }
            | Self::BadEnvironment { .. }
            | Self::SubPath { .. } => "CreateContainerConfigError",
            _ => "CreateContainerError",
        }
    }
}

/// What the rest of the runtime needs to know of a bundle it has made.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) config: Value,
    /// The user the container runs as.
    pub(crate) uid: u32,
}

/// Composes `config.json`. `rootfs` is mounted; missing working directory and volume directories are made in it. Parts of
/// volumes are mounted in `dir`, the container's directory. `processes` is the process namespace of another container, for
/// one that is to see its processes.
pub(crate) fn compose(
    spec: &ContainerSpec,
    sandbox: &Sandbox,
    dir: &Path,
    rootfs: &Path,
    cgroup: &str,
    hierarchies: &Hierarchies,
    processes: Option<&Path>,
) -> Result<Bundle> {
    let root = rootfs::Root::open(rootfs)?;
    let user = user::resolve(spec, &sandbox.spec, &root)?;
    let process = process::process(spec, sandbox, &root, &user)?;
    let config = json!({
        "ociVersion": "1.0.2",
        "root": { "path": rootfs, "readonly": spec.security.read_only_root },
        "mounts": mounts::mounts(spec, sandbox, dir)?,
        "process": process,
        "linux": linux::linux(spec, sandbox, cgroup, hierarchies, processes)?,
    });
    Ok(Bundle { config, uid: user.uid })
}

/// The number of a signal by its name (`SIGTERM`, `TERM`) or number.
pub(crate) fn signal_number(name: &str) -> Result<i32, BundleError> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper.clone() } else { format!("SIG{upper}") };
    let real_time =
        |base: i32, offset: &str| offset.trim_start_matches(['+', '-']).parse().ok().map(|n: i32| base + n);
    let number = match upper.parse::<i32>() {
        Ok(number) if (1..=64).contains(&number) => Some(number),
        _ if full.starts_with("SIGRTMIN+") => real_time(34, &full["SIGRTMIN".len()..]).filter(|n| *n <= 64),
        _ => full.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32),
    };
    number.ok_or_else(|| BundleError::UnknownSignal { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (name, number) in [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37)] {
            assert_eq!(signal_number(name).ok(), Some(number), "{name}");
        }
        for name in ["", "SIGNONE", "0", "65", "SIGRTMIN+99"] {
            assert!(signal_number(name).is_err(), "{name:?} was taken for a signal");
        }
    }
}
