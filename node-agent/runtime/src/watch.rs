//! One thread that notices the end of every container.
//!
//! It holds a connection to each shim. A shim ends when its container has ended and been cleaned up, and with it the
//! connection: what happened is then read from `exit.json`. A shim that left none was killed: its container is killed
//! too, since nobody could tell how it ends, and the end is recorded as [`ExitReason::ShimLost`].

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::Pid;

use crate::cgroup::Hierarchies;
use crate::container::{ContainerKey, Exit, ExitReason};
use crate::error::{Error, Result};
use crate::json_file;
use crate::shim::process::{InitProcess, pidfd_open, pidfd_signal, start_time};
use crate::shim::{EXIT_FILE, INIT_FILE, ShimError, client};
use crate::table::Table;

/// The event that ends the thread.
const STOP: u64 = 0;

#[derive(Debug)]
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    epoll: Epoll,
    stop: EventFd,
    next: AtomicU64,
    watched: Mutex<HashMap<u64, Watched>>,
    hierarchies: Hierarchies,
    table: Arc<Table>,
}

#[derive(Debug)]
struct Watched {
    key: ContainerKey,
    dir: PathBuf,
    cgroup: String,
    stream: UnixStream,
    /// The shim, when this process started it and must reap it.
    shim: Option<Child>,
}

impl Watcher {
    pub(crate) fn start(hierarchies: Hierarchies, table: Arc<Table>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        epoll.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        let shared = Arc::new(Shared {
            epoll,
            stop,
            next: AtomicU64::new(STOP + 1),
            watched: Mutex::default(),
            hierarchies,
            table,
        });
        let thread = thread::Builder::new().name("weir-exits".into()).spawn({
            let shared = shared.clone();
            move || shared.run()
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Watches the container in `dir`, which is in the table. One whose shim is gone is concluded at once.
    pub(crate) fn watch(
        &self,
        key: ContainerKey,
        dir: &Path,
        cgroup: &str,
        shim: Option<Child>,
    ) -> Result<()> {
        let shared = &self.shared;
        let Ok(stream) = client::connect(dir) else {
            if let Some(mut shim) = shim {
                // It ended before it could be watched. Not an error of the caller's.
                let _ = shim.wait();
            }
            return shared.conclude(&key, dir, cgroup);
        };
        let token = shared.next.fetch_add(1, Ordering::Relaxed);
        let watched = Watched { key, dir: dir.to_owned(), cgroup: cgroup.to_owned(), stream, shim };
        let mut all = shared.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, token);
        let added = shared.epoll.add(&watched.stream, event);
        added.map_err(io::Error::from).map_err(Error::io("watch", dir))?;
        all.insert(token, watched);
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Fails only when the counter is full, and then the thread is awake.
        let _ = self.shared.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut events = [EpollEvent::empty(); 32];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return tracing::error!(%errno, "the watcher of containers has stopped"),
            };
            for event in &events[..count] {
                if event.data() == STOP {
                    return;
                }
                self.ended(event.data());
            }
        }
    }

    fn ended(&self, token: u64) {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner).remove(&token);
        let Some(mut watched) = watched else { return };
        // Shims say nothing unasked: readable means closed. Reading makes sure.
        let _ = watched.stream.read(&mut [0; 16]);
        drop(watched.stream);
        if let Some(mut shim) = watched.shim.take() {
            // Closing the connection is the last thing a shim does.
            let _ = shim.wait();
        }
        if let Err(error) = self.conclude(&watched.key, &watched.dir, &watched.cgroup) {
            tracing::error!(container = %watched.key, %error, "cannot clean up after a lost shim");
        }
    }

    /// The shim is gone: finds out how the container ended.
    fn conclude(&self, key: &ContainerKey, dir: &Path, cgroup: &str) -> Result<()> {
        let path = dir.join(EXIT_FILE);
        let exit = match fs::read(&path).ok().and_then(|json| serde_json::from_slice::<Exit>(&json).ok()) {
            Some(exit) => exit,
            None => {
                kill_init(dir);
                self.hierarchies.kill(cgroup)?;
                let exit = Exit {
                    code: 137,
                    signal: Some(9),
                    oom_killed: false,
                    reason: ExitReason::ShimLost,
                    message: String::new(),
                    started_at: None,
                    finished_at: Timestamp::now(),
                };
                json_file::write(&path, &exit).map_err(ShimError::Create)?;
                self.hierarchies.remove(cgroup)?;
                exit
            }
        };
        self.table.mark_exited(key, exit);
        Ok(())
    }
}

/// Kills the container's first process, if that pid is still it.
fn kill_init(dir: &Path) {
    let Ok(json) = fs::read(dir.join(INIT_FILE)) else { return };
    let Ok(init) = serde_json::from_slice::<InitProcess>(&json) else { return };
    let Ok(pidfd) = pidfd_open(Pid::from_raw(init.pid)) else { return };
    // Compared after the pidfd is open: from then on it cannot become another process.
    if start_time(init.pid) == Some(init.start_time) {
        let _ = pidfd_signal(&pidfd, nix::libc::SIGKILL);
    }
}
