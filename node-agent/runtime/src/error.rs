//! The runtime's error: what failed, on which object, and Kubernetes' reason for it.

use std::io;
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Image(#[from] crate::images::ImageError),
    #[error(transparent)]
    Bundle(#[from] crate::bundle::BundleError),
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::CgroupError),
    #[error(transparent)]
    Sandbox(#[from] crate::sandbox::SandboxError),
    #[error(transparent)]
    Shim(#[from] crate::shim::ShimError),
    #[error(transparent)]
    Log(#[from] crate::logs::LogError),
    /// The field is understood, and nothing acts on it yet.
    #[error("{field} is not supported yet")]
    NotSupported { field: &'static str },
    #[error("state directory {path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("container {key} does not exist")]
    NoContainer { key: String },
    #[error("container {key}, whose processes were asked for, does not run")]
    NoTarget { key: String },
    #[error("sandbox {uid} does not exist")]
    NoSandbox { uid: String },
    #[error("{what} {name:?} is not a valid name: it would leave its directory")]
    InvalidName { what: &'static str, name: String },
    #[error("container {key} did not end {seconds} s after SIGKILL")]
    Unkillable { key: String, seconds: u64 },
    #[error("cannot {operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

impl Error {
    /// The reason Kubernetes' clients expect in a waiting container's status or in an event.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Image(error) => error.reason(),
            Self::Bundle(error) => error.reason(),
            Self::Shim(error) => error.reason(),
            Self::Sandbox(_) | Self::NoSandbox { .. } => "FailedCreatePodSandBox",
            Self::NotSupported { .. } | Self::NoTarget { .. } => "CreateContainerConfigError",
            Self::Cgroup(_)
            | Self::Log(_)
            | Self::InUse { .. }
            | Self::NoContainer { .. }
            | Self::InvalidName { .. }
            | Self::Unkillable { .. }
            | Self::Io { .. } => "CreateContainerError",
        }
    }

    pub(crate) fn io(operation: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { operation, path, source }
    }
}
