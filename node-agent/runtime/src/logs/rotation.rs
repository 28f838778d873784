//! Rotation of a container's log, as the kubelet does it: `0.log` becomes `0.log.20260102-150405`, and is compressed to
//! `….gz` the next time; the oldest go.
//!
//! Invariant: no entry is lost. The shim writes into the renamed file until it has opened the new one; a file that is
//! compressed goes only once its `.gz` is whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

/// When to rotate, and what to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationPolicy {
    /// Bytes.
    pub max_size: u64,
    /// Files of one log, the one being written included; at least two.
    pub max_files: u32,
}

impl Default for RotationPolicy {
    fn default() -> Self {
        Self { max_size: 10 << 20, max_files: 5 }
    }
}

/// The files a log was rotated into, oldest first, each once: compressed, or not yet.
pub(super) fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let file = entry.file_name();
        let stamp = file.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('.'));
        found.extend(stamp.filter(|stamp| !stamp.ends_with(".part")).map(|_| entry.path()));
    }
    // Where both are there, the compressed one sorts last and is whole.
    found.sort();
    found.dedup_by(|later, earlier| {
        let same = stem(later) == stem(earlier);
        if same {
            std::mem::swap(later, earlier);
        }
        same
    });
    Ok(found)
}

/// The name without `.gz`: the same before and after compression.
pub(super) fn stem(path: &Path) -> PathBuf {
    if is_compressed(path) { path.with_extension("") } else { path.to_owned() }
}

pub(super) fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

/// Rotates `log`; `reopen` makes its writer open a new file.
pub(crate) fn rotate<E>(
    log: &Path,
    policy: &RotationPolicy,
    now: Timestamp,
    failed: impl FnOnce(io::Error) -> E,
    reopen: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let target = rename(log, policy, now).map_err(failed)?;
    reopen().inspect_err(|_| {
        // The writer knows only the file: it must be found where it is looked for.
        if !log.exists() {
            let _ = fs::rename(&target, log);
        }
    })
}

/// Makes room, and gives the file its new name.
fn rename(log: &Path, policy: &RotationPolicy, now: Timestamp) -> io::Result<PathBuf> {
    let mut old = rotated(log)?;
    // Beside these there will be the one rotated now and the one being written.
    let kept = usize::try_from(policy.max_files).unwrap_or(usize::MAX).saturating_sub(2);
    for path in old.drain(..old.len().saturating_sub(kept)) {
        remove(&path)?;
    }
    for path in old.iter().filter(|path| !is_compressed(path)) {
        compress(path)?;
    }
    let target = free_name(log, now, old.last());
    fs::rename(log, &target)?;
    Ok(target)
}

/// Removes a log and all it was rotated into.
pub(crate) fn remove_all(log: &Path) -> io::Result<()> {
    let old = match rotated(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        old => old?,
    };
    for path in old {
        remove(&path)?;
    }
    remove(log)
}

/// With what crashes may have left beside it.
fn remove(path: &Path) -> io::Result<()> {
    for path in [path.to_owned(), stem(path), part(path)] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let part = part(path);
    let mut encoder = GzEncoder::new(File::create(&part)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    let mut compressed = path.as_os_str().to_owned();
    compressed.push(".gz");
    fs::rename(&part, compressed)?;
    fs::remove_file(path)
}

fn part(path: &Path) -> PathBuf {
    let mut part = stem(path).into_os_string();
    part.push(".gz.part");
    part.into()
}

/// Names sort as times do: where the clock went back, or two rotations fall into one second, the stamp goes on.
fn free_name(log: &Path, now: Timestamp, newest: Option<&PathBuf>) -> PathBuf {
    let mut at = now;
    loop {
        let stamp = at.strftime("%Y%m%d-%H%M%S");
        let mut name = log.as_os_str().to_owned();
        name.push(format!(".{stamp}"));
        let path = PathBuf::from(name);
        if newest.is_none_or(|newest| stem(newest) < path) {
            return path;
        }
        let behind = newest.and_then(|newest| stamp_of(&stem(newest)));
        let next = behind.unwrap_or(at).max(at).checked_add(jiff::SignedDuration::from_secs(1));
        let Ok(next) = next else { return path };
        at = next;
    }
}

fn stamp_of(path: &Path) -> Option<Timestamp> {
    let stamp = path.to_str()?.rsplit_once('.')?.1;
    let time = jiff::civil::DateTime::strptime("%Y%m%d-%H%M%S", stamp).ok()?;
    time.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("a directory").flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_newest_stay_and_all_but_the_last_are_compressed() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("0.log");
        let policy = RotationPolicy { max_size: 1, max_files: 4 };
        let mut now: Timestamp = "2026-01-02T15:04:05Z".parse().expect("a time");
        for number in 0..6 {
            fs::write(&log, format!("content {number}")).expect("a log");
            rotate(&log, &policy, now, |error| error, || File::create(&log).map(drop)).expect("a rotation");
            // The second rotation falls into the same second as the first.
            now = now.checked_add(jiff::SignedDuration::from_secs(number)).expect("a time");
        }
        assert_eq!(
            names(dir.path()),
            ["0.log", "0.log.20260102-150408.gz", "0.log.20260102-150411.gz", "0.log.20260102-150415"]
        );
        let mut text = String::new();
        let file = File::open(dir.path().join("0.log.20260102-150411.gz")).expect("a file");
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("gzip");
        assert_eq!(text, "content 4");
        remove_all(&log).expect("all files");
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }

    #[test]
    fn a_writer_that_does_not_follow_keeps_its_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("0.log");
        fs::write(&log, "content").expect("a log");
        let refused = || Err(io::Error::other("no shim"));
        rotate(&log, &RotationPolicy::default(), Timestamp::now(), |error| error, refused)
            .expect_err("refused");
        assert_eq!(names(dir.path()), ["0.log"]);
    }

    #[test]
    fn what_a_crash_left_is_counted_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("0.log");
        for name in
            ["0.log", "0.log.20260101-000000", "0.log.20260101-000000.gz", "0.log.20260102-000000.gz.part"]
        {
            fs::write(dir.path().join(name), "").expect("a file");
        }
        let found = rotated(&log).expect("files");
        assert_eq!(found, [dir.path().join("0.log.20260101-000000.gz")]);
    }
}
