//! Runs a further process in a running container.
//!
//! A helper process for each session joins the container through libcontainer and waits for the process. What libcontainer
//! leaves out of a joining process is put in here: the container's seccomp profile, and its directory in the cgroup2
//! hierarchy. User, capabilities, working directory, environment and limits come from the container's own `config.json`.
//!
//! A seccomp profile is installed after capabilities are dropped, which takes no_new_privs: a session in a container with a
//! profile has it even where the container itself does not.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::create::{Settings, chain, join_unified};
use super::init::Init;
use super::process::{pidfd_open, pidfd_signal};
use super::{LIBCONTAINER_DIR, Program, SETTINGS_FILE, ShimError, io_error};
use crate::cgroup::Hierarchies;
use crate::json_file;

/// A process to run in a container: under its user, seccomp profile, capabilities, working directory and cgroup.
#[derive(Debug)]
pub struct ExecSpec {
    pub argv: Vec<String>,
    pub stdio: ExecStdio,
    /// Allocate a terminal. Not supported yet.
    pub tty: bool,
    /// Kill the process after so long; the call then fails with [`ShimError::ExecTimeout`].
    pub timeout: Option<Duration>,
}

/// Absent ends are `/dev/null`.
#[derive(Debug, Default)]
pub struct ExecStdio {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    /// The container's directory.
    container: PathBuf,
    process: PathBuf,
    result: PathBuf,
    timeout: Option<Duration>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Outcome {
    Exited { code: i32 },
    TimedOut,
    Failed { problem: String },
}

/// The agent's side: starts the helper and waits for it.
pub(crate) fn run(program: &Program, dir: &Path, spec: ExecSpec) -> Result<i32, ShimError> {
    static SESSIONS: AtomicU64 = AtomicU64::new(0);
    let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
    let file = |kind: &str| dir.join(format!("exec-{}-{session}.{kind}", std::process::id()));
    let (path, process, result) = (file("request"), file("process"), file("result"));
    let seconds = spec.timeout.unwrap_or_default().as_secs();

    let run = || -> Result<Outcome, ShimError> {
        let config = dir.join("config.json");
        let bundle = Spec::load(&config).map_err(|error| ShimError::Exec(error.to_string()))?;
        let inner =
            bundle.process().clone().ok_or_else(|| ShimError::Exec("no process in config.json".into()))?;
        let mut inner = inner;
        inner.set_args(Some(spec.argv)).set_terminal(Some(false));
        let has_seccomp = bundle.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some());
        if has_seccomp {
            inner.set_no_new_privileges(Some(true));
        }
        json_file::write(&process, &inner).map_err(ShimError::Exec)?;
        let request = Request {
            container: dir.to_owned(),
            process: process.clone(),
            result: result.clone(),
            timeout: spec.timeout,
        };
        json_file::write(&path, &request).map_err(ShimError::Exec)?;
        let mut child = program.spawn_exec(&path, spec.stdio).map_err(io_error("start exec in", dir))?;
        child.wait().map_err(io_error("wait for exec in", dir))?;
        // Without a result the helper was killed: it lives in the container's cgroup, and dies with it.
        Ok(json_file::read(&result).unwrap_or(Outcome::Failed { problem: "the container ended".to_owned() }))
    };
    let outcome = run();
    for file in [path, process, result] {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &file)(error));
            }
            _ => {}
        }
    }
    match outcome? {
        Outcome::Exited { code } => Ok(code),
        Outcome::TimedOut => Err(ShimError::ExecTimeout { seconds }),
        Outcome::Failed { problem } => Err(ShimError::Exec(problem)),
    }
}

/// The helper: `exec <request>`.
pub(super) fn run_helper(request: PathBuf) -> Result<(), String> {
    let request: Request = json_file::read(&request)?;
    let outcome = session(&request).unwrap_or_else(|problem| Outcome::Failed { problem });
    json_file::write(&request.result, &outcome)
}

fn session(request: &Request) -> Result<Outcome, String> {
    let settings: Settings = json_file::read(&request.container.join(SETTINGS_FILE))?;
    let spec = Spec::load(request.container.join("config.json")).map_err(|error| chain(&error))?;
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
    nix::sys::prctl::set_child_subreaper(true).map_err(|errno| errno.to_string())?;
    join_unified(&Hierarchies::detect().map_err(|error| error.to_string())?, &settings.cgroup)?;

    let (init, report, report_write) =
        Init::new(Vec::new(), seccomp).map_err(|errno| format!("cannot make a pipe: {errno}"))?;
    let built = ContainerBuilder::new(settings.id, SyscallType::default())
        .with_root_path(request.container.join(LIBCONTAINER_DIR))
        .and_then(|builder| {
            let tenant = builder.with_executor(init).as_tenant().with_detach(true);
            tenant.with_process(Some(&request.process)).build()
        });
    drop(report_write);
    let pid = match (built, report.read()) {
        (Ok(pid), None) => pid,
        (_, Some(problem)) => return Err(problem),
        (Err(error), None) => return Err(chain(&error)),
    };
    wait(Pid::from_raw(pid.as_raw()), request.timeout)
}

fn wait(pid: Pid, timeout: Option<Duration>) -> Result<Outcome, String> {
    let pidfd = pidfd_open(pid).map_err(|error| error.to_string())?;
    let timeout =
        timeout.map_or(PollTimeout::NONE, |time| PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let timed_out = poll(&mut polled, timeout).map_err(|errno| errno.to_string())? == 0;
    if timed_out {
        pidfd_signal(&pidfd, Signal::SIGKILL as i32).map_err(|errno| errno.to_string())?;
    }
    let status = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED).map_err(|errno| errno.to_string())?;
    Ok(match status {
        _ if timed_out => Outcome::TimedOut,
        WaitStatus::Exited(_, code) => Outcome::Exited { code },
        WaitStatus::Signaled(_, signal, _) => Outcome::Exited { code: 128 + signal as i32 },
        _ => Outcome::Exited { code: 255 },
    })
}
