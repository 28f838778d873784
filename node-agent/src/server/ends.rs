//! The agent's ends of pipes and terminals, as async reads and writes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, read, write};
use tokio::io::unix::AsyncFd;

/// One end of a pipe, or a terminal's master.
#[derive(Debug)]
pub(super) struct End(AsyncFd<OwnedFd>);

/// A pipe to read from here; the other end is for the process.
pub(super) fn readable() -> io::Result<(End, OwnedFd)> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((End::new(ours)?, theirs))
}

/// A pipe to write to from here.
pub(super) fn writable() -> io::Result<(End, OwnedFd)> {
    let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((End::new(ours)?, theirs))
}

impl End {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: an owned descriptor is the same one, and open, as long as it lives.
        Ok(Self(unsafe { AsyncFd::register(fd) }?))
    }

    /// Waits for bytes; 0 at the end.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(result) = ready.try_io(|fd| over(read(fd, buffer))) {
                return result;
            }
        }
    }

    /// What is there to read at this moment; 0 where there is nothing.
    pub(super) fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // Not asked of the reactor, which may not have heard yet.
        match over(read(&self.0, buffer)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            result => result,
        }
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            if let Ok(result) = ready.try_io(|fd| write(fd, bytes).map_err(io::Error::from)) {
                bytes = &bytes[result?..];
            }
        }
        Ok(())
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A master whose other end nobody holds any more says EIO: the end.
fn over(result: nix::Result<usize>) -> io::Result<usize> {
    match result {
        Err(Errno::EIO) => Ok(0),
        result => result.map_err(io::Error::from),
    }
}
