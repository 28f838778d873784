//! Starting the cluster's processes: in their namespace and cgroup, in a session of their own, with a log file.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::cgroups;
use super::layout::Layout;
use super::namespaces::{Namespace, enter};

/// A command that runs in a node's (or the hub's, or the client's) namespace and cgroup, as a process of that
/// machine would: the node's cgroup programs see its sockets.
pub fn command_in(layout: &Layout, machine: &str, program: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    let cgroup = cgroups::hierarchies()?.unified.join(layout.cgroup_of(machine)).join("processes");
    fs::create_dir_all(&cgroup).with_context(|| format!("create the cgroup {}", cgroup.display()))?;
    let procs = File::options().write(true).open(cgroup.join("cgroup.procs"))?;
    enter(&mut command, &Namespace::named(layout.namespace_of(machine)).path())?;
    // SAFETY: a write to an open descriptor is async-signal-safe; "0" means the writer itself.
    unsafe {
        command.pre_exec(move || (&procs).write_all(b"0"));
    }
    Ok(command)
}

/// The process of a machine that runs this program under its own name; shims, which are the agent's program too, do not.
pub fn process(layout: &Layout, machine: &str, program: &str) -> Result<u32> {
    let procs =
        cgroups::hierarchies()?.unified.join(layout.cgroup_of(machine)).join("processes/cgroup.procs");
    let pids = fs::read_to_string(&procs).with_context(|| format!("read {}", procs.display()))?;
    for pid in pids.lines() {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let first = command.split('\0').next().map(Path::new).and_then(Path::file_name);
        if first.is_some_and(|name| name == program) {
            return Ok(pid.parse()?);
        }
    }
    bail!("no {program} runs on {machine}")
}

/// Starts it detached from this terminal, its output in the log; `listener` becomes descriptor 3.
pub(super) fn start(
    layout: &Layout,
    name: &str,
    mut command: Command,
    listener: Option<TcpListener>,
) -> Result<Child> {
    let path = layout.log_of(name);
    let log = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // SAFETY: setsid and `inherit` are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            listener.as_ref().map_or(Ok(()), inherit)
        });
    }
    command.spawn().with_context(|| format!("start {name}: {command:?}"))
}

/// Makes the listener descriptor 3 of the program about to start.
fn inherit(listener: &TcpListener) -> std::io::Result<()> {
    let descriptor = listener.as_raw_fd();
    // SAFETY: plain system calls on an open descriptor. dup2 leaves the copy open across exec, but does nothing at all
    // where the two are the same.
    let outcome = unsafe {
        if descriptor == 3 {
            nix::libc::fcntl(3, nix::libc::F_SETFD, 0)
        } else {
            nix::libc::dup2(descriptor, 3)
        }
    };
    if outcome < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// The last lines of a process's log, for the error that says it died.
pub(super) fn tail(layout: &Layout, name: &str) -> String {
    let text = fs::read_to_string(layout.log_of(name)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
