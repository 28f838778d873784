//! Reads one container's log: from the right place, entry by entry, and on as it grows.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;

use super::{Cancel, LogError, LogOptions};

/// How soon a following reader notices more output, the end, or that it was cancelled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const BLOCK: usize = 64 * 1024;

/// Blocks while it waits for more (see [`LogOptions::follow`]); each item is the output of one entry, line ends included.
pub struct LogReader {
    path: PathBuf,
    file: BufReader<File>,
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
struct Entry<'a> {
    time: &'a str,
    /// The line ends with it.
    full: bool,
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
        let mut file = File::open(path).map_err(failed)?;
        if let Some(lines) = options.tail_lines {
            let start = tail_start(&mut file, lines).map_err(failed)?;
            file.seek(SeekFrom::Start(start)).map_err(failed)?;
        }
        Ok(Self {
            path: path.to_owned(),
            file: BufReader::with_capacity(BLOCK, file),
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
            let last_round = !self.options.follow || (self.ended)();
            let read = self.file.read_until(b'\n', &mut self.partial);
            read.map_err(|source| LogError::Read { path: self.path.clone(), source })?;
            if self.partial.ends_with(b"\n") {
                return Ok(Some(std::mem::take(&mut self.partial)));
            }
            if last_round {
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

fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let _stream = fields.next()?;
    let full = fields.next()? == b"F";
    Some(Entry { time, full, content: fields.next()? })
}

/// Where the last `lines` lines begin. Reads backwards; entries marked as parts belong to the line that follows them.
fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let size = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(size);
    }
    let mut wanted = lines;
    // The tail of the file from `start` on; entries in it are counted from the back.
    let (mut start, mut tail) = (size, Vec::new());
    let mut end_of_entry: Option<usize> = None;
    let mut scanned = 0;
    loop {
        // `scanned` bytes at the end of `tail` have been looked at.
        while scanned < tail.len() {
            let index = tail.len() - scanned - 1;
            scanned += 1;
            if tail[index] != b'\n' {
                continue;
            }
            if let Some(end) = end_of_entry
                && parse(&tail[index + 1..end]).is_some_and(|entry| entry.full)
            {
                if wanted == 0 {
                    // One full entry too many: the wanted lines begin behind it.
                    return Ok(start + end as u64 + 1);
                }
                wanted -= 1;
            }
            end_of_entry = Some(index);
        }
        if start == 0 {
            let first = end_of_entry.and_then(|end| parse(&tail[..end]));
            let one_too_many = wanted == 0 && first.is_some_and(|entry| entry.full);
            return Ok(if one_too_many { end_of_entry.map_or(0, |end| end as u64 + 1) } else { 0 });
        }
        let length = start.min(BLOCK as u64);
        start -= length;
        let mut block = vec![0; length as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        end_of_entry = end_of_entry.map(|end| end + block.len());
        block.extend(&tail);
        tail = block;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

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
}
