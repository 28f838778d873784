//! What can go wrong in this crate, with the operation and the object it was done to.

use std::io;
use std::path::{Path, PathBuf};

use nix::libc;
use thiserror::Error;

use crate::PoolError;

/// An operation on the pod network that failed.
#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot {operation} {object}: {}", netlink_reason(source))]
    Netlink { operation: &'static str, object: String, source: rtnetlink::Error },
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    #[error("cannot enter network namespace {}", path.display())]
    Netns { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Sysctl { path: PathBuf, source: io::Error },
    #[error("cannot turn on generic receive offload of {link}")]
    Offload { link: String, source: io::Error },
    #[error("interface {link} of the pod exists already, and it is not the peer of {host}")]
    ForeignLink { link: &'static str, host: String },
    #[error("there is no interface {name} in this network namespace")]
    NoInterface { name: String },
    #[error("veth pair {host} vanished while it was being set up")]
    Vanished { host: String },
    #[error("route to {cidr} by {via}: only IPv4 routes are supported")]
    RouteFamily { cidr: String, via: std::net::IpAddr },
    #[error("the runtime is shutting down")]
    Interrupted,
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl Error {
    pub(crate) fn netlink(
        operation: &'static str,
        object: impl Into<String>,
    ) -> impl FnOnce(rtnetlink::Error) -> Self {
        let object = object.into();
        move |source| Self::Netlink { operation, object, source }
    }

    pub(crate) fn sysctl(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Sysctl { path: path.to_owned(), source }
    }
}

/// The kernel's error number in an answer to a netlink request, positive as in errno.h.
pub(crate) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().abs()),
        _ => None,
    }
}

/// Whether the kernel answered that the object is not there.
pub(crate) fn is_absent(error: &rtnetlink::Error) -> bool {
    matches!(errno(error), Some(libc::ENODEV | libc::ENOENT | libc::ESRCH))
}

fn netlink_reason(error: &rtnetlink::Error) -> String {
    match errno(error) {
        Some(code) => io::Error::from_raw_os_error(code).to_string(),
        None => error.to_string(),
    }
}
