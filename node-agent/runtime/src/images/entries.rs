//! The entries of a layer, into a directory of its own, in the form overlayfs expects.
//!
//! Invariant: nothing outside the directory is touched, whatever the archive says. Each entry is reached through its
//! parent directory, opened with `RESOLVE_BENEATH`: a symbolic link may lead to another place inside, never out, and the
//! last component is never followed. `..` and device nodes are refused; a leading `/` means the layer's own root.
//!
//! Deletions become what overlayfs calls whiteouts (character device 0:0) and opaque directories
//! (`trusted.overlay.opaque`). See the OCI image specification, "Layer Filesystem Changeset".
//!
//! What a layer may come to is bounded, on disk and in memory: see [`super::limits`]. This file and that one know nothing of
//! the rest of the crate, so that a fuzz target can be made of them.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc;
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use tar::{Entry, EntryType};

use super::limits::Gauge;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Unpacks a tar stream into `directory`, which exists and is empty. An error names the entry; the directory holds garbage
/// then.
pub(super) fn unpack(
    stream: &mut impl Read,
    directory: &Path,
    gauge: &Gauge,
) -> Result<(), (PathBuf, Problem)> {
    let root = File::open(directory).map_err(|error| (PathBuf::from("/"), Problem::Io(error)))?;
    Unpacker { root: root.into(), directories: Vec::new(), gauge }.all(stream)
}

/// Why an entry was not unpacked.
#[derive(Debug)]
pub(super) enum Problem {
    Refused(String),
    Io(io::Error),
}

impl From<Errno> for Problem {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EXDEV | Errno::ELOOP => Self::Refused("its path leads out of the image".to_owned()),
            errno => Self::Io(errno.into()),
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Where an entry goes: its parent directory, held open, and its name in there. The root has the name `.`.
struct Place {
    parent: OwnedFd,
    name: OsString,
}

struct Unpacker<'g> {
    root: OwnedFd,
    /// Times of directories are set last: filling a directory changes them.
    directories: Vec<(PathBuf, TimeSpec)>,
    gauge: &'g Gauge,
}

impl Unpacker<'_> {
    fn all(&mut self, stream: &mut impl Read) -> Result<(), (PathBuf, Problem)> {
        let mut archive = tar::Archive::new(stream);
        let outside = |error: io::Error| (PathBuf::from("/"), Problem::Io(error));
        let mut entries = archive.entries().map_err(outside)?;
        loop {
            self.gauge.begin_headers();
            let Some(entry) = entries.next() else { break };
            let mut entry = entry.map_err(outside)?;
            self.gauge.end_headers();
            self.gauge.entry().map_err(outside)?;
            let path = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
            self.entry(&mut entry, &path).map_err(|problem| (path, problem))?;
            // What an entry has that needs no content would be taken for headers.
            io::copy(&mut entry, &mut io::sink()).map_err(outside)?;
        }
        self.gauge.end_headers();
        for (path, time) in std::mem::take(&mut self.directories).into_iter().rev() {
            let result = self.place(&path).and_then(|place| set_time(&place, time));
            result.map_err(|problem| (path, problem))?;
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>, path: &Path) -> Result<(), Problem> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let place = self.place(path)?;
        if let Some(hidden) = place.name.as_bytes().strip_prefix(WHITEOUT) {
            let hidden = OsStr::from_bytes(hidden).to_owned();
            return whiteout(place, &hidden);
        }
        match kind {
            EntryType::Directory => make_directory(&place)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                clear(&place)?;
                let mut file = File::from(open_at(
                    place.parent.as_fd(),
                    Path::new(&place.name),
                    OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW,
                    Mode::S_IRUSR | Mode::S_IWUSR,
                )?);
                self.gauge.copy(entry, &mut file)?;
            }
            EntryType::Symlink => {
                clear(&place)?;
                symlinkat(&*link_target(entry)?, &place.parent, &*place.name)?;
            }
            EntryType::Link => {
                let target = self.place(&link_target(entry)?)?;
                clear(&place)?;
                linkat(&target.parent, &*target.name, &place.parent, &*place.name, AtFlags::empty())?;
                // The inode has its owner, mode and times from the entry it was made by.
                return Ok(());
            }
            EntryType::Fifo => {
                clear(&place)?;
                mknodat(&place.parent, &*place.name, SFlag::S_IFIFO, Mode::S_IRUSR, 0)?;
            }
            EntryType::Char | EntryType::Block => {
                return Err(Problem::Refused("device nodes in images are refused".to_owned()));
            }
            other => {
                return Err(Problem::Refused(format!(
                    "unknown entry type {:?}",
                    char::from(other.as_byte())
                )));
            }
        }
        self.metadata(entry, path, &place, kind)
    }

    fn metadata<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        path: &Path,
        place: &Place,
        kind: EntryType,
    ) -> Result<(), Problem> {
        let header = entry.header();
        let (uid, gid) = (id(header.uid()?)?, id(header.gid()?)?);
        let time = TimeSpec::new(header.mtime()?.try_into().unwrap_or(i64::MAX), 0);
        let mode = Mode::from_bits_truncate(header.mode()?);
        let no_follow = AtFlags::AT_SYMLINK_NOFOLLOW;
        fchownat(&place.parent, &*place.name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), no_follow)?;
        if kind != EntryType::Symlink {
            // After chown, which clears setuid; the name is no link: this process just made it.
            fchmodat(&place.parent, &*place.name, mode, FchmodatFlags::FollowSymlink)?;
        }
        if matches!(kind, EntryType::Regular | EntryType::Directory) {
            let open = open_at(place.parent.as_fd(), Path::new(&place.name), OFlag::O_RDONLY, Mode::empty());
            set_attributes(entry, open?.as_fd())?;
        }
        if kind == EntryType::Directory {
            self.gauge.directory(path.as_os_str().as_bytes())?;
            self.directories.push((path.to_owned(), time));
            return Ok(());
        }
        set_time(place, time)
    }

    /// Opens the parent of `path`, making missing directories.
    fn place(&self, path: &Path) -> Result<Place, Problem> {
        let mut names = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => names.push(name),
                Component::CurDir | Component::RootDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(Problem::Refused("its path holds '..'".to_owned()));
                }
            }
        }
        let Some(name) = names.pop() else {
            return Ok(Place { parent: self.root.try_clone()?, name: ".".into() });
        };
        let parent: PathBuf = names.iter().collect();
        let parent = match self.open_directory(&parent) {
            Err(Errno::ENOENT) => self.make_parents(&names)?,
            parent => parent?,
        };
        Ok(Place { parent, name: name.to_owned() })
    }

    fn make_parents(&self, names: &[&OsStr]) -> Result<OwnedFd, Problem> {
        let mut path = PathBuf::new();
        let mut directory = self.root.try_clone()?;
        for name in names {
            path.push(name);
            match mkdirat(&directory, *name, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            directory = self.open_directory(&path)?;
        }
        Ok(directory)
    }

    fn open_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        open_at(self.root.as_fd(), path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())
    }
}

fn open_at(directory: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(mode)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(directory, path, how)
}

/// Makes room for a new entry: a later entry of the same name replaces the earlier one.
fn clear(place: &Place) -> Result<(), Problem> {
    if place.name == "." {
        return Err(Problem::Refused("the image's root must be a directory".to_owned()));
    }
    match unlinkat(&place.parent, &*place.name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR) => match unlinkat(&place.parent, &*place.name, UnlinkatFlags::RemoveDir) {
            Err(Errno::ENOTEMPTY) => {
                Err(Problem::Refused("it would replace a directory that is not empty".to_owned()))
            }
            result => Ok(result?),
        },
        Err(errno) => Err(errno.into()),
    }
}

fn make_directory(place: &Place) -> Result<(), Problem> {
    let make = || mkdirat(&place.parent, &*place.name, Mode::S_IRWXU);
    if place.name == "." {
        return Ok(());
    }
    match make() {
        Err(Errno::EEXIST) => {}
        result => return Ok(result?),
    }
    let present = fstatat(&place.parent, &*place.name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(present.st_mode & SFlag::S_IFMT.bits());
    if kind == SFlag::S_IFDIR {
        return Ok(());
    }
    clear(place)?;
    make()?;
    // The layer removed the directory of the layers below before making its own: theirs must not shine through.
    if kind == SFlag::S_IFCHR { mark_opaque(&place.parent, Path::new(&place.name)) } else { Ok(()) }
}

/// `hidden` is the name behind `.wh.`. Entries of the same layer stay: a whiteout speaks of the layers below.
fn whiteout(place: Place, hidden: &OsStr) -> Result<(), Problem> {
    if place.name.as_bytes() == OPAQUE {
        return mark_opaque(&place.parent, Path::new("."));
    }
    if hidden.as_bytes().starts_with(WHITEOUT) {
        // Other `.wh..wh.` names are aufs' own bookkeeping.
        return Ok(());
    }
    if hidden.is_empty() || hidden == "." || hidden == ".." {
        return Err(Problem::Refused("the whiteout names no file".to_owned()));
    }
    match mknodat(&place.parent, hidden, SFlag::S_IFCHR, Mode::empty(), 0) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn mark_opaque(parent: &OwnedFd, name: &Path) -> Result<(), Problem> {
    let directory = open_at(parent.as_fd(), name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
    Ok(set_attribute(directory.as_fd(), c"trusted.overlay.opaque", b"y")?)
}

/// Extended attributes travel in PAX records. File capabilities and user attributes are kept; overlayfs' own could make
/// one layer speak for another and are refused; the rest belongs to the machine the image was built on.
fn set_attributes<R: Read>(entry: &mut Entry<'_, R>, file: BorrowedFd<'_>) -> Result<(), Problem> {
    let Some(records) = entry.pax_extensions()? else { return Ok(()) };
    for record in records {
        let record = record?;
        let Some(name) = record.key_bytes().strip_prefix(b"SCHILY.xattr.") else { continue };
        if name.starts_with(b"trusted.overlay.") {
            return Err(Problem::Refused("it carries overlayfs' own attributes".to_owned()));
        }
        if name == b"security.capability" || name.starts_with(b"user.") {
            let name = CString::new(name).map_err(io::Error::from)?;
            set_attribute(file, &name, record.value_bytes())?;
        }
    }
    Ok(())
}

fn set_attribute(file: BorrowedFd<'_>, name: &std::ffi::CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: name is terminated, value is valid for its length, the descriptor is open.
    let result =
        unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result).map(drop)
}

fn link_target<R: Read>(entry: &Entry<'_, R>) -> Result<PathBuf, Problem> {
    match entry.link_name_bytes() {
        Some(target) if !target.is_empty() => Ok(PathBuf::from(OsStr::from_bytes(&target))),
        _ => Err(Problem::Refused("the link has no target".to_owned())),
    }
}

fn set_time(place: &Place, time: TimeSpec) -> Result<(), Problem> {
    Ok(utimensat(&place.parent, &*place.name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

fn id(value: u64) -> Result<u32, Problem> {
    u32::try_from(value).map_err(|_| Problem::Refused(format!("id {value} does not fit 32 bits")))
}
