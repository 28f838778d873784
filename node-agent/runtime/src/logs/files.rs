//! The files of one log in the order they were written: what it was rotated into, and the one being written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use jiff::Timestamp;

use super::reader::parse;
use super::rotation::{is_compressed, rotated, stem};

const BLOCK: usize = 64 * 1024;

/// A file of a log, being read.
type Reading = Box<dyn BufRead + Send>;

pub(super) struct Files {
    log: PathBuf,
    reading: Reading,
    /// Rotated files to read after this one.
    next: VecDeque<PathBuf>,
    /// The one being written, opened at the same moment as the list was made; read last.
    last: Option<(File, u64)>,
    /// Device and inode of the file being read when it is the last.
    own: Option<(u64, u64)>,
    /// The newest rotated file when the last one was opened: the next newer one is what the last one became.
    newest: Option<PathBuf>,
}

impl Files {
    /// Opens the log where its last `lines` lines begin (of all its files), or at the beginning; files that were written
    /// last before `since` are left out.
    pub(super) fn open(log: &Path, lines: Option<u64>, since: Option<Timestamp>) -> io::Result<Self> {
        let (mut file, old) = snapshot(log)?;
        let newest = old.last().map(|path| stem(path));
        let mut next: VecDeque<PathBuf> = old.into_iter().filter(|path| !is_older(path, since)).collect();
        let mut start = 0;
        let mut reading: Option<Reading> = None;
        if let Some(lines) = lines {
            let mut missing;
            (start, missing) = tail_start(&mut file, lines)?;
            let mut kept = VecDeque::new();
            while missing > 0 {
                let Some(path) = next.pop_back() else { break };
                // One that is removed at this moment is one of the oldest.
                let Ok((tail, left)) = open_tail(&path, missing) else { break };
                if let Some(passed) = reading.replace(tail) {
                    drop(passed);
                }
                kept.push_front(path);
                missing = left;
            }
            // The first of them is open already.
            kept.pop_front();
            next = kept;
        }
        let mut files = Self {
            log: log.to_owned(),
            reading: Box::new(io::empty()),
            next,
            last: Some((file, start)),
            own: None,
            newest,
        };
        match reading {
            Some(reading) => files.reading = reading,
            None => {
                files.advance()?;
            }
        }
        Ok(files)
    }

    pub(super) fn read_line(&mut self, line: &mut Vec<u8>) -> io::Result<usize> {
        self.reading.read_until(b'\n', line)
    }

    /// Whether the file being read will not grow: it has been rotated, and its writer has gone on to another.
    pub(super) fn is_final(&self) -> bool {
        match self.own {
            None => true,
            Some(own) => std::fs::metadata(&self.log).is_ok_and(|now| (now.dev(), now.ino()) != own),
        }
    }

    pub(super) fn is_last(&self) -> bool {
        self.own.is_some()
    }

    /// Goes on to the next file.
    pub(super) fn advance(&mut self) -> io::Result<()> {
        while let Some(path) = self.next.pop_front() {
            // Removed, or compressed, since the list was made.
            let opened = open(&path).or_else(|_| open(&compressed(&path)));
            if let Ok(reading) = opened {
                (self.reading, self.own) = (reading, None);
                return Ok(());
            }
        }
        if let Some((mut file, start)) = self.last.take() {
            file.seek(SeekFrom::Start(start))?;
            let metadata = file.metadata()?;
            self.own = Some((metadata.dev(), metadata.ino()));
            self.reading = Box::new(BufReader::with_capacity(BLOCK, file));
            return Ok(());
        }
        // Past the last: what was written since, beginning behind what the last became.
        let (file, old) = snapshot(&self.log)?;
        let known = self.newest.take();
        let newer = old.iter().filter(|path| known.as_ref().is_none_or(|known| stem(path) > *known));
        self.next = newer.skip(1).cloned().collect();
        self.newest = old.last().map(|path| stem(path));
        self.last = Some((file, 0));
        self.own = None;
        self.advance()
    }
}

/// The file being written, and those it was rotated into before.
fn snapshot(log: &Path) -> io::Result<(File, Vec<PathBuf>)> {
    loop {
        let file = File::open(log)?;
        let old = rotated(log)?;
        let own = file.metadata()?;
        // Rotated between the two: it would be in both.
        if std::fs::metadata(log).is_ok_and(|now| (now.dev(), now.ino()) == (own.dev(), own.ino())) {
            return Ok((file, old));
        }
    }
}

fn is_older(path: &Path, since: Option<Timestamp>) -> bool {
    let written = path.metadata().map(|metadata| metadata.mtime());
    since.is_some_and(|since| written.is_ok_and(|written| written < since.as_second()))
}

fn compressed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

fn open(path: &Path) -> io::Result<Reading> {
    let file = File::open(path)?;
    Ok(match is_compressed(path) {
        true => Box::new(BufReader::with_capacity(BLOCK, MultiGzDecoder::new(BufReader::new(file)))),
        false => Box::new(BufReader::with_capacity(BLOCK, file)),
    })
}

/// Opens a rotated file where its last `lines` lines begin; says how many of them it does not have.
fn open_tail(path: &Path, lines: u64) -> io::Result<(Reading, u64)> {
    if !is_compressed(path) {
        let mut file = File::open(path)?;
        let (start, missing) = tail_start(&mut file, lines)?;
        file.seek(SeekFrom::Start(start))?;
        return Ok((Box::new(BufReader::with_capacity(BLOCK, file)), missing));
    }
    // Compressed files are read from the front alone: once to count, once to skip.
    let is_full = |line: &[u8]| parse(line).is_some_and(|entry| entry.full);
    let (mut counted, mut line, mut reading) = (0_u64, Vec::new(), open(path)?);
    while reading.read_until(b'\n', &mut line)? > 0 {
        counted += u64::from(is_full(&line));
        line.clear();
    }
    let mut skip = counted.saturating_sub(lines);
    let mut reading = open(path)?;
    while skip > 0 && reading.read_until(b'\n', &mut line)? > 0 {
        skip -= u64::from(is_full(&line));
        line.clear();
    }
    Ok((reading, lines.saturating_sub(counted)))
}

/// Where the last `lines` lines begin, and how many of them there are not. Reads backwards; entries marked as parts belong
/// to the line that follows them.
fn tail_start(file: &mut File, lines: u64) -> io::Result<(u64, u64)> {
    let size = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok((size, 0));
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
                    return Ok((start + end as u64 + 1, 0));
                }
                wanted -= 1;
            }
            end_of_entry = Some(index);
        }
        if start == 0 {
            let first = end_of_entry.and_then(|end| parse(&tail[..end]));
            let full = first.is_some_and(|entry| entry.full);
            return Ok(match (wanted, full) {
                (0, true) => (end_of_entry.map_or(0, |end| end as u64 + 1), 0),
                (wanted, full) => (0, wanted - u64::from(full)),
            });
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
