//! The directory of manifests, followed: inotify tells which files were closed or moved, a look now and then finds the
//! rest.
//!
//! A file that changed is read once its writer has closed it, or has let it rest for a while: half a manifest may well be
//! a whole pod. What cannot be read leaves the pod of the file as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::libc;
use tokio::sync::mpsc;

/// A file that nobody is known to have closed is taken for whole after this rest.
const REST: Duration = Duration::from_secs(2);
/// Larger ones are no manifests.
const LARGEST: u64 = 1 << 20;
/// How soon it is looked again whether a directory is there that was not.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const HEADER: usize = size_of::<libc::inotify_event>();

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Files that changed since the last look, with what they say now.
    pub(super) changed: BTreeMap<PathBuf, Result<Vec<u8>, String>>,
    pub(super) gone: BTreeSet<PathBuf>,
    /// Whether a file changed that is still being written.
    pub(super) unsettled: bool,
}

#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Files as they were when they were read.
    known: BTreeMap<PathBuf, Print>,
}

/// By what a change of a file is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Print {
    fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { inode: metadata.ino(), size: metadata.size(), modified }
    }
}

impl Directory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, known: BTreeMap::new() }
    }

    /// `closed` names files that were whole a moment ago. A directory that cannot be read has no news.
    pub(super) fn look(&mut self, closed: &BTreeSet<OsString>) -> io::Result<Look> {
        let mut look = Look::default();
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_owned();
            // Hidden files are editors' and of atomic updates.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if name.as_bytes().starts_with(b".") || !metadata.is_file() {
                continue;
            }
            present.insert(path.clone());
            let print = Print::of(&metadata);
            if self.known.get(&path) == Some(&print) {
                continue;
            }
            let rested = metadata
                .modified()
                .is_ok_and(|at| SystemTime::now().duration_since(at).map_or(true, |rest| rest >= REST));
            if !rested && !closed.contains(&name) {
                look.unsettled = true;
                continue;
            }
            self.known.insert(path.clone(), print);
            let read = if metadata.len() > LARGEST {
                Err(format!("it has {} bytes, more than any manifest", metadata.len()))
            } else {
                fs::read(&path).map_err(|error| format!("cannot read it: {error}"))
            };
            look.changed.insert(path, read);
        }
        look.gone = self.known.keys().filter(|path| !present.contains(*path)).cloned().collect();
        self.known.retain(|path, _| present.contains(path));
        Ok(look)
    }
}

/// Tells the names of files as they are closed, moved or removed, for as long as somebody listens. `None`: the watch has
/// begun, and anything may have happened before.
pub(super) fn follow(path: PathBuf) -> io::Result<mpsc::UnboundedReceiver<Option<OsString>>> {
    let (tell, told) = mpsc::unbounded_channel();
    let run = move || {
        while !tell.is_closed() {
            match Watch::begin(&path) {
                Ok(mut watch) => {
                    let _ = tell.send(None);
                    while let Ok(names) = watch.next() {
                        for name in names {
                            let _ = tell.send(Some(name));
                        }
                        if watch.ended || tell.is_closed() {
                            break;
                        }
                    }
                }
                // It is not there yet: the look now and then says so.
                Err(error) => tracing::trace!(path = %path.display(), %error, "cannot follow the manifests"),
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    };
    std::thread::Builder::new().name("weir-manifests".into()).spawn(run)?;
    Ok(told)
}

struct Watch {
    file: File,
    /// The directory itself went away.
    ended: bool,
}

impl Watch {
    fn begin(path: &Path) -> io::Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: no memory is passed; the descriptor, if there is one, is ours alone.
        let fd = unsafe { libc::inotify_init1(libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just opened and that nobody else has.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let events = libc::IN_CLOSE_WRITE
            | libc::IN_MOVED_TO
            | libc::IN_MOVED_FROM
            | libc::IN_DELETE
            | libc::IN_DELETE_SELF
            | libc::IN_MOVE_SELF
            | libc::IN_ONLYDIR;
        // SAFETY: the name ends in a zero byte and outlives the call.
        if unsafe { libc::inotify_add_watch(fd.as_raw_fd(), name.as_ptr(), events) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { file: File::from(fd), ended: false })
    }

    /// Waits for events.
    fn next(&mut self) -> io::Result<Vec<OsString>> {
        let mut buffer = [0; 16 << 10];
        let length = self.file.read(&mut buffer)?;
        let (names, ended) = parse(&buffer[..length]);
        self.ended |= ended;
        Ok(names)
    }
}

/// Names in a buffer of `struct inotify_event`s, and whether the watch is over (or has lost events).
fn parse(mut buffer: &[u8]) -> (Vec<OsString>, bool) {
    let (mut names, mut ended) = (Vec::new(), false);
    while buffer.len() >= HEADER {
        let word =
            |at: usize| u32::from_ne_bytes([buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]]);
        // wd, mask, cookie, len.
        let (mask, length) = (word(4), word(12) as usize);
        let over = libc::IN_IGNORED | libc::IN_DELETE_SELF | libc::IN_MOVE_SELF | libc::IN_Q_OVERFLOW;
        ended |= mask & over != 0;
        let rest = &buffer[HEADER..];
        let name = &rest[..length.min(rest.len())];
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        if !name.is_empty() {
            names.push(OsStr::from_bytes(name).to_owned());
        }
        buffer = &rest[length.min(rest.len())..];
    }
    (names, ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> BTreeSet<OsString> {
        BTreeSet::new()
    }

    #[test]
    fn a_file_is_read_when_it_is_closed_or_has_rested() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut directory = Directory::new(dir.path().to_owned());
        let path = dir.path().join("web.yaml");
        fs::write(&path, "half").expect("written");
        fs::write(dir.path().join(".web.yaml.swp"), "hidden").expect("written");
        fs::create_dir(dir.path().join("below")).expect("made");
        let look = directory.look(&nobody()).expect("a look");
        assert!(look.unsettled && look.changed.is_empty(), "{look:?}");
        let look = directory.look(&[OsString::from("web.yaml")].into()).expect("a look");
        assert_eq!(look.changed[&path], Ok(b"half".to_vec()));
        assert!(directory.look(&nobody()).expect("a look").changed.is_empty(), "nothing changed");

        let file = File::options().write(true).open(&path).expect("opened");
        file.set_modified(SystemTime::now() - 2 * REST).expect("an old time");
        assert_eq!(directory.look(&nobody()).expect("a look").changed.len(), 1, "it has rested");
        fs::remove_file(&path).expect("removed");
        assert_eq!(directory.look(&nobody()).expect("a look").gone, [path].into());
    }

    #[test]
    fn files_that_cannot_be_manifests_say_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("large");
        File::create(&path).and_then(|file| file.set_len(LARGEST + 1)).expect("made");
        let look = Directory::new(dir.path().to_owned()).look(&[OsString::from("large")].into());
        assert!(
            look.expect("a look").changed[&path].as_ref().is_err_and(|why| why.contains("more than any"))
        );
        assert!(Directory::new(dir.path().join("none")).look(&nobody()).is_err());
    }

    #[tokio::test]
    async fn the_kernel_tells_of_closed_and_removed_files_also_in_a_directory_that_comes_later() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("manifests");
        let mut told = follow(path.clone()).expect("followed");
        fs::create_dir(&path).expect("made");
        let next = async |told: &mut mpsc::UnboundedReceiver<_>| {
            tokio::time::timeout(Duration::from_secs(30), told.recv()).await.expect("in time").expect("told")
        };
        assert_eq!(next(&mut told).await, None);
        fs::write(path.join("a"), "x").expect("written");
        assert_eq!(next(&mut told).await, Some(OsString::from("a")));
        fs::remove_file(path.join("a")).expect("removed");
        assert_eq!(next(&mut told).await, Some(OsString::from("a")));
    }
}
