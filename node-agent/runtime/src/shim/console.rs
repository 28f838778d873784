//! `/dev/console` of containers with a terminal.
//!
//! The terminal is made by the container's process, from the container's own `/dev/pts`, right before its program: it is
//! the first there, number 0. So the console can be a link to it before it exists, and no mount is needed.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::statfs::fstatfs;
use nix::unistd::{Pid, symlinkat};

/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// In the container of `pid`, whose program has not been executed yet.
pub(super) fn link(pid: Pid) -> io::Result<()> {
    let root = File::open(format!("/proc/{pid}/root"))?;
    // What the image has there must not lead out of it.
    let how = OpenHow::new()
        .flags(OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let dev = openat2(&root, Path::new("dev"), how)?;
    // A volume in its place is the user's.
    if fstatfs(&dev)?.filesystem_type().0 != TMPFS_MAGIC {
        return Ok(());
    }
    match symlinkat("pts/0", &dev, "console") {
        Err(errno) if errno != Errno::EEXIST => Err(errno.into()),
        _ => Ok(()),
    }
}
