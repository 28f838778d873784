//! Reads one container's log: from the right place, entry by entry, and on as it grows.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;

use super::files::Files;
use super::{Cancel, LogError, LogOptions};

/// How soon a following reader notices more output, the end, or that it was cancelled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Blocks while it waits for more (see [`LogOptions::follow`]); each item is the output of one entry, line ends included.
pub struct LogReader {
    path: PathBuf,
    files: Files,
    options: LogOptions,
    cancel: Cancel,
    ended: Box<dyn Fn() -> bool + Send>,
    /// An entry whose end has not been written yet.
    partial: Vec<u8>,
    /// The last entry given out was a part: the next continues its line.
    continues: bool,
    left: Option<u64>,
}

/// One parsed entry.
pub(super) struct Entry<'a> {
    time: &'a str,
    /// The line ends with it.
    pub(super) full: bool,
    content: &'a [u8],
}

impl LogReader {
    /// `ended` tells a following reader that no more will be written.
    pub fn open(
        path: &Path,
        options: LogOptions,
        cancel: Cancel,
        ended: Box<dyn Fn() -> bool + Send>,
    ) -> Result<Self, LogError> {
        let failed = |source: io::Error| LogError::Read { path: path.to_owned(), source };
        Ok(Self {
            path: path.to_owned(),
            files: Files::open(path, options.tail_lines, options.since).map_err(failed)?,
            left: options.limit_bytes,
            options,
            cancel,
            ended,
            partial: Vec::new(),
            continues: false,
        })
    }

    /// The next complete entry as written; `None` at the end.
    fn next_entry(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        loop {
            if self.cancel.is_cancelled() {
                return Ok(None);
            }
            // Asked before reading: what is written between the two is read on the last round.
            let ended = !self.options.follow || (self.ended)();
            let passed = self.files.is_final();
            let failed = |source| LogError::Read { path: self.path.clone(), source };
            self.files.read_line(&mut self.partial).map_err(failed)?;
            if self.partial.ends_with(b"\n") {
                return Ok(Some(std::mem::take(&mut self.partial)));
            }
            // Without following, what is rotated meanwhile is the end of what there was.
            if passed && (self.options.follow || !self.files.is_last()) {
                // A full disk may have cut the last entry: it is none.
                self.partial.clear();
                self.files.advance().map_err(failed)?;
                continue;
            }
            if ended {
                return Ok(None);
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn next_output(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        if self.left == Some(0) {
            return Ok(None);
        }
        while let Some(line) = self.next_entry()? {
            let entry = parse(&line).ok_or_else(|| LogError::Malformed {
                path: self.path.clone(),
                line: String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned(),
            })?;
            if self
                .options
                .since
                .is_some_and(|since| entry.time.parse().is_ok_and(|time: Timestamp| time < since))
            {
                continue;
            }
            let mut output = Vec::with_capacity(line.len());
            if self.options.timestamps && !self.continues {
                output.extend(entry.time.bytes());
                output.push(b' ');
            }
            output.extend(entry.content);
            if entry.full {
                output.push(b'\n');
            }
            self.continues = !entry.full;
            if let Some(left) = &mut self.left {
                output.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= output.len() as u64;
            }
            return Ok(Some(output));
        }
        Ok(None)
    }
}

impl Iterator for LogReader {
    type Item = Result<Vec<u8>, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_output().transpose()
    }
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader")
            .field("path", &self.path)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

pub(super) fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let _stream = fields.next()?;
    let full = fields.next()? == b"F";
    Some(Entry { time, full, content: fields.next()? })
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::logs::rotation::{RotationPolicy, rotate};

    const LOG: &str = "2026-01-01T00:00:00.000000001Z stdout F one\n\
                       2026-01-01T00:00:01.000000000Z stdout P tw\n\
                       2026-01-01T00:00:01.000000001Z stdout F o\n\
                       2026-01-01T00:00:02.000000000Z stderr F \n\
                       2026-01-01T00:00:03.000000000Z stdout F four\n";

    fn read(log: &str, options: LogOptions) -> String {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(log.as_bytes()).expect("writing the log");
        let reader = LogReader::open(file.path(), options, Cancel::new(), Box::new(|| true)).expect("a log");
        let bytes: Vec<u8> = reader.map(|item| item.expect("an entry")).collect::<Vec<_>>().concat();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn entries_become_the_lines_that_were_written() {
        assert_eq!(read(LOG, LogOptions::default()), "one\ntwo\n\nfour\n");
    }

    #[test]
    fn the_tail_counts_lines_and_not_parts() {
        let tail = |lines| read(LOG, LogOptions { tail_lines: Some(lines), ..LogOptions::default() });
        assert_eq!(tail(0), "");
        assert_eq!(tail(1), "four\n");
        assert_eq!(tail(3), "two\n\nfour\n");
        assert_eq!(tail(4), "one\ntwo\n\nfour\n");
        assert_eq!(tail(99), "one\ntwo\n\nfour\n");
    }

    #[test]
    fn the_tail_of_a_log_of_many_blocks_is_found() {
        let entry = format!("2026-01-01T00:00:00.000000001Z stdout F {}\n", "x".repeat(100));
        let log = entry.repeat(3000);
        let tail = read(&log, LogOptions { tail_lines: Some(1500), ..LogOptions::default() });
        assert_eq!(tail.lines().count(), 1500);
    }

    #[test]
    fn since_limit_and_timestamps_are_respected() {
        let since = "2026-01-01T00:00:02Z".parse().ok();
        assert_eq!(read(LOG, LogOptions { since, ..LogOptions::default() }), "\nfour\n");
        assert_eq!(read(LOG, LogOptions { limit_bytes: Some(6), ..LogOptions::default() }), "one\ntw");
        let text = read(LOG, LogOptions { timestamps: true, tail_lines: Some(3), ..LogOptions::default() });
        assert_eq!(text.lines().next(), Some("2026-01-01T00:00:01.000000000Z two"));
    }

    #[test]
    fn a_following_reader_sees_what_is_written_later_and_stops_at_the_end() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        let ended = Arc::new(AtomicBool::new(false));
        let (path, seen) = (file.path().to_owned(), ended.clone());
        let reader = thread::spawn(move || {
            let options = LogOptions { follow: true, ..LogOptions::default() };
            let ended = Box::new(move || seen.load(Ordering::SeqCst));
            let reader = LogReader::open(&path, options, Cancel::new(), ended).expect("a log");
            reader.map(|item| item.expect("an entry")).collect::<Vec<_>>().concat()
        });
        for half in LOG.as_bytes().chunks(LOG.len() / 2 + 1) {
            file.write_all(half).expect("writing the log");
        }
        ended.store(true, Ordering::SeqCst);
        assert_eq!(reader.join().expect("the reader").as_slice(), b"one\ntwo\n\nfour\n");
    }

    /// A log of numbered lines that is rotated whenever the numbers say so; returns its directory.
    fn rotate_now(log: &Path, second: i64) {
        let policy = RotationPolicy { max_size: 1, max_files: 10 };
        let now = Timestamp::from_second(second).expect("a time");
        rotate(log, &policy, now, |error| error, || File::create(log).map(drop)).expect("a rotation");
    }

    fn line(number: u32) -> String {
        format!("2026-01-01T00:00:00.000000001Z stdout F line {number}\n")
    }

    #[test]
    fn a_rotated_log_is_read_as_one_and_its_tail_reaches_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("0.log");
        for number in 0..4 {
            std::fs::write(&log, line(2 * number) + &line(2 * number + 1)).expect("a log");
            rotate_now(&log, i64::from(number));
        }
        std::fs::write(&log, line(8)).expect("a log");
        let read = |tail_lines| {
            let options = LogOptions { tail_lines, ..LogOptions::default() };
            let reader = LogReader::open(&log, options, Cancel::new(), Box::new(|| true)).expect("a log");
            let bytes: Vec<u8> = reader.map(|item| item.expect("an entry")).collect::<Vec<_>>().concat();
            String::from_utf8(bytes).expect("text")
        };
        let lines = |from: u32| (from..9).map(|number| format!("line {number}\n")).collect::<String>();
        assert_eq!(read(None), lines(0));
        for tail in 0..=9 {
            assert_eq!(read(Some(u64::from(tail))), lines(9 - tail), "the last {tail}");
        }
        assert_eq!(read(Some(99)), lines(0));
    }

    #[test]
    fn a_following_reader_misses_nothing_across_rotations_however_late_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("0.log");
        std::fs::write(&log, "").expect("a log");
        let ended = Arc::new(AtomicBool::new(false));
        let seen = ended.clone();
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let ends = Box::new(move || seen.load(Ordering::SeqCst));
        let mut reader = LogReader::open(&log, options, Cancel::new(), ends).expect("a log");
        let mut writer = OpenOptions::new().append(true).open(&log).expect("a log");
        let mut expected = String::new();
        let mut read = Vec::new();
        for number in 0..40 {
            writer.write_all(line(number).as_bytes()).expect("a line");
            expected += &format!("line {number}\n");
            // Sometimes once, sometimes several times between two looks of the reader.
            if number % 3 != 0 {
                rotate_now(&log, i64::from(number));
                writer = OpenOptions::new().append(true).open(&log).expect("a log");
            }
            if number % 7 == 6 {
                for _ in 0..7 {
                    read.extend(reader.next().expect("more").expect("an entry"));
                }
            }
        }
        ended.store(true, Ordering::SeqCst);
        read.extend(reader.map(|item| item.expect("an entry")).collect::<Vec<_>>().concat());
        // Ten files are kept; what was read before the others went is there.
        assert_eq!(String::from_utf8(read).expect("text"), expected);
    }
}
