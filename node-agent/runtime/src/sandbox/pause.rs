//! The first process of a process namespace that the containers of a pod share: it holds the namespace and collects
//! orphans, and does nothing else. When it dies the kernel kills all others in there.
//!
//! Containers see it, and root in a container may look into whatever root may: so it leaves everything of the node behind
//! before anybody joins it. It has an empty root, no capability, no user, and cannot be traced.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::{
    ForkResult, Gid, Pid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, pause, pipe2, pivot_root,
    setgroups, setresgid, setresuid, setsid,
};
use serde::{Deserialize, Serialize};

use crate::shim::process::InitProcess;

/// Nobody's: the same number as Kubernetes' pause.
const NOBODY: u32 = 65535;
/// Among the last to be killed when memory runs out, as Kubernetes has it.
const OOM_SCORE_ADJ: &str = "-998";

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Where to pin the namespace; an empty file.
    pub(super) pin: PathBuf,
    /// Pinned namespaces of the pod, of which the process becomes a member.
    pub(super) join: Vec<PathBuf>,
    /// The group of the process in each hierarchy.
    pub(super) cgroups: Vec<PathBuf>,
}

/// The `pause` subcommand. Reads a [`Request`] from standard input, prints the [`InitProcess`]; returns what to print when
/// it failed. In the process that stays it does not return.
pub(crate) fn run() -> Result<(), String> {
    let mut input = String::new();
    io::stdin().read_to_string(&mut input).map_err(at("read the request"))?;
    let request: Request = serde_json::from_str(&input).map_err(at("read the request"))?;
    join_cgroups(&request.cgroups)?;
    // Refused on some nodes; then it keeps what the agent has.
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    for namespace in &request.join {
        let file = File::open(namespace).map_err(at("open a namespace of the pod"))?;
        setns(file, CloneFlags::empty()).map_err(at("join a namespace of the pod"))?;
    }
    unshare(CloneFlags::CLONE_NEWPID).map_err(at("make a process namespace"))?;
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(at("make a pipe"))?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.map_err(at("fork"))? {
        ForkResult::Child => {
            drop(read);
            hold(&request.pin, write)
        }
        ForkResult::Parent { child } => {
            drop(write);
            let pinned = pin(&request.pin, child, read);
            if pinned.is_err() {
                let _ = kill(child, Signal::SIGKILL);
            }
            pinned
        }
    }
}

/// Those that take a process. On version 1 a new group of some controllers (cpuset) takes none before it is set up; a group
/// that does is where the process is killed.
fn join_cgroups(cgroups: &[PathBuf]) -> Result<(), String> {
    let join =
        |dir: &PathBuf| fs::create_dir_all(dir).and_then(|()| fs::write(dir.join("cgroup.procs"), "0"));
    let mut problem = "there is no cgroup hierarchy".to_owned();
    let mut joined = false;
    for dir in cgroups {
        match join(dir) {
            Ok(()) => joined = true,
            Err(error) => {
                problem = format!("{}: {error}", dir.display());
                let _ = fs::remove_dir(dir);
            }
        }
    }
    if joined { Ok(()) } else { Err(format!("cannot join the pod's cgroup: {problem}")) }
}

/// In the parent: pins the namespace once the child has left the node behind.
fn pin(target: &Path, child: Pid, report: OwnedFd) -> Result<(), String> {
    let mut problem = String::new();
    File::from(report).read_to_string(&mut problem).map_err(at("hear from the first process"))?;
    // One word that it is done: silence is its death.
    if problem != READY {
        return Err(format!("the first process of the pod's process namespace failed: {problem}"));
    }
    let source = format!("/proc/{child}/ns/pid");
    mount(Some(&*source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(at("pin the process namespace"))?;
    let process = InitProcess::of(child.as_raw()).ok_or("the first process is gone")?;
    let answer = serde_json::to_vec(&process).map_err(at("encode the answer"))?;
    io::stdout().write_all(&answer).map_err(at("answer"))
}

const READY: &str = "ready";

/// In the child: the rest of its life.
fn hold(directory: &Path, report: OwnedFd) -> ! {
    let outcome = confine(directory, report.as_raw_fd());
    let word = outcome.map_or_else(|problem| problem, |()| READY.to_owned());
    let _ = nix::unistd::write(&report, word.as_bytes());
    drop(report);
    if word != READY {
        std::process::exit(1);
    }
    loop {
        pause();
    }
}

/// `near` is a file whose directory serves as the place of the new root.
fn confine(near: &Path, report: RawFd) -> Result<(), String> {
    setsid().map_err(at("lead a session"))?;
    close_all_but(report).map_err(at("close descriptors"))?;
    let name = c"pause";
    // SAFETY: takes a terminated string of less than 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    // The kernel collects children of one who ignores their end, orphans included.
    // SAFETY: ignoring is no handler of ours.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.map_err(at("ignore the end of children"))?;
    let root = near.parent().ok_or("the pin has no directory")?;
    leave_root(root).map_err(at("leave the node's files"))?;
    drop_privileges().map_err(at("drop privileges"))
}

fn close_all_but(report: RawFd) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    drop(null);
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2 && *fd != report)
        .collect();
    for fd in open {
        // SAFETY: nothing in this process uses these.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// An empty file system that cannot be written becomes the root.
fn leave_root(directory: &Path) -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    mount(Some("none"), directory, Some("tmpfs"), flags, Some("size=4k,nr_inodes=1,mode=555"))?;
    chdir(directory)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

fn drop_privileges() -> Result<(), Errno> {
    for capability in 0..64 {
        // Beyond the last one that this kernel knows.
        // SAFETY: takes plain numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            break;
        }
    }
    nix::sys::prctl::set_no_new_privs()?;
    setgroups(&[])?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setresgid(group, group, group)?;
    // From root to another user: all capabilities go.
    setresuid(user, user, user)?;
    nix::sys::prctl::set_dumpable(false)
}

fn at<E: std::fmt::Display>(operation: &'static str) -> impl Fn(E) -> String {
    move |error| format!("cannot {operation}: {error}")
}
