//! The life of a shim after [`create`]: serve the socket, write the log, and record the end.
//!
//! One thread, one poll loop. What the agent must know after the shim is gone lies in the container's directory:
//! `init.json` (the process), `exit.json` (its end, written by rename). The shim ends when the container has ended; it
//! needs no agent.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use libcontainer::container::Container;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::EXIT_FILE;
use super::attach::{AttachSpec, FrameKind, Hub};
use super::create::{Settings, chain, create};
use super::init::Report;
use super::output::{Log, Stream};
use super::process::pidfd_signal;
use super::protocol::{self, Request, Response};
use super::terminal::Outlet;
use crate::cgroup::Hierarchies;
use crate::container::{Exit, ExitReason};
use crate::json_file;

/// Connections beyond this many wait in the listener's queue.
const CONNECTION_LIMIT: usize = 16;
/// How long output may still come after the container's processes are gone.
const DRAIN_DEADLINE: Duration = Duration::from_millis(500);

pub(super) struct Shim {
    pub(super) dir: PathBuf,
    pub(super) settings: Settings,
    pub(super) hierarchies: Hierarchies,
    pub(super) listener: UnixListener,
    pub(super) connections: Vec<UnixStream>,
    pub(super) signals: SignalFd,
    pub(super) container: Container,
    /// Until started.
    pub(super) report: Option<Report>,
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) started_at: Option<Timestamp>,
    /// Why the program could not be executed.
    pub(super) not_executed: Option<String>,
    pub(super) log: Log,
    pub(super) streams: [Stream; 2],
    pub(super) hub: Hub,
    /// Until started, where the container has a terminal.
    pub(super) outlet: Option<Outlet>,
}

/// The `shim` subcommand. What it returns goes to `shim.log`.
pub(super) fn run(dir: PathBuf) -> Result<(), String> {
    let mut shim = create(dir)?;
    let status = shim.serve().map_err(|error| format!("poll: {error}"))?;
    shim.finish(status)
}

impl Shim {
    /// Serves until the container's first process has ended; returns how.
    fn serve(&mut self) -> io::Result<WaitStatus> {
        loop {
            let events = {
                let read = PollFlags::POLLIN;
                let mut fds = vec![
                    (self.pidfd.as_fd(), Source::Init, read),
                    (self.signals.as_fd(), Source::Children, read),
                ];
                if self.connections.len() < CONNECTION_LIMIT {
                    fds.push((self.listener.as_fd(), Source::Listener, read));
                }
                let connections = self.connections.iter().enumerate();
                fds.extend(connections.map(|(i, c)| (c.as_fd(), Source::Connection(i), read)));
                fds.extend(self.hub.polled().map(|(fd, i, input, output)| {
                    let mut flags = PollFlags::empty();
                    flags.set(PollFlags::POLLIN, input);
                    flags.set(PollFlags::POLLOUT, output);
                    (fd, Source::Attached(i), flags)
                }));
                fds.extend(self.hub.polled_stdin().map(|fd| (fd, Source::Stdin, PollFlags::POLLOUT)));
                let streams = self.streams.iter().enumerate();
                fds.extend(streams.filter_map(|(i, s)| Some((s.fd()?, Source::Stream(i), read))));
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
                    Source::Attached(index) => self.hub.serve(index),
                    Source::Stdin => self.hub.feed(),
                    Source::Stream(index) => self.pump(index),
                }
            }
        }
    }

    fn pump(&mut self, index: usize) {
        let kind = if index == 0 { FrameKind::Stdout } else { FrameKind::Stderr };
        self.streams[index].pump(&mut self.log, |content| self.hub.tell(kind, content));
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
        if let Ok(Request::Attach(spec)) = request {
            let stream = self.connections.swap_remove(index);
            return self.attach(stream, spec);
        }
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
            Request::Attach(_) => done(Err("not a request with an answer alone".to_owned())),
        }
    }

    /// Where it cannot be answered, nobody is there any more.
    fn attach(&mut self, mut stream: UnixStream, spec: AttachSpec) {
        let problem = if spec.stdin && !self.settings.stdin {
            Some("the container has no standard input: it was made without stdin: true")
        } else if self.hub.is_full() {
            Some("too many sessions are attached to the container")
        } else {
            None
        };
        let response = match problem {
            Some(problem) => Response::Failed { problem: problem.to_owned() },
            None => Response::Attached { terminal: self.settings.tty },
        };
        if protocol::write(&mut stream, &response).is_ok() && problem.is_none() {
            let _ = self.hub.add(stream, spec);
        }
    }

    fn state(&self) -> Response {
        Response::State { pid: self.pid.as_raw(), started_at: self.started_at }
    }

    fn start(&mut self) -> Result<(), String> {
        let Some(report) = self.report.take() else { return Ok(()) };
        self.container.start().map_err(|error| chain(&error))?;
        match report.read() {
            Some(problem) => {
                self.not_executed = Some(problem.clone());
                Err(problem)
            }
            None => {
                self.started_at = Some(Timestamp::now());
                self.take_terminal().map_err(|error| format!("cannot make a terminal: {error}"))
            }
        }
    }

    fn take_terminal(&mut self) -> io::Result<()> {
        let Some(outlet) = self.outlet.take() else { return Ok(()) };
        let master = File::from(outlet.receive()?);
        self.streams[0] = Stream::new("stdout", master.try_clone()?);
        self.hub.set_terminal(master, self.settings.stdin)
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
        let exit = match self.not_executed.take() {
            Some(problem) => Exit::not_executed(problem, finished_at),
            None => Exit {
                code,
                signal,
                oom_killed,
                reason,
                message: String::new(),
                started_at: self.started_at,
                finished_at,
            },
        };
        json_file::write(&self.dir.join(EXIT_FILE), &exit)?;
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
                .filter_map(|(i, s)| Some((s.fd()?, Source::Stream(i), PollFlags::POLLIN)))
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
                    self.pump(index);
                }
            }
        }
        for stream in &mut self.streams {
            stream.close(&mut self.log);
        }
        self.hub.finish();
    }
}

#[derive(Clone, Copy)]
enum Source {
    Init,
    Children,
    Listener,
    Connection(usize),
    Attached(usize),
    Stdin,
    Stream(usize),
}

fn wait(fds: &[(BorrowedFd<'_>, Source, PollFlags)], timeout: PollTimeout) -> io::Result<Vec<Source>> {
    let mut polled: Vec<_> = fds.iter().map(|(fd, _, flags)| PollFd::new(*fd, *flags)).collect();
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let ready = polled.iter().zip(fds).filter(|(fd, _)| fd.any().unwrap_or(false));
    Ok(ready.map(|(_, (_, source, _))| *source).collect())
}
