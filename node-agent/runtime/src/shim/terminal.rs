//! Terminals of processes in containers.
//!
//! The process itself makes its terminal, as the container's user, from the container's own `/dev/pts`: so it owns the
//! device, and `tty` finds its name. It sends the terminal's other end, the master, out over a socket before it becomes the
//! container's program.
//!
//! What comes out of a container is not trusted: `/dev/pts` there may be anything. What is not a pseudo-terminal's master
//! is refused.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::libc;
use nix::sys::stat::{Mode, fstat, major, minor};
use nix::sys::statfs::fstatfs;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use serde::{Deserialize, Serialize};

use super::passing;

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// In characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

/// Tells the terminal whose master this is how large it is now; its foreground processes get SIGWINCH.
pub fn resize_terminal(master: BorrowedFd<'_>, size: TerminalSize) -> io::Result<()> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request takes a valid winsize, which the kernel reads.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &size) })?;
    Ok(())
}

/// For the process that is to have a terminal. Copied into it by `clone`, with the socket's number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terminal {
    socket: RawFd,
    size: TerminalSize,
}

/// Where the master comes out.
#[derive(Debug)]
pub(super) struct Outlet {
    socket: UnixStream,
}

impl Terminal {
    /// The last must stay open in the caller until the process exists, and be dropped then.
    pub(super) fn new(size: TerminalSize) -> io::Result<(Self, Outlet, OwnedFd)> {
        let (inside, outside) = UnixStream::pair()?;
        Ok((Self { socket: inside.as_raw_fd(), size }, Outlet { socket: outside }, inside.into()))
    }

    /// In the process: makes the terminal its controlling one and its standard streams.
    pub(super) fn take(&self) -> io::Result<()> {
        let master =
            open("/dev/pts/ptmx", OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty())?;
        let unlocked: libc::c_int = 0;
        // SAFETY: takes a pointer to an int, which the kernel reads.
        Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlocked) })?;
        // By the master, not by its name: whatever is mounted there, it is the other end.
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        // SAFETY: takes plain flags; returns a new descriptor or an error.
        let slave = Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
        // SAFETY: the descriptor is new and nobody else's.
        let slave = unsafe { OwnedFd::from_raw_fd(slave) };
        if self.size != TerminalSize::default() {
            resize_terminal(master.as_fd(), self.size)?;
        }
        // SAFETY: the socket was inherited open, and nothing in this process closes it before exec.
        let socket = unsafe { OwnedFd::from_raw_fd(self.socket) };
        passing::send(&UnixStream::from(socket), &(), &[master.as_fd()])?;
        // SAFETY: takes a plain number; this process leads a session that has no terminal yet.
        Errno::result(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) })?;
        dup2_stdin(&slave)?;
        dup2_stdout(&slave)?;
        dup2_stderr(&slave)?;
        Ok(())
    }
}

impl Outlet {
    /// The master, once the process has said that its program runs. It does not block.
    pub(super) fn receive(self) -> io::Result<OwnedFd> {
        let ((), mut descriptors) = passing::receive(&self.socket)?;
        let master = descriptors.pop().ok_or_else(|| io::Error::other("no terminal came"))?;
        let status = fstat(&master)?;
        let on_devpts = fstatfs(&master)?.filesystem_type().0 == DEVPTS_MAGIC;
        // /dev/ptmx's numbers, see Documentation/admin-guide/devices.txt of the kernel.
        if !on_devpts || (major(status.st_rdev), minor(status.st_rdev)) != (5, 2) {
            return Err(io::Error::other("/dev/pts/ptmx of the container is not a terminal's master"));
        }
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        Ok(master)
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
