//! Runs a further process in a running container.
//!
//! A helper process for each session joins the container through libcontainer and waits for the process. What libcontainer
//! leaves out of a joining process is put in here: the container's seccomp profile, its directory in the cgroup2
//! hierarchy, and a terminal. User, capabilities, working directory, environment and limits come from the container's own
//! `config.json`.
//!
//! Agent and helper hold the two ends of a socket. The helper gets the request and the process's standard streams over it,
//! and answers twice: when the program runs, and how it ended. The agent's end closing, because the session's client is
//! gone or the agent itself, is a hang-up: the process's group gets SIGHUP and, [`HANG_UP_GRACE`] later, SIGKILL. What has
//! made a session of its own before that stays in the container, as a daemon does.
//!
//! A seccomp profile is installed after capabilities are dropped, which takes no_new_privs: a session in a container with a
//! profile has it even where the container itself does not.

use std::fs::File;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, dup2_stdin, fchown};
use serde::{Deserialize, Serialize};

use super::create::{Settings, chain, join_unified};
use super::init::Init;
use super::process::pidfd_open;
use super::terminal::{Outlet, Terminal, TerminalSize};
use super::{LIBCONTAINER_DIR, Program, SETTINGS_FILE, ShimError, io_error, passing};
use crate::cgroup::Hierarchies;
use crate::json_file;

/// From SIGHUP to SIGKILL when nobody listens to a session any more.
const HANG_UP_GRACE: Duration = Duration::from_secs(5);
/// For the program to be running, on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// The exit code of what was killed with its container: 128 + SIGKILL.
const KILLED: i32 = 137;

/// A process to run in a container: under its user, seccomp profile, capabilities, working directory and cgroup.
#[derive(Debug)]
pub struct ExecSpec {
    pub argv: Vec<String>,
    /// Not used with a terminal.
    pub stdio: ExecStdio,
    /// Give the process a terminal: see [`ExecSession::take_terminal`].
    pub terminal: Option<TerminalSize>,
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
    argv: Vec<String>,
    /// Which standard streams come along, in order.
    stdio: [bool; 3],
    terminal: Option<TerminalSize>,
    timeout: Option<Duration>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// Comes with the terminal's master, where one was asked for.
    Started,
    Failed {
        problem: String,
    },
    Exited {
        code: i32,
    },
    TimedOut,
}

/// A process that runs in a container. Dropping the session hangs up on it.
#[derive(Debug)]
pub struct ExecSession {
    control: UnixStream,
    /// Until it was waited for.
    helper: Option<Child>,
    terminal: Option<OwnedFd>,
    timeout: Duration,
}

/// Hangs up on a session from elsewhere than where it is waited for; also by being dropped.
#[derive(Debug)]
pub struct HangUp(UnixStream);

impl Drop for HangUp {
    fn drop(&mut self) {
        // Fails only when the helper is gone already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl ExecSession {
    /// The agent's side: starts the helper and returns once the program runs.
    pub(crate) fn start(program: &Program, dir: &Path, spec: ExecSpec) -> Result<Self, ShimError> {
        let ExecSpec { argv, stdio, terminal, timeout } = spec;
        let ExecStdio { stdin, stdout, stderr } = stdio;
        let failed = |error: io::Error| ShimError::Exec(error.to_string());
        let (control, theirs) = UnixStream::pair().map_err(failed)?;
        let helper = program.spawn_exec(theirs.into()).map_err(io_error("start exec in", dir))?;
        let mut session =
            Self { control, helper: Some(helper), terminal: None, timeout: timeout.unwrap_or_default() };
        let request = Request {
            container: dir.to_owned(),
            argv,
            stdio: [stdin.is_some(), stdout.is_some(), stderr.is_some()],
            terminal,
            timeout,
        };
        let streams: Vec<OwnedFd> = [stdin, stdout, stderr].into_iter().flatten().collect();
        let borrowed: Vec<BorrowedFd<'_>> = streams.iter().map(AsFd::as_fd).collect();
        session.control.set_read_timeout(Some(START_DEADLINE)).map_err(failed)?;
        let answer = passing::send(&session.control, &request, &borrowed)
            .and_then(|()| passing::receive::<Answer>(&session.control));
        drop(streams);
        match answer {
            Ok((Answer::Started, mut descriptors)) => session.terminal = descriptors.pop(),
            Ok((Answer::Failed { problem }, _)) => return Err(ShimError::Exec(problem)),
            Ok((other, _)) => return Err(ShimError::Exec(format!("unexpected answer {other:?}"))),
            // The helper lives in the container's cgroup, and dies with it.
            Err(error) if is_end(&error) => return Err(ShimError::Exec("the container ended".to_owned())),
            Err(error) => return Err(failed(error)),
        }
        session.control.set_read_timeout(None).map_err(failed)?;
        Ok(session)
    }

    /// The master of the process's terminal, where one was asked for. It does not block. Closing it hangs up too.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    pub fn hang_up(&self) -> io::Result<HangUp> {
        self.control.try_clone().map(HangUp)
    }

    /// Waits for the process's end; returns its exit code, 128 + signal when one ended it.
    pub fn wait(mut self) -> Result<i32, ShimError> {
        let answer = passing::receive::<Answer>(&self.control);
        if let Some(mut helper) = self.helper.take() {
            let _ = self.control.shutdown(Shutdown::Both);
            helper.wait().map_err(|error| ShimError::Exec(error.to_string()))?;
        }
        match answer {
            Ok((Answer::Exited { code }, _)) => Ok(code),
            Ok((Answer::TimedOut, _)) => Err(ShimError::ExecTimeout { seconds: self.timeout.as_secs() }),
            Ok((Answer::Failed { problem }, _)) => Err(ShimError::Exec(problem)),
            Ok((other, _)) => Err(ShimError::Exec(format!("unexpected answer {other:?}"))),
            Err(error) if is_end(&error) => Ok(KILLED),
            Err(error) => Err(ShimError::Exec(error.to_string())),
        }
    }
}

impl Drop for ExecSession {
    fn drop(&mut self) {
        let _ = self.control.shutdown(Shutdown::Both);
        if let Some(mut helper) = self.helper.take() {
            // It may take the whole grace; without being waited for it would stay as a zombie.
            let _ = thread::Builder::new().name("weir-exec-end".into()).spawn(move || helper.wait());
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// The helper: `exec`, with the socket as standard input.
pub(super) fn run_helper() -> Result<(), String> {
    let control = io::stdin().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    let control = UnixStream::from(control);
    let null = File::open("/dev/null").map_err(|error| error.to_string())?;
    dup2_stdin(&null).map_err(|errno| errno.to_string())?;
    let (request, streams) = passing::receive::<Request>(&control).map_err(|error| error.to_string())?;
    let (pid, master) = match begin(&request, streams) {
        Ok(started) => started,
        Err(problem) => {
            let told = passing::send(&control, &Answer::Failed { problem }, &[]);
            return told.map_err(|error| error.to_string());
        }
    };
    let descriptors: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
    // Where nobody is there to hear it, what follows sees the same.
    let _ = passing::send(&control, &Answer::Started, &descriptors);
    drop(master);
    let outcome = follow(pid, &control, request.timeout)
        .unwrap_or_else(|errno| Answer::Failed { problem: errno.to_string() });
    let _ = passing::send(&control, &outcome, &[]);
    Ok(())
}

/// Starts the process; returns it with its terminal's master.
fn begin(request: &Request, streams: Vec<OwnedFd>) -> Result<(Pid, Option<OwnedFd>), String> {
    let settings: Settings = json_file::read(&request.container.join(SETTINGS_FILE))?;
    let spec = Spec::load(request.container.join("config.json")).map_err(|error| chain(&error))?;
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
    let mut process = spec.process().clone().ok_or("no process in config.json")?;
    // The terminal is ours, not libcontainer's: see `terminal`.
    process.set_args(Some(request.argv.clone())).set_terminal(Some(false));
    if request.terminal.is_some() {
        let mut env = process.env().clone().unwrap_or_default();
        if !env.iter().any(|variable| variable.starts_with("TERM=")) {
            env.push("TERM=xterm".to_owned());
            process.set_env(Some(env));
        }
    }
    if seccomp.is_some() {
        process.set_no_new_privileges(Some(true));
    }
    let process = in_memory(&process).map_err(|error| error.to_string())?;
    nix::sys::prctl::set_child_subreaper(true).map_err(|errno| errno.to_string())?;
    join_unified(&Hierarchies::detect().map_err(|error| error.to_string())?, &settings.cgroup)?;

    let (terminal, outlet, inside) = match request.terminal {
        Some(size) => {
            let (terminal, outlet, inside) =
                Terminal::new(size).map_err(|error| format!("cannot make a socket: {error}"))?;
            (Some(terminal), Some(outlet), Some(inside))
        }
        None => (None, None, None),
    };
    let (init, report, report_write) =
        Init::new(Vec::new(), seccomp, terminal).map_err(|errno| format!("cannot make a pipe: {errno}"))?;
    let mut streams = streams.into_iter();
    let mut stream = |passed: bool| {
        let passed = if passed { streams.next() } else { None };
        // `/dev/stdout` can be opened anew only by the pipe's owner. A socket or file is not ours to change.
        if let Some(fd) = passed.as_ref().filter(|fd| is_pipe(fd)) {
            let _ = fchown(fd, Some(settings.uid.into()), None);
        }
        passed.map_or_else(|| File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from), Ok)
    };
    let [stdin, stdout, stderr] = request.stdio;
    let ends = [stream(stdin), stream(stdout), stream(stderr)];
    let [stdin, stdout, stderr] =
        ends.map(|end| end.map_err(|error| format!("cannot open /dev/null: {error}")));
    let builder = ContainerBuilder::new(settings.id.clone(), SyscallType::default())
        .with_stdin(stdin?)
        .with_stdout(stdout?)
        .with_stderr(stderr?);
    let built = builder.with_root_path(request.container.join(LIBCONTAINER_DIR)).and_then(|builder| {
        let tenant = builder.with_executor(init).as_tenant().with_detach(true);
        tenant.with_process(Some(format!("/proc/self/fd/{}", process.as_raw_fd()))).build()
    });
    drop((report_write, inside));
    let pid = match (built, report.read()) {
        (Ok(pid), None) => Pid::from_raw(pid.as_raw()),
        (_, Some(problem)) => return Err(problem),
        (Err(error), None) => return Err(chain(&error)),
    };
    let master = outlet.map(Outlet::receive).transpose();
    let master = master.map_err(|error| {
        let _ = killpg(pid, Signal::SIGKILL);
        format!("cannot make a terminal: {error}")
    })?;
    Ok((pid, master))
}

fn is_pipe(fd: &OwnedFd) -> bool {
    fstat(fd).is_ok_and(|status| SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO)
}

/// libcontainer reads the process from a file.
fn in_memory(process: &impl Serialize) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"process.json", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(process)?)?;
    Ok(file)
}

/// Waits for the process's end, for the time to be up, or for a hang-up.
fn follow(pid: Pid, control: &UnixStream, timeout: Option<Duration>) -> Result<Answer, Errno> {
    let pidfd = pidfd_open(pid).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    let mut deadline = timeout.map(|timeout| Instant::now() + timeout);
    let (mut listened_to, mut timed_out) = (true, false);
    loop {
        let left = deadline.map_or(PollTimeout::NONE, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up: woken a moment too early there would be rounds of waiting for nothing.
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let mut polled = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        if listened_to {
            polled.push(PollFd::new(control.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut polled, left) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let ready = |index: usize| polled.get(index).is_some_and(|fd: &PollFd<'_>| fd.any().unwrap_or(false));
        if ready(0) {
            break;
        }
        if ready(1) {
            // The agent says nothing more: readable means closed.
            listened_to = false;
            let _ = killpg(pid, Signal::SIGHUP);
            deadline = Some(Instant::now() + HANG_UP_GRACE);
        } else if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            timed_out = listened_to;
            let _ = killpg(pid, Signal::SIGKILL);
            deadline = None;
        }
    }
    let status = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED)?;
    Ok(match status {
        _ if timed_out => Answer::TimedOut,
        WaitStatus::Exited(_, code) => Answer::Exited { code },
        WaitStatus::Signaled(_, signal, _) => Answer::Exited { code: 128 + signal as i32 },
        _ => Answer::Exited { code: 255 },
    })
}
