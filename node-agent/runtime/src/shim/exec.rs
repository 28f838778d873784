//! Runs a further process in a running container.

use std::os::fd::OwnedFd;
use std::time::Duration;

/// A process to run in a container: under its user, seccomp profile, capabilities, working directory and cgroup.
#[derive(Debug)]
pub struct ExecSpec {
    pub argv: Vec<String>,
    pub stdio: ExecStdio,
    /// Allocate a terminal. Not supported yet.
    pub tty: bool,
    /// Kill the process after so long; the call then fails.
    pub timeout: Option<Duration>,
}

/// Absent ends are `/dev/null`.
#[derive(Debug, Default)]
pub struct ExecStdio {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}
