//! How much of the disk a directory takes, measured by walking it.
//!
//! Containers write there meanwhile: no link is followed and no other file system entered, whatever a directory turns into.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc;
use nix::sys::stat::fstatat;

/// What `st_blocks` counts in.
const BLOCK: u64 = 512;
/// Files that are looked at: a directory with more than that is large anyway.
const MOST_FILES: usize = 200_000;

/// Bytes on the disk of all that lies below `root`, and of directories themselves. Files with several names count once.
/// What cannot be read, and what vanishes meanwhile, counts as nothing.
pub fn disk_usage(root: &Path) -> u64 {
    let Ok(top) = File::open(root) else { return 0 };
    let (mut blocks, mut left, mut seen) = (0, MOST_FILES, HashSet::new());
    let mut directories = vec![PathBuf::from(".")];
    while let Some(path) = directories.pop() {
        let Some(directory) = open(&top, &path) else { continue };
        let Ok(mut directory) = Dir::from_fd(directory) else { continue };
        let names: Vec<_> =
            directory.iter().flatten().map(|entry| entry.file_name().to_owned()).take(left).collect();
        for name in names {
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = fstatat(&directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else {
                continue;
            };
            let is_dir = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
            if is_dir || stat.st_nlink < 2 || seen.insert(stat.st_ino) {
                blocks += u64::try_from(stat.st_blocks).unwrap_or(0);
            }
            if is_dir {
                directories.push(path.join(OsStr::from_bytes(name.to_bytes())));
            }
            left = left.saturating_sub(1);
        }
        if left == 0 {
            break;
        }
    }
    blocks * BLOCK
}

fn open(top: impl AsFd, path: &Path) -> Option<std::os::fd::OwnedFd> {
    let resolve =
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat2(top, path, OpenHow::new().flags(flags).resolve(resolve)).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_count_once_and_links_lead_nowhere() {
        let (dir, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("another"));
        fs::write(other.path().join("large"), vec![1; 4 << 20]).expect("written");
        fs::create_dir(dir.path().join("deep")).expect("made");
        fs::write(dir.path().join("deep/file"), vec![1; 1 << 20]).expect("written");
        fs::hard_link(dir.path().join("deep/file"), dir.path().join("again")).expect("linked");
        symlink(other.path(), dir.path().join("link")).expect("linked");
        let used = disk_usage(dir.path());
        assert!((1 << 20..2 << 20).contains(&used), "{used}");
        assert_eq!(disk_usage(&dir.path().join("none")), 0);
    }
}
