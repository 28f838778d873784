//! The life of a shim: create the container, serve the socket, write the log, and record the end.
//!
//! One thread, one poll loop. What the agent must know after the shim is gone lies in the container's directory:
//! `init.json` (the process), `exit.json` (its end, written by rename). The shim ends when the container has ended; it
//! needs no agent.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SigSet, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, chdir, dup2_stdin, dup2_stdout, fchown, pipe2, setsid};
use serde::{Deserialize, Serialize};

use super::init::{Init, Report};
use super::output::{Log, Stream};
use super::program::server_ready;
use super::protocol::{self, Request, Response};
use super::{EXIT_FILE, INIT_FILE, LIBCONTAINER_DIR, SETTINGS_FILE, SOCKET_FILE, ShimError};
use crate::cgroup::{Hierarchies, devices};
use crate::container::{Exit, ExitReason};

/// Connections beyond this many wait in the listener's queue.
const CONNECTION_LIMIT: usize = 16;
/// How long output may still come after the container's processes are gone.
const DRAIN_DEADLINE: Duration = Duration::from_millis(500);

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
}

/// The container's first process. With its start time the pid names one process for ever.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InitProcess {
    pub(crate) pid: i32,
    /// Clock ticks since boot, field 22 of `/proc/<pid>/stat`.
    pub(crate) start_time: u64,
}

struct Shim {
    dir: PathBuf,
    settings: Settings,
    hierarchies: Hierarchies,
    listener: UnixListener,
    connections: Vec<UnixStream>,
    signals: SignalFd,
    container: Container,
    /// Until started.
    report: Option<Report>,
    pid: Pid,
    pidfd: OwnedFd,
    started_at: Option<Timestamp>,
    log: Log,
    streams: [Stream; 2],
}

/// Returns what to write to `shim.log` when the container could not be created.
pub(super) fn run(dir: PathBuf) -> Result<(), String> {
    let mut shim = Shim::create(dir)?;
    let status = shim.serve().map_err(|error| format!("poll: {error}"))?;
    shim.finish(status)
}

impl Shim {
    fn create(dir: PathBuf) -> Result<Self, String> {
        // The lock that says this shim lives: moved out of standard input, and kept for ever.
        let lock = dup_cloexec(io::stdin().as_fd()).map_err(at("keep the lock"))?;
        let ready = dup_cloexec(io::stdout().as_fd()).map_err(at("keep the answer's pipe"))?;
        detach(&[&lock, &ready]).map_err(at("detach"))?;

        let settings: Settings = read_json(&dir.join(SETTINGS_FILE))?;
        let hierarchies = Hierarchies::detect().map_err(|error| error.to_string())?;
        let listener = listen(&dir).map_err(at("listen"))?;
        let log = Log::open(&settings.log).map_err(at("open the container's log"))?;
        let (out_read, out_write) = pipe(settings.uid).map_err(at("make a pipe"))?;
        let (err_read, err_write) = pipe(settings.uid).map_err(at("make a pipe"))?;

        let close = vec![
            lock.as_raw_fd(),
            ready.as_raw_fd(),
            listener.as_raw_fd(),
            out_read.as_raw_fd(),
            err_read.as_raw_fd(),
        ];
        let (init, report, report_write) = Init::new(close, None).map_err(|error| error.to_string())?;
        if settings.deny_devices
            && let Some(dir) = hierarchies.unified_dir(&settings.cgroup)
        {
            fs::create_dir_all(&dir).map_err(at("create the container's cgroup2 directory"))?;
            devices::deny(&dir).map_err(|error| error.to_string())?;
        }
        let home = join_unified(&hierarchies, &settings.cgroup)?;
        let adjustment = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        let built = build(&dir, &settings.id, init, out_write, err_write);
        drop(report_write);
        // Back to where the shim came from: what ends the pod's processes must not end the shim.
        leave_unified(&hierarchies, home);
        let _ = fs::write("/proc/self/oom_score_adj", adjustment.trim());
        let _ = chdir("/");
        let container = match built {
            Ok(container) => container,
            Err(problem) => {
                let problem = report.read().unwrap_or(problem);
                let _ = hierarchies.kill(&settings.cgroup);
                let _ = hierarchies.remove(&settings.cgroup);
                return Err(problem);
            }
        };
        let pid = container.pid().ok_or("libcontainer made a container without a process")?;
        let pid = Pid::from_raw(pid.as_raw());
        let shim = Self {
            pidfd: pidfd_open(pid).map_err(at("watch the container's process"))?,
            signals: child_signals().map_err(at("watch for ended processes"))?,
            connections: Vec::new(),
            report: Some(report),
            started_at: None,
            streams: [Stream::new("stdout", out_read), Stream::new("stderr", err_read)],
            dir,
            settings,
            hierarchies,
            listener,
            container,
            pid,
            log,
        };
        let start_time = start_time(pid.as_raw()).unwrap_or(0);
        write_json(&shim.dir.join(INIT_FILE), &InitProcess { pid: pid.as_raw(), start_time })?;
        File::from(ready).write_all(server_ready().as_bytes()).map_err(at("answer"))?;
        // Never dropped: released by the kernel when this process ends, however it does.
        std::mem::forget(lock);
        Ok(shim)
    }

    /// Serves until the container's first process has ended; returns how.
    fn serve(&mut self) -> io::Result<WaitStatus> {
        loop {
            let events = {
                let mut fds =
                    vec![(self.pidfd.as_fd(), Source::Init), (self.signals.as_fd(), Source::Children)];
                if self.connections.len() < CONNECTION_LIMIT {
                    fds.push((self.listener.as_fd(), Source::Listener));
                }
                fds.extend(
                    self.connections.iter().enumerate().map(|(i, c)| (c.as_fd(), Source::Connection(i))),
                );
                fds.extend(
                    self.streams.iter().enumerate().filter_map(|(i, s)| Some((s.fd()?, Source::Stream(i)))),
                );
                wait(&fds, PollTimeout::NONE)?
            };
            // Connections last to first: handling one may remove it.
            for source in events.into_iter().rev() {
                match source {
                    Source::Init => {
                        return Ok(waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED)?);
                    }
                    Source::Children => self.reap(),
                    Source::Listener => self.accept(),
                    Source::Connection(index) => self.answer(index),
                    Source::Stream(index) => self.streams[index].pump(&mut self.log),
                }
            }
        }
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        // An agent that stops in the middle of a frame must not stop the shim.
        let second = Some(Duration::from_secs(1));
        if stream.set_read_timeout(second).and_then(|()| stream.set_write_timeout(second)).is_ok() {
            self.connections.push(stream);
        }
    }

    fn answer(&mut self, index: usize) {
        let request = protocol::read(&mut self.connections[index]);
        let keep = request.is_ok_and(|request| {
            let response = self.handle(request);
            protocol::write(&mut self.connections[index], &response).is_ok()
        });
        if !keep {
            self.connections.swap_remove(index);
        }
    }

    fn handle(&mut self, request: Request) -> Response {
        let done = |result: Result<(), String>| match result {
            Ok(()) => Response::Done,
            Err(problem) => Response::Failed { problem },
        };
        match request {
            Request::State => self.state(),
            Request::Start => {
                self.start().map_or_else(|problem| Response::Failed { problem }, |()| self.state())
            }
            Request::Kill { signal } => {
                done(pidfd_signal(&self.pidfd, signal).map_err(|errno| errno.to_string()))
            }
            Request::ReopenLog => done(self.log.reopen().map_err(|error| error.to_string())),
        }
    }

    fn state(&self) -> Response {
        Response::State { pid: self.pid.as_raw(), started_at: self.started_at }
    }

    fn start(&mut self) -> Result<(), String> {
        let Some(report) = self.report.take() else { return Ok(()) };
        self.container.start().map_err(|error| chain(&error))?;
        match report.read() {
            Some(problem) => Err(problem),
            None => {
                self.started_at = Some(Timestamp::now());
                Ok(())
            }
        }
    }

    /// Orphans come to the shim, as their subreaper, when the container has no process namespace of its own.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            let ended = waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT);
            match ended.ok().and_then(|status| status.pid()) {
                // Its end is seen through the pidfd, where the status is taken.
                Some(pid) if pid == self.pid => return,
                Some(pid) => drop(waitpid(pid, Some(WaitPidFlag::WNOHANG))),
                None => return,
            }
        }
    }

    fn finish(mut self, status: WaitStatus) -> Result<(), String> {
        let finished_at = Timestamp::now();
        // Processes outside a namespace of the container's own survive its first process.
        let killed = self.hierarchies.kill(&self.settings.cgroup);
        self.drain();
        let oom_killed = self.hierarchies.oom_kills(&self.settings.cgroup) > 0;
        let (code, signal) = match status {
            WaitStatus::Exited(_, code) => (code, None),
            WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, Some(signal as i32)),
            _ => (255, None),
        };
        let reason = match (oom_killed, code) {
            (true, code) if code != 0 => ExitReason::OomKilled,
            (_, 0) => ExitReason::Completed,
            _ => ExitReason::Error,
        };
        let exit = Exit { code, signal, oom_killed, reason, started_at: self.started_at, finished_at };
        write_json(&self.dir.join(EXIT_FILE), &exit)?;
        killed.map_err(|error| error.to_string())?;
        self.container.delete(true).map_err(|error| chain(&error))?;
        self.hierarchies.remove(&self.settings.cgroup).map_err(|error| error.to_string())
    }

    /// Logs what the pipes still hold.
    fn drain(&mut self) {
        let deadline = Instant::now() + DRAIN_DEADLINE;
        loop {
            let fds: Vec<_> = self
                .streams
                .iter()
                .enumerate()
                .filter_map(|(i, s)| Some((s.fd()?, Source::Stream(i))))
                .collect();
            let left = deadline.saturating_duration_since(Instant::now());
            if fds.is_empty() || left.is_zero() {
                break;
            }
            let Ok(events) = wait(&fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) else {
                break;
            };
            for source in events {
                if let Source::Stream(index) = source {
                    self.streams[index].pump(&mut self.log);
                }
            }
        }
        for stream in &mut self.streams {
            stream.close(&mut self.log);
        }
    }
}

#[derive(Clone, Copy)]
enum Source {
    Init,
    Children,
    Listener,
    Connection(usize),
    Stream(usize),
}

fn wait(fds: &[(BorrowedFd<'_>, Source)], timeout: PollTimeout) -> io::Result<Vec<Source>> {
    let mut polled: Vec<_> = fds.iter().map(|(fd, _)| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let ready = polled.iter().zip(fds).filter(|(fd, _)| fd.any().unwrap_or(false));
    Ok(ready.map(|(_, (_, source))| *source).collect())
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

fn build(dir: &Path, id: &str, init: Init, out: OwnedFd, err: OwnedFd) -> Result<Container, String> {
    let null = File::open("/dev/null").map_err(at("open /dev/null"))?;
    ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(dir.join(LIBCONTAINER_DIR))
        .and_then(|builder| {
            builder
                .with_executor(init)
                .with_stdin(null)
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

fn dup_cloexec(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    fd.try_clone_to_owned()
}

pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
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

/// `None` when there is no such process.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; what follows its end is regular.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

pub(super) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, String> {
    let text = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{} is malformed: {error}", path.display()))
}

/// Complete or absent, whenever the machine stops.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), String> {
    let part = path.with_extension("part");
    let write = || -> io::Result<()> {
        fs::write(&part, serde_json::to_vec_pretty(value)?)?;
        fs::rename(&part, path)
    };
    write().map_err(|error| format!("cannot write {}: {error}", path.display()))
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

impl From<ShimError> for String {
    fn from(error: ShimError) -> Self {
        error.to_string()
    }
}
