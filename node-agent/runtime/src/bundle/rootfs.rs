//! Files in the container's root, reached as the container would: links are followed, and end at its root.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

use super::BundleError;

/// Longest `/etc/passwd` that is read.
const FILE_LIMIT: u64 = 16 << 20;

pub(super) struct Root {
    directory: OwnedFd,
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self, BundleError> {
        let directory = File::open(path).map_err(|source| error("open", path, source))?;
        Ok(Self { directory: directory.into() })
    }

    /// A regular file's text; `None` when there is none.
    pub(super) fn read(&self, path: &Path) -> Result<Option<String>, BundleError> {
        // Not blocking: an image may put a FIFO where a file is expected.
        let file = match self.open_at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(errno) => return Err(error("open", path, errno.into())),
        };
        let regular = file.metadata().map_err(|source| error("read", path, source))?.is_file();
        if !regular {
            return Ok(None);
        }
        let mut text = Vec::new();
        file.take(FILE_LIMIT).read_to_end(&mut text).map_err(|source| error("read", path, source))?;
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    }

    /// Makes a directory and its parents, as far as they are missing.
    pub(super) fn make_directory(&self, path: &Path) -> Result<(), BundleError> {
        let mut made = PathBuf::from("/");
        let directory = |path: &Path| self.open_at(path, OFlag::O_PATH | OFlag::O_DIRECTORY);
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            let parent = directory(&made).map_err(|errno| error("open", &made, errno.into()))?;
            made.push(name);
            match directory(&made) {
                Err(Errno::ENOENT) => mkdirat(&parent, name, Mode::from_bits_truncate(0o755)),
                result => result.map(drop),
            }
            .map_err(|errno| error("make directory", &made, errno.into()))?;
        }
        Ok(())
    }

    fn open_at(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.directory, path, how)
    }
}

fn error(operation: &'static str, path: &Path, source: io::Error) -> BundleError {
    BundleError::Root { operation, path: path.to_owned(), source }
}
