//! The `sandbox` subcommand: makes a pod's namespaces and pins them.
//!
//! A process of its own, because `unshare` acts on the caller's thread and the pins must be of namespaces nobody else
//! lives in. Reads a [`Request`] as JSON from standard input, writes what failed to standard error.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::sethostname;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Where to pin; exists and holds an empty file for each namespace.
    pub(super) directory: PathBuf,
    pub(super) hostname: String,
    /// Of `net`, `uts`, `ipc`.
    pub(super) namespaces: Vec<String>,
    pub(super) sysctls: BTreeMap<String, String>,
}

/// Returns what to print when it failed.
pub(crate) fn run() -> Result<(), String> {
    let mut input = String::new();
    io::stdin().read_to_string(&mut input).map_err(|error| format!("cannot read the request: {error}"))?;
    let request: Request =
        serde_json::from_str(&input).map_err(|error| format!("malformed request: {error}"))?;
    let has = |name: &str| request.namespaces.iter().any(|namespace| namespace == name);

    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET, has("net"));
    flags.set(CloneFlags::CLONE_NEWUTS, has("uts"));
    flags.set(CloneFlags::CLONE_NEWIPC, has("ipc"));
    unshare(flags).map_err(|errno| format!("cannot unshare namespaces: {errno}"))?;
    if has("uts") {
        sethostname(&request.hostname).map_err(|errno| format!("cannot set the host name: {errno}"))?;
    }
    if has("net") {
        loopback_up().map_err(|errno| format!("cannot bring up the loopback interface: {errno}"))?;
    }
    for (name, value) in &request.sysctls {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        fs::write(path, value).map_err(|error| format!("cannot set sysctl {name}={value}: {error}"))?;
    }
    for namespace in &request.namespaces {
        let source = format!("/proc/self/ns/{namespace}");
        let target = request.directory.join(namespace);
        mount(Some(&*source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|errno| {
            format!("cannot pin the {namespace} namespace at {}: {errno}", target.display())
        })?;
    }
    Ok(())
}

fn loopback_up() -> Result<(), Errno> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: ifreq is plain data, for which zero bytes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = (*from).cast_signed();
    }
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: both requests take a valid ifreq, and the kernel fills and reads its flags.
    unsafe {
        Errno::result(libc::ioctl(fd, libc::SIOCGIFFLAGS as _, &mut request))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        Errno::result(libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &request))?;
    }
    Ok(())
}
