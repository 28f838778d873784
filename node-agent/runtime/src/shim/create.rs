//! The first part of a shim's life: from a process the agent has started to one that holds a container.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SigSet, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, chdir, dup2_stdin, dup2_stdout, fchown, pipe2, setsid};
use serde::{Deserialize, Serialize};

use super::attach::Hub;
use super::console;
use super::init::Init;
use super::output::{Log, Stream};
use super::process::{InitProcess, pidfd_open, start_time};
use super::protocol::Answer;
use super::server::Shim;
use super::terminal::{Outlet, Terminal, TerminalSize};
use super::{INIT_FILE, LIBCONTAINER_DIR, SETTINGS_FILE, SOCKET_FILE};
use crate::cgroup::{Hierarchies, devices};
use crate::json_file;

/// What the agent tells the shim, in `shim.json`. The rest is in the bundle.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) id: String,
    /// The container's cgroup, relative to each hierarchy's root.
    pub(crate) cgroup: String,
    pub(crate) log: PathBuf,
    /// The container's user, who may open `/dev/stdout` anew.
    pub(crate) uid: u32,
    /// Devices but the usual ones are denied.
    pub(crate) deny_devices: bool,
    #[serde(default)]
    pub(crate) tty: bool,
    #[serde(default)]
    pub(crate) stdin: bool,
    #[serde(default)]
    pub(crate) stdin_once: bool,
}

/// The `shim` subcommand's beginning: tells the agent how it went, and returns the shim to serve.
pub(super) fn create(dir: PathBuf) -> Result<Shim, String> {
    // The lock that says this shim lives, and the pipe for the answer: moved away from the standard streams.
    let lock = io::stdin().as_fd().try_clone_to_owned().map_err(at("keep the lock"))?;
    let answer = io::stdout().as_fd().try_clone_to_owned().map_err(at("keep the answer's pipe"))?;
    detach(&[&lock, &answer]).map_err(at("detach"))?;
    let shim = container(dir, &[&lock, &answer]);
    let message = match &shim {
        Ok(_) => Answer::Ready,
        Err(Failure::NotExecutable(problem)) => Answer::NotExecutable { problem: problem.clone() },
        Err(Failure::Other(problem)) => Answer::Failed { problem: problem.clone() },
    };
    let message = serde_json::to_vec(&message).map_err(at("encode the answer"))?;
    File::from(answer).write_all(&message).map_err(at("answer"))?;
    // Never dropped: the kernel releases the lock when this process ends, however it does.
    std::mem::forget(lock);
    shim.map_err(|(Failure::NotExecutable(problem) | Failure::Other(problem))| problem)
}

enum Failure {
    /// The container stood, and its program could not have been executed in it.
    NotExecutable(String),
    Other(String),
}

impl From<String> for Failure {
    fn from(problem: String) -> Self {
        Self::Other(problem)
    }
}

fn container(dir: PathBuf, own: &[&OwnedFd]) -> Result<Shim, Failure> {
    let settings: Settings = json_file::read(&dir.join(SETTINGS_FILE))?;
    let hierarchies = Hierarchies::detect().map_err(|error| error.to_string())?;
    let listener = listen(&dir).map_err(at("listen"))?;
    let log = Log::open(&settings.log).map_err(at("open the container's log"))?;
    let streams = Streams::of(&settings).map_err(at("make a pipe"))?;

    let own = own.iter().map(|fd| fd.as_raw_fd());
    let close = own.chain([listener.as_raw_fd()]).chain(streams.own()).collect();
    let (init, report, report_write) = Init::new(close, None, streams.terminal).map_err(at("make a pipe"))?;
    if settings.deny_devices
        && let Some(dir) = hierarchies.unified_dir(&settings.cgroup)
    {
        fs::create_dir_all(&dir).map_err(at("create the container's cgroup2 directory"))?;
        devices::deny(&dir).map_err(|error| error.to_string())?;
    }
    let home = join_unified(&hierarchies, &settings.cgroup)?;
    let adjustment = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    let built = build(&dir, &settings.id, init, streams.theirs);
    drop((report_write, streams.inside));
    // Back to where the shim came from: what ends the pod's processes must not end the shim. Nor shall it be the first to
    // go when memory runs out; a value below what it had is refused, and then it keeps the container's.
    leave_unified(&hierarchies, home);
    let _ = fs::write("/proc/self/oom_score_adj", adjustment.trim());
    let container = match built {
        Ok(container) => container,
        Err(problem) => {
            // The agent removes what is left, and says so if it cannot.
            let _ = hierarchies.kill(&settings.cgroup);
            return Err(report.read().map_or(Failure::Other(problem), Failure::NotExecutable));
        }
    };
    let pid = container.pid().ok_or_else(|| "libcontainer made a container without a process".to_owned())?;
    let pid = Pid::from_raw(pid.as_raw());
    if settings.tty {
        console::link(pid).map_err(at("make /dev/console"))?;
    }
    let init = InitProcess { pid: pid.as_raw(), start_time: start_time(pid.as_raw()).unwrap_or(0) };
    json_file::write(&dir.join(INIT_FILE), &init)?;
    Ok(Shim {
        pidfd: pidfd_open(pid).map_err(at("watch the container's process"))?,
        signals: child_signals().map_err(at("watch for ended processes"))?,
        connections: Vec::new(),
        report: Some(report),
        started_at: None,
        not_executed: None,
        streams: streams.output,
        hub: Hub::new(streams.stdin, settings.stdin_once),
        outlet: streams.outlet,
        dir,
        settings,
        hierarchies,
        listener,
        container,
        pid,
        log,
    })
}

/// Leaves the agent's session and standard streams, and takes in orphans.
fn detach(keep: &[&OwnedFd]) -> io::Result<()> {
    setsid()?;
    nix::sys::prctl::set_child_subreaper(true)?;
    umask(Mode::from_bits_truncate(0o022));
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    drop(null);
    // Whatever else the agent had open without close-on-exec. Standard error is shim.log.
    let keep: Vec<RawFd> = keep.iter().map(|fd| fd.as_raw_fd()).collect();
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2 && !keep.contains(fd))
        .collect();
    for fd in open {
        // SAFETY: nothing in this process uses these: it has opened only `keep`, and the listing's own is closed.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

fn build(dir: &Path, id: &str, init: Init, streams: [OwnedFd; 3]) -> Result<Container, String> {
    let [stdin, out, err] = streams;
    ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(dir.join(LIBCONTAINER_DIR))
        .and_then(|builder| {
            builder
                .with_executor(init)
                .with_stdin(stdin)
                .with_stdout(out)
                .with_stderr(err)
                .as_init(dir)
                .with_systemd(false)
                .with_detach(true)
                .build()
        })
        .map_err(|error| chain(&error))
}

/// On hybrid hosts libcontainer leaves processes at the root of the cgroup2 hierarchy, where the pod's eBPF programs do
/// not see them. Children inherit: so the shim goes there before it makes the container. Returns where it was.
pub(super) fn join_unified(hierarchies: &Hierarchies, cgroup: &str) -> Result<Option<PathBuf>, String> {
    let Some(dir) = hierarchies.unified_dir(cgroup).filter(|_| !hierarchies.is_pure_v2()) else {
        return Ok(None);
    };
    let own = fs::read_to_string("/proc/self/cgroup").map_err(at("read /proc/self/cgroup"))?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
    let home = hierarchies.unified_dir(own.trim_end_matches(" (deleted)"));
    fs::create_dir_all(&dir).map_err(at("create the container's cgroup2 directory"))?;
    fs::write(dir.join("cgroup.procs"), "0").map_err(at("join the container's cgroup2 directory"))?;
    Ok(home)
}

fn leave_unified(hierarchies: &Hierarchies, home: Option<PathBuf>) {
    let Some(home) = home else { return };
    if fs::write(home.join("cgroup.procs"), "0").is_err()
        && let Some(root) = hierarchies.unified_dir("")
    {
        // The group the agent was in is gone. The root takes everybody.
        let _ = fs::write(root.join("cgroup.procs"), "0");
    }
}

fn listen(dir: &Path) -> io::Result<UnixListener> {
    // A socket's path has room for 107 bytes only; relative to the directory it always fits.
    chdir(dir)?;
    let listener = UnixListener::bind(SOCKET_FILE);
    chdir("/")?;
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The container's standard streams: the shim's ends and the container's.
struct Streams {
    output: [Stream; 2],
    stdin: Option<File>,
    terminal: Option<Terminal>,
    outlet: Option<Outlet>,
    theirs: [OwnedFd; 3],
    /// To be dropped once the container's process exists.
    inside: Option<OwnedFd>,
    own: Vec<RawFd>,
}

impl Streams {
    fn of(settings: &Settings) -> io::Result<Self> {
        let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
        if settings.tty {
            let (terminal, outlet, inside) = Terminal::new(TerminalSize::default())?;
            return Ok(Self {
                own: vec![outlet.raw_fd()],
                output: [Stream::absent("stdout"), Stream::absent("stderr")],
                stdin: None,
                terminal: Some(terminal),
                outlet: Some(outlet),
                theirs: [null()?, null()?, null()?],
                inside: Some(inside),
            });
        }
        let (out_read, out_write) = pipe(settings.uid)?;
        let (err_read, err_write) = pipe(settings.uid)?;
        let mut own = vec![out_read.as_raw_fd(), err_read.as_raw_fd()];
        let (stdin, their_stdin) = if settings.stdin {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            nix::fcntl::fcntl(&write, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            fchown(&read, Some(settings.uid.into()), None)?;
            own.push(write.as_raw_fd());
            (Some(File::from(write)), read)
        } else {
            (None, null()?)
        };
        Ok(Self {
            output: [Stream::new("stdout", out_read), Stream::new("stderr", err_read)],
            stdin,
            terminal: None,
            outlet: None,
            theirs: [their_stdin, out_write, err_write],
            inside: None,
            own,
        })
    }

    /// What the container's process must not keep.
    fn own(&self) -> impl Iterator<Item = RawFd> {
        self.own.iter().copied()
    }
}

/// A pipe whose reading end does not block. `/dev/stdout` can be opened anew only by the pipe's owner.
fn pipe(uid: u32) -> io::Result<(File, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    fchown(&write, Some(uid.into()), None)?;
    Ok((read.into(), write))
}

fn child_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// An error with all its causes: libcontainer's own text is often only the first of them.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

fn at<E: std::fmt::Display>(operation: &'static str) -> impl Fn(E) -> String {
    move |error| format!("cannot {operation}: {error}")
}
