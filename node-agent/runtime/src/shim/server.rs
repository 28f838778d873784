//! The life of a shim after [`create`]: serve the socket, write the log, and record the end.
//!
//! One thread, one poll loop. What the agent must know after the shim is gone lies in the container's directory:
//! `init.json` (the process), `exit.json` (its end, written by rename). The shim ends when the container has ended; it
//! needs no agent.

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
use super::create::{Settings, chain, create};
use super::init::Report;
use super::output::{Log, Stream};
use super::process::pidfd_signal;
use super::protocol::{self, Request, Response};
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
    pub(super) log: Log,
    pub(super) streams: [Stream; 2],
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
