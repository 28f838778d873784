//! The agent's end of a shim's socket.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::attach::AttachSpec;
use super::protocol::{self, Request, Response};
use super::{LOCK_FILE, SOCKET_FILE, ShimError, io_error};

/// A shim answers in milliseconds; starting waits for an exec.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// From being spawned to listening, on a busy machine.
const LISTEN_DEADLINE: Duration = Duration::from_secs(10);

/// Does the shim of the container in `dir` live? It holds a lock from before it is started until it ends.
pub(crate) fn is_alive(dir: &Path) -> bool {
    match File::open(dir.join(LOCK_FILE)) {
        Ok(lock) => matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

/// Connects to the shim of the container in `dir`; waits for one that was only just started.
pub(crate) fn connect(dir: &Path) -> Result<UnixStream, ShimError> {
    // Through a descriptor of the directory: a socket's path has room for 107 bytes only.
    let handle = File::open(dir).map_err(io_error("open", dir))?;
    let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", handle.as_raw_fd());
    let deadline = Instant::now() + LISTEN_DEADLINE;
    loop {
        let stream = match UnixStream::connect(&path) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
                    && Instant::now() < deadline
                    && is_alive(dir) =>
            {
                thread::sleep(Duration::from_millis(2));
                continue;
            }
            stream => stream.map_err(io_error("connect to shim in", dir))?,
        };
        let timeouts = stream
            .set_read_timeout(Some(ANSWER_DEADLINE))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_DEADLINE)));
        timeouts.map_err(io_error("connect to shim in", dir))?;
        return Ok(stream);
    }
}

/// Asks one thing over a connection of its own.
pub(crate) fn ask(dir: &Path, request: &Request) -> Result<Response, ShimError> {
    let mut stream = connect(dir)?;
    let answer = protocol::write(&mut stream, request).and_then(|()| protocol::read(&mut stream));
    answer.map_err(io_error("ask shim in", dir))
}

/// A connection that carries a container's streams.
#[derive(Debug)]
pub struct Attachment {
    pub stream: UnixStream,
    pub terminal: bool,
}

pub(crate) fn attach(dir: &Path, spec: AttachSpec) -> Result<Attachment, ShimError> {
    let mut stream = connect(dir)?;
    let answer = protocol::write(&mut stream, &Request::Attach(spec))
        .and_then(|()| protocol::read(&mut stream))
        .map_err(io_error("ask shim in", dir))?;
    match answer {
        Response::Attached { terminal } => Ok(Attachment { stream, terminal }),
        Response::Failed { problem } => Err(ShimError::Attach(problem)),
        other => Err(ShimError::Attach(format!("unexpected answer {other:?}"))),
    }
}
