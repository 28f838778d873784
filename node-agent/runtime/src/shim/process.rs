//! Processes named for ever: a pid with its start time on disk, a pidfd in memory.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// The container's first process. With its start time the pid names one process for ever.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InitProcess {
    pub(crate) pid: i32,
    /// Clock ticks since boot, field 22 of `/proc/<pid>/stat`.
    pub(crate) start_time: u64,
}

pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: plain integers; the kernel returns a new descriptor or an error.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// No error when the process has ended.
pub(crate) fn pidfd_signal(pidfd: &OwnedFd, signal: i32) -> Result<(), Errno> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a valid descriptor, and null where no siginfo is given.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0) };
    match Errno::result(sent) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno),
    }
}

impl InitProcess {
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, start_time: start_time(pid)? })
    }

    /// Whether it is still there and not only waiting to be collected by its parent.
    pub(crate) fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|fields| {
            let state = fields.first().map(String::as_str);
            parse_start_time(&fields) == Some(self.start_time) && !matches!(state, Some("Z" | "X"))
        })
    }
}

/// `None` when there is no such process.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    parse_start_time(&stat(pid)?)
}

fn parse_start_time(fields: &[String]) -> Option<u64> {
    fields.get(19)?.parse().ok()
}

/// The fields of `/proc/<pid>/stat` from the state on, which is the third.
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; what follows its end is regular.
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}
