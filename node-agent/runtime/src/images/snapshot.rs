//! A container's root file system: the image's layers below, a private writable directory on top, by overlayfs.
//!
//! The new mount API passes each layer by itself: the old one has room for one page of paths, some thirty layers.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, umount2};

use super::{ImageError, ImageStore, io_error};

const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const MOUNT_ATTR_RDONLY: libc::c_uint = 1;
const MOUNT_ATTR_NOSUID: libc::c_uint = 2;
const MOUNT_ATTR_NODEV: libc::c_uint = 4;
const MOUNT_ATTR_NOEXEC: libc::c_uint = 8;

/// Mounts the root of a container with these layers (lowest first) at `dir/rootfs`; writes go to `dir/upper`.
pub(crate) fn mount(store: &ImageStore, layers: &[String], dir: &Path) -> Result<PathBuf, ImageError> {
    let [upper, work, rootfs, empty] = ["upper", "work", "rootfs", "empty"].map(|name| dir.join(name));
    for path in [&upper, &work, &rootfs] {
        fs::create_dir_all(path).map_err(io_error("create", path))?;
    }
    let mut lower = lower_directories(store, layers);
    if lower.is_empty() {
        fs::create_dir_all(&empty).map_err(io_error("create", &empty))?;
        lower.push(empty);
    }
    // The topmost directory decides owner and mode of the root.
    let top = fs::metadata(&lower[0]).map_err(io_error("read layer", &lower[0]))?;
    chown(&upper, Some(top.uid()), Some(top.gid())).map_err(io_error("change owner of", &upper))?;
    fs::set_permissions(&upper, PermissionsExt::from_mode(top.mode())).map_err(io_error("change", &upper))?;
    overlay(&lower, Some((&upper, &work)), 0, &rootfs).map_err(io_error("mount overlay at", &rootfs))?;
    Ok(rootfs)
}

/// Mounts the files of these layers (lowest first) at `root`, read-only and not to be executed. `dir` holds what is
/// needed for it.
pub(crate) fn mount_read_only(
    store: &ImageStore,
    layers: &[String],
    dir: &Path,
    root: &Path,
) -> Result<(), ImageError> {
    let mut lower = lower_directories(store, layers);
    // Without anything writable overlayfs wants two directories at least.
    for name in ["empty", "emptier"] {
        let empty = dir.join(name);
        fs::create_dir_all(&empty).map_err(io_error("create", &empty))?;
        lower.push(empty);
    }
    let flags = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    overlay(&lower, None, flags, root).map_err(io_error("mount overlay at", root))
}

/// The highest first. A layer that comes several times is seen where it comes last, and overlayfs takes none twice.
fn lower_directories(store: &ImageStore, layers: &[String]) -> Vec<PathBuf> {
    let mut directories = Vec::with_capacity(layers.len());
    for directory in layers.iter().rev().map(|layer| store.layer_dir(layer)) {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    directories
}

/// Unmounts the root; no error when it is not mounted.
pub(crate) fn unmount(dir: &Path) -> Result<(), ImageError> {
    let rootfs = dir.join("rootfs");
    match umount2(&rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(io_error("unmount", &rootfs)(errno.into())),
    }
}

fn overlay(
    lower: &[PathBuf],
    upper_and_work: Option<(&Path, &Path)>,
    flags: libc::c_uint,
    target: &Path,
) -> io::Result<()> {
    // SAFETY: the name is a terminated string; the result is checked.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, c"overlay".as_ptr(), libc::c_uint::from(true)) };
    let context = owned(context)?;
    for layer in lower {
        set_path(&context, c"lowerdir+", layer)?;
    }
    if let Some((upper, work)) = upper_and_work {
        set_path(&context, c"upperdir", upper)?;
        set_path(&context, c"workdir", work)?;
        // A container's writes die with it: no need to bring them to disk when it is unmounted.
        configure(&context, FSCONFIG_SET_FLAG, Some(c"volatile"), None)?;
    }
    configure(&context, FSCONFIG_CMD_CREATE, None, None)?;
    // SAFETY: plain integers; the descriptor is open.
    let mount = owned(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), libc::c_uint::from(true), flags)
    })?;
    let target = CString::new(target.as_os_str().as_bytes())?;
    const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
    // SAFETY: both paths are terminated strings, both descriptors valid.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Ok(Errno::result(moved).map(drop)?)
}

fn set_path(context: &OwnedFd, key: &CStr, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    configure(context, FSCONFIG_SET_STRING, Some(key), Some(&path))
}

fn configure(
    context: &OwnedFd,
    command: libc::c_uint,
    key: Option<&CStr>,
    value: Option<&CStr>,
) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: key and value are null or terminated strings, as each command wants them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            pointer(key),
            pointer(value),
            0 as libc::c_int,
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = Errno::result(result)?;
    // SAFETY: the kernel just returned this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}
