//! The mount table, for taking down what lies below a directory.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::error::{Error, Result};

/// Unmounts everything mounted at or below `dir`, the last mounted first. After that, removing `dir` removes nothing but
/// what lies on its own file system.
pub fn unmount_below(dir: &Path) -> Result<()> {
    let Ok(dir) = dir.canonicalize() else { return Ok(()) };
    let table = Path::new("/proc/self/mountinfo");
    let mounts = fs::read(table).map_err(Error::io("read", table))?;
    let mut below: Vec<PathBuf> = mount_points(&mounts).filter(|point| point.starts_with(&dir)).collect();
    below.reverse();
    for point in below {
        match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Gone meanwhile, or with its parent.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => return Err(Error::io("unmount", point)(errno.into())),
        }
    }
    Ok(())
}

/// What the kernel does with what is mounted later on the mount that a path lies on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Peers {
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// Passed on to others.
    pub(crate) shared: bool,
    /// Received from others.
    pub(crate) slave: bool,
}

/// Of the mount that `path` lies on.
pub(crate) fn peers(path: &Path) -> io::Result<Peers> {
    let path = path.canonicalize()?;
    let table = fs::read("/proc/self/mountinfo")?;
    find_peers(&table, &path).ok_or_else(|| io::Error::other("the mount table does not have it"))
}

fn find_peers(table: &[u8], path: &Path) -> Option<Peers> {
    // Of mounts at the same point the last is on top.
    let mut found: Option<Peers> = None;
    for line in table.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let Some(point) = fields.get(4).map(|point| unescape(point)) else { continue };
        let depth = |point: &Path| point.components().count();
        if !path.starts_with(&point) || found.as_ref().is_some_and(|one| depth(&one.point) > depth(&point)) {
            continue;
        }
        let optional = || fields[6..].iter().take_while(|field| **field != b"-");
        let has = |prefix: &[u8]| optional().any(|field| field.starts_with(prefix));
        found = Some(Peers { point, shared: has(b"shared:"), slave: has(b"master:") });
    }
    found
}

fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    let lines = table.split(|byte| *byte == b'\n');
    lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescape)
}

/// The kernel writes space, tab, newline and backslash as `\ooo`.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal =
            tail.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        if let Some(digits) = octal {
            bytes.push(
                digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')),
            );
            rest = &tail[3..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_of_a_path_is_found() {
        let table = b"1 0 0:3 / / rw shared:1 - ext4 /dev/vda rw\n2 1 0:3 / /a rw - ext4 /dev/vda rw\n\
            3 2 0:3 / /a/b rw master:1 - ext4 /dev/vda rw\n4 3 0:3 / /a/b rw shared:2 master:1 - ext4 x rw\n";
        for (path, point, shared, slave) in
            [("/x", "/", true, false), ("/a/x", "/a", false, false), ("/a/b/x", "/a/b", true, true)]
        {
            let expected = Peers { point: point.into(), shared, slave };
            assert_eq!(find_peers(table, Path::new(path)), Some(expected), "{path}");
        }
    }

    #[test]
    fn escaped_mount_points_are_read() {
        let table =
            b"1 2 0:3 / /plain rw - ext4 /dev/vda rw\n1 2 0:3 / /with\\040space\\134 rw - tmpfs none rw\n";
        let points: Vec<_> = mount_points(table).collect();
        assert_eq!(points, [PathBuf::from("/plain"), PathBuf::from("/with space\\")]);
    }
}
