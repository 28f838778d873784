//! Files that are replaced all at once, as Kubernetes lays them out:
//!
//! ```text
//! key → ..data/key                 what containers open; one link for each file or directory at the top
//! ..data → ..2026_11_21_18_45_00.1 the present files; replaced by rename
//! ..2026_11_21_18_45_00.1/key
//! ```
//!
//! Invariants: a reader that goes through `..data` once sees the files of one moment, whole; no name that stays vanishes on
//! the way; what has not changed is not written. A directory that is not shown any more stays for [`KEPT`], for whoever is
//! reading in it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use thiserror::Error;

use super::super::projection::File;

/// How long those who opened files before a change may go on reading them.
pub(super) const KEPT: Duration = Duration::from_secs(10);
const DATA: &str = "..data";
const NEXT_DATA: &str = "..data_tmp";
const NEXT_LINK: &str = "..link_tmp";

#[derive(Debug, Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub(in crate::pods) struct PayloadError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

type Result<T> = std::result::Result<T, PayloadError>;

/// What is there of a file, or is to be.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    data: Vec<u8>,
    mode: u32,
    user: u32,
    group: u32,
}

/// Makes `dir`, which exists, show exactly these files; returns whether anything changed. `group` is the pod's fsGroup.
pub(super) fn write(dir: &Path, files: &[File], group: Option<u32>) -> Result<bool> {
    let wanted = wanted(files, group);
    let shown = fs::read_link(dir.join(DATA)).ok();
    if let Some(shown) = &shown
        && present(&dir.join(shown)).is_some_and(|present| present == wanted)
        && link_all(dir, &wanted)?
    {
        return Ok(false);
    }
    remove_others(dir, shown.as_deref().map(Path::as_os_str), KEPT)?;
    let fresh = make_directory(dir, group)?;
    for (path, content) in &wanted {
        let path = dir.join(&fresh).join(path);
        make_parents(&dir.join(&fresh), &path, group)?;
        write_file(&path, content)?;
    }
    let next = dir.join(NEXT_DATA);
    remove_file(&next)?;
    symlink(&fresh, &next).map_err(failed("link", &next))?;
    fs::rename(&next, dir.join(DATA)).map_err(failed("replace", &dir.join(DATA)))?;
    if let Some(retired) = shown.and_then(|shown| fs::File::open(dir.join(shown)).ok()) {
        // Its time counts from now. Where that fails it goes with the next change.
        let _ = retired.set_modified(SystemTime::now());
    }
    link_all(dir, &wanted)?;
    unlink_others(dir, &tops(&wanted))?;
    Ok(true)
}

/// Removes what has not been shown for as long as `kept`.
pub(super) fn sweep(dir: &Path, kept: Duration) -> Result<()> {
    let shown = fs::read_link(dir.join(DATA)).map_err(failed("read", &dir.join(DATA)))?;
    remove_others(dir, Some(shown.as_os_str()), kept)
}

fn wanted(files: &[File], group: Option<u32>) -> BTreeMap<PathBuf, Content> {
    let content = |file: &File| Content {
        data: file.data.clone(),
        // Who belongs to the group may read, whatever the mode says.
        mode: if group.is_some() { file.mode | 0o440 } else { file.mode },
        user: file.user.unwrap_or(0),
        group: group.unwrap_or(0),
    };
    // A path that comes twice shows what comes last.
    files.iter().map(|file| (PathBuf::from(&file.path), content(file))).collect()
}

/// The files below a directory; `None` when it cannot be read as a whole.
fn present(root: &Path) -> Option<BTreeMap<PathBuf, Content>> {
    let (mut found, mut directories) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).ok()? {
            let path = entry.ok()?.path();
            let metadata = fs::symlink_metadata(&path).ok()?;
            if metadata.is_dir() {
                directories.push(path);
                continue;
            }
            let content = Content {
                data: fs::read(&path).ok()?,
                mode: metadata.mode() & 0o7777,
                user: metadata.uid(),
                group: metadata.gid(),
            };
            found.insert(path.strip_prefix(root).ok()?.to_owned(), content);
        }
    }
    Some(found)
}

fn make_directory(dir: &Path, group: Option<u32>) -> Result<OsString> {
    let mut number = Timestamp::now().subsec_nanosecond();
    loop {
        let name = format!("..{}.{number}", Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S"));
        let path = dir.join(&name);
        match fs::create_dir(&path) {
            Ok(()) => {
                own_directory(&path, group)?;
                return Ok(name.into());
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(failed("make", &path)(error)),
        }
    }
}

fn make_parents(root: &Path, path: &Path, group: Option<u32>) -> Result<()> {
    let parents: Vec<&Path> = path.ancestors().skip(1).take_while(|parent| *parent != root).collect();
    for parent in parents.into_iter().rev() {
        match fs::create_dir(parent) {
            Ok(()) => own_directory(parent, group)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make", parent)(error)),
        }
    }
    Ok(())
}

fn own_directory(path: &Path, group: Option<u32>) -> Result<()> {
    if group.is_some() {
        chown(path, None, group).map_err(failed("change the group of", path))?;
    }
    let mode = if group.is_some() { 0o2775 } else { 0o755 };
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed("change the mode of", path))
}

fn write_file(path: &Path, content: &Content) -> Result<()> {
    fs::write(path, &content.data).map_err(failed("write", path))?;
    chown(path, Some(content.user), Some(content.group)).map_err(failed("change the owner of", path))?;
    fs::set_permissions(path, Permissions::from_mode(content.mode))
        .map_err(failed("change the mode of", path))
}

/// First components of the paths.
fn tops(wanted: &BTreeMap<PathBuf, Content>) -> BTreeSet<&OsStr> {
    let first = |path: &'_ PathBuf| match path.components().next() {
        Some(Component::Normal(name)) => Some(name.to_owned()),
        _ => None,
    };
    wanted.keys().filter(|path| first(path).is_some()).filter_map(|path| path.iter().next()).collect()
}

/// Links what containers open; true when all links were there already.
fn link_all(dir: &Path, wanted: &BTreeMap<PathBuf, Content>) -> Result<bool> {
    let mut complete = true;
    for name in tops(wanted) {
        let (link, target) = (dir.join(name), Path::new(DATA).join(name));
        if fs::read_link(&link).is_ok_and(|present| present == target) {
            continue;
        }
        complete = false;
        let next = dir.join(NEXT_LINK);
        remove_file(&next)?;
        symlink(&target, &next).map_err(failed("link", &next))?;
        // An earlier agent wrote files and directories.
        if fs::symlink_metadata(&link).is_ok_and(|metadata| metadata.is_dir()) {
            fs::remove_dir_all(&link).map_err(failed("remove", &link))?;
        }
        fs::rename(&next, &link).map_err(failed("link", &link))?;
    }
    Ok(complete)
}

fn unlink_others(dir: &Path, wanted: &BTreeSet<&OsStr>) -> Result<()> {
    for (name, path) in entries(dir)? {
        if !name.as_encoded_bytes().starts_with(b"..") && !wanted.contains(name.as_os_str()) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes the directories of files that have not been shown for as long as `kept`.
fn remove_others(dir: &Path, shown: Option<&OsStr>, kept: Duration) -> Result<()> {
    let now = SystemTime::now();
    // A clock that was set back makes them old enough.
    let is_old = |path: &Path| {
        let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| now.duration_since(modified).ok());
        age.is_none_or(|age| age >= kept)
    };
    for (name, path) in entries(dir)? {
        let ours = name.as_encoded_bytes().starts_with(b"..");
        if ours && name != DATA && Some(name.as_os_str()) != shown && is_old(&path) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<(OsString, PathBuf)>> {
    let entries = fs::read_dir(dir).map_err(failed("read", dir))?;
    let entries = entries.map(|entry| entry.map(|entry| (entry.file_name(), entry.path())));
    entries.collect::<io::Result<_>>().map_err(failed("read", dir))
}

fn remove(path: &Path) -> Result<()> {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let removed = if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(failed("remove", path))
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PayloadError + use<> {
    let path = path.to_owned();
    move |source| PayloadError { operation, path, source }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;

    fn file(path: &str, data: &str) -> File {
        File { path: path.to_owned(), data: data.as_bytes().to_vec(), mode: 0o644, user: None }
    }

    /// What a container sees: names without dots, and their content.
    fn seen(dir: &Path) -> BTreeMap<PathBuf, String> {
        let mut seen = BTreeMap::new();
        for (name, path) in entries(dir).expect("readable") {
            if name.as_encoded_bytes().starts_with(b"..") {
                continue;
            }
            let target = fs::canonicalize(&path).expect("no dangling link");
            let mut all = vec![(PathBuf::from(&name), target)];
            while let Some((name, path)) = all.pop() {
                if path.is_dir() {
                    all.extend(entries(&path).expect("readable").into_iter().map(|(n, p)| (name.join(n), p)));
                } else {
                    seen.insert(name, fs::read_to_string(&path).expect("readable"));
                }
            }
        }
        seen
    }

    #[test]
    fn files_are_laid_out_as_kubernetes_does_and_an_equal_write_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = [file("key", "v"), file("deep/er", "w")];
        assert!(write(dir.path(), &files, None).expect("written"));
        assert_eq!(fs::read_link(dir.path().join("key")).expect("a link"), Path::new("..data/key"));
        assert_eq!(fs::read_link(dir.path().join("deep")).expect("a link"), Path::new("..data/deep"));
        let shown = fs::read_link(dir.path().join(DATA)).expect("a link");
        assert!(!write(dir.path(), &files, None).expect("written"));
        assert_eq!(fs::read_link(dir.path().join(DATA)).expect("a link"), shown);
        // A lost link is put back.
        fs::remove_file(dir.path().join("key")).expect("removed");
        write(dir.path(), &files, None).expect("written");
        assert_eq!(fs::read_to_string(dir.path().join("key")).expect("there"), "v");
    }

    #[test]
    fn a_reader_in_the_directory_before_goes_on_until_it_is_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path(), &[file("a", "1")], None).expect("written");
        let before = fs::canonicalize(dir.path().join(DATA)).expect("there");
        write(dir.path(), &[file("b", "2")], None).expect("written");
        assert_eq!(fs::read_to_string(before.join("a")).expect("still there"), "1");
        assert_eq!(seen(dir.path()).into_keys().collect::<Vec<_>>(), [PathBuf::from("b")]);
        sweep(dir.path(), KEPT).expect("swept");
        assert!(before.exists());
        sweep(dir.path(), Duration::ZERO).expect("swept");
        assert!(!before.exists());
        assert_eq!(seen(dir.path()).len(), 1);
    }

    #[test]
    fn what_an_earlier_agent_wrote_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("deep")).expect("made");
        fs::write(dir.path().join("deep/er"), "old").expect("written");
        fs::write(dir.path().join("key"), "old").expect("written");
        fs::write(dir.path().join("gone"), "old").expect("written");
        write(dir.path(), &[file("key", "v"), file("deep/er", "w")], None).expect("written");
        let expected = [("deep/er", "w"), ("key", "v")].map(|(name, text)| (name.into(), text.to_owned()));
        assert_eq!(seen(dir.path()), BTreeMap::from(expected));
    }

    #[test]
    fn whoever_reads_while_files_are_replaced_sees_those_of_one_moment() {
        let dir = tempfile::tempdir().expect("a directory");
        let number = |number: u64| {
            let text = format!("{number}").repeat(1000);
            [file("a", &text), file("b", &text)]
        };
        write(dir.path(), &number(0), None).expect("written");
        let (over, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let at = fs::canonicalize(dir.path().join(DATA)).expect("always there");
                    let read = |path: PathBuf| fs::read_to_string(path).expect("always there");
                    assert_eq!(read(at.join("a")), read(at.join("b")), "a mix");
                    assert_eq!(read(dir.path().join("a")).len() % 1000, 0, "cut short");
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
            });
            for count in 1..200 {
                write(dir.path(), &number(count), None).expect("written");
                // Changes are further apart than a look takes: at most one comes in between.
                let before = rounds.load(Ordering::SeqCst);
                while rounds.load(Ordering::SeqCst) == before {
                    std::thread::yield_now();
                }
            }
            over.store(true, Ordering::Relaxed);
        });
    }

    proptest! {
        #[test]
        fn whatever_was_shown_before_exactly_the_files_are_shown(
            steps in prop::collection::vec(
                prop::collection::btree_map("[a-c]{1,2}(/[xy])?", "[01]{0,3}", 0..4), 1..5),
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            for step in steps {
                // A name cannot be a file and a directory at once.
                let directories: Vec<_> =
                    step.keys().filter_map(|path| path.split_once('/')).map(|(top, _)| top.to_owned()).collect();
                let files: Vec<_> = step
                    .iter()
                    .filter(|(path, _)| !directories.contains(path))
                    .map(|(path, data)| file(path, data))
                    .collect();
                write(dir.path(), &files, None).expect("written");
                let expected: BTreeMap<PathBuf, String> = files
                    .into_iter()
                    .map(|file| (file.path.into(), String::from_utf8(file.data).expect("text")))
                    .collect();
                prop_assert_eq!(seen(dir.path()), expected);
            }
        }
    }
}
