//! `subPath`: a part of a volume, held by a mount of its own in the container's directory. (And whole volumes whose mount is
//! to pass on less than the container's others.)
//!
//! Containers of the pod may write to the volume meanwhile, and turn a directory into a link at any moment. So the kernel
//! walks the whole path in one go and never above the volume (`openat2`, `RESOLVE_BENEATH`), and what it arrived at is
//! mounted by its descriptor: no name is looked up twice. The mount goes with the container's directory, also where the
//! agent was killed in between.
//!
//! Links that stay inside the volume are followed: the files of ConfigMaps are such links.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};

use super::BundleError;
use crate::container::{self, Propagation, SubPath};

/// Where the mounts are made, in the container's directory.
const STAGED: &str = "subpaths";
/// The kernel gives up with EAGAIN whenever something is renamed beside the walk: somebody renames all the time.
const MOST_TRIES: u32 = 10_000;

/// Mounts the volume of `mount`, or what its `sub_path` names there; returns where. `index` is the mount's among the
/// container's.
pub(super) fn stage(
    mount: &container::Mount,
    index: usize,
    container_dir: &Path,
) -> Result<PathBuf, BundleError> {
    let whole = SubPath { path: PathBuf::from("."), create: false };
    let place = Place { mount, sub: mount.sub_path.as_ref().unwrap_or(&whole) };
    let open = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&mount.source);
    let volume = open.map_err(place.failed("open the volume"))?;
    let found = match &mount.sub_path {
        Some(sub) => find(&volume, sub).map_err(|errno| place.refused(errno))?,
        None => volume.into(),
    };
    let is_dir = File::from(found.try_clone().map_err(place.failed("look at"))?)
        .metadata()
        .map_err(place.failed("look at"))?
        .is_dir();
    let staged = container_dir.join(STAGED);
    let target = staged.join(index.to_string());
    fs::create_dir_all(&staged).map_err(place.failed("make a place for"))?;
    let made = if is_dir { fs::create_dir(&target) } else { File::create_new(&target).map(drop) };
    made.map_err(place.failed("make a place for"))?;
    bind(&found, &target, mount.propagation).map_err(place.failed("mount"))?;
    Ok(target)
}

/// Separates the mounts from the volumes they came from: what is unmounted here stays mounted there.
pub(crate) fn release(container_dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(container_dir.join(STAGED)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let flags = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        match mount(None::<&str>, &entry?.path(), None::<&str>, flags, None::<&str>) {
            // Not mounted, or not yet.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn find(volume: &File, sub: &SubPath) -> Result<OwnedFd, Errno> {
    match open_beneath(volume, &sub.path, OFlag::O_PATH) {
        Err(Errno::ENOENT) if sub.create => {
            make_directories(volume, &sub.path)?;
            open_beneath(volume, &sub.path, OFlag::O_PATH)
        }
        found => found,
    }
}

struct Place<'a> {
    mount: &'a container::Mount,
    sub: &'a SubPath,
}

impl Place<'_> {
    fn failed(&self, operation: &'static str) -> impl FnOnce(io::Error) -> BundleError + use<> {
        let (destination, path) = (self.mount.destination.clone(), self.sub.path.clone());
        move |source| BundleError::SubPath {
            destination,
            path,
            problem: format!("cannot {operation} it: {source}"),
        }
    }

    fn refused(&self, errno: Errno) -> BundleError {
        let problem = match errno {
            Errno::EXDEV => {
                "it leads out of the volume, through a symbolic link that is absolute or points above it; \
                             make the link relative, or mount what it points at"
                    .to_owned()
            }
            Errno::ELOOP => "it has too many symbolic links".to_owned(),
            Errno::ENOTDIR => "a part of it is not a directory".to_owned(),
            Errno::ENOENT if self.sub.create => {
                "a symbolic link in it points at nothing, or it was removed meanwhile".to_owned()
            }
            Errno::ENOENT => {
                "there is nothing of this name in the volume, and nothing can be made there".to_owned()
            }
            errno => format!("cannot open it: {}", io::Error::from(errno)),
        };
        BundleError::SubPath {
            destination: self.mount.destination.clone(),
            path: self.sub.path.clone(),
            problem,
        }
    }
}

fn open_beneath(root: impl AsFd, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    let mut tries = 0;
    loop {
        match openat2(root.as_fd(), path, how) {
            Err(Errno::EAGAIN) if tries < MOST_TRIES => tries += 1,
            result => return result,
        }
    }
}

/// Makes the directories of `path` that are missing, each as open as the volume itself is, so that whoever may write
/// to the volume may write there.
fn make_directories(root: &File, path: &Path) -> Result<(), Errno> {
    let mode = Mode::from_bits_truncate(fstat(root)?.st_mode & 0o7777);
    let mut done = PathBuf::new();
    let mut parent: OwnedFd = root.try_clone().map_err(|_| Errno::EMFILE)?.into();
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        done.push(name);
        let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
        parent = match open_beneath(root, &done, directory) {
            Err(Errno::ENOENT) => {
                match mkdirat(&parent, name, mode) {
                    // Somebody else was faster, or put a link there: the next look tells.
                    Err(Errno::EEXIST) => open_beneath(root, &done, directory)?,
                    made => {
                        made?;
                        // Past the umask. Not through a link that took its place.
                        let flags =
                            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                        let fresh = openat(&parent, name, flags, Mode::empty())?;
                        fchmod(&fresh, mode)?;
                        fresh
                    }
                }
            }
            found => found?,
        };
    }
    Ok(())
}

/// Mounts what `from` is open on at `target`, with all that is mounted below it.
fn bind(from: &OwnedFd, target: &Path, propagation: Propagation) -> io::Result<()> {
    // What is mounted in the volume later is to be seen there too: only this one mount, which stays the volume's peer.
    let peer = propagation == Propagation::Bidirectional;
    let below = if peer { 0 } else { libc::AT_RECURSIVE as libc::c_uint };
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as libc::c_uint | below;
    // SAFETY: the descriptor is open, the path a terminated string; the result is checked.
    let tree =
        unsafe { libc::syscall(libc::SYS_open_tree, from.as_raw_fd(), c"".as_ptr(), flags as libc::c_int) };
    // SAFETY: the kernel just returned this descriptor, and nobody else knows it.
    let tree = unsafe { OwnedFd::from_raw_fd(Errno::result(tree)? as libc::c_int) };
    let kind = if propagation == Propagation::HostToContainer { libc::MS_SLAVE } else { libc::MS_PRIVATE };
    if !peer {
        let attributes = libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: kind, userns_fd: 0 };
        // SAFETY: the structure outlives the call, which is told its size.
        let set = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            )
        };
        Errno::result(set)?;
    }
    let target = std::ffi::CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: both paths are terminated strings, the descriptor is open.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Ok(Errno::result(moved).map(drop)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn stays(root: &Path, path: &str) -> Result<OwnedFd, Errno> {
        open_beneath(File::open(root).expect("the volume"), Path::new(path), OFlag::O_PATH)
    }

    #[test]
    fn links_are_followed_as_long_as_they_stay_inside() {
        let dir = tempfile::tempdir().expect("a directory");
        let volume = dir.path().join("volume");
        fs::create_dir_all(volume.join("..data")).expect("made");
        fs::write(volume.join("..data/key"), "v").expect("written");
        fs::write(dir.path().join("secret"), "no").expect("written");
        symlink("..data/key", volume.join("key")).expect("a link");
        symlink("../secret", volume.join("up")).expect("a link");
        symlink("/etc/passwd", volume.join("absolute")).expect("a link");
        symlink("loop", volume.join("loop")).expect("a link");
        assert!(stays(&volume, "key").is_ok());
        for (path, expected) in [("up", Errno::EXDEV), ("absolute", Errno::EXDEV), ("loop", Errno::ELOOP)] {
            assert_eq!(stays(&volume, path).err(), Some(expected), "{path}");
        }
    }

    #[test]
    fn missing_directories_are_made_as_open_as_the_volume() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o2777)).expect("a mode");
        let volume = File::open(dir.path()).expect("open");
        make_directories(&volume, Path::new("a/b")).expect("made");
        let mode = fs::metadata(dir.path().join("a/b")).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o2777);
        make_directories(&volume, Path::new("a/b/c")).expect("more of it");
    }

    #[test]
    fn a_directory_that_turns_into_a_link_at_any_moment_leads_nowhere_outside() {
        let dir = tempfile::tempdir().expect("a directory");
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("a")).expect("made");
        fs::create_dir_all(&outside).expect("made");
        symlink(&outside, volume.join("link")).expect("a link");
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Exchanges the directory and the link, which is what a container would do.
                while !over.load(Ordering::Relaxed) {
                    let (a, link) = (volume.join("a"), volume.join("link"));
                    let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                    nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &a, nix::fcntl::AT_FDCWD, &link, flags)
                        .expect("exchanged");
                }
            });
            let root = File::open(&volume).expect("open");
            for round in 0..2000 {
                // Either made inside, or refused.
                let _ = make_directories(&root, Path::new(&format!("a/{round}/deep")));
                let _ = open_beneath(&root, Path::new(&format!("a/{round}")), OFlag::O_PATH);
            }
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::read_dir(&outside).expect("there").count(), 0, "something was made outside");
    }
}
