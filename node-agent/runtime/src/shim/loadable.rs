//! Copies as much of a program's file as the kernel loads.
//!
//! Symbols and lines for debuggers lie behind it and are most of the file. A copy in memory needs none of that: it would be
//! memory that nobody reads.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;

/// Where an ELF file of 64 bits has what, by the System V ABI.
const HEADER: usize = 64;
const SECTIONS_OFFSET: Range<usize> = 40..48;
const SECTIONS_COUNT_AND_NAMES: Range<usize> = 60..64;
/// Magic number, 64 bits, little-endian.
const IDENTITY: &[u8] = b"\x7fELF\x02\x01";
/// Header and table of segments are in the first page of every program that a linker has made.
const HEAD: u64 = 4096;

/// Appends the file as far as its segments go, with no word of sections behind them; whole where it is of another kind.
pub(super) fn copy(mut source: &File, target: &mut File) -> io::Result<()> {
    let mut head = Vec::new();
    source.by_ref().take(HEAD).read_to_end(&mut head)?;
    let Some(length) = loaded_length(&head).filter(|length| *length > head.len() as u64) else {
        io::copy(&mut head.as_slice(), target)?;
        return io::copy(&mut source, target).map(drop);
    };
    head[SECTIONS_OFFSET].fill(0);
    head[SECTIONS_COUNT_AND_NAMES].fill(0);
    let rest = length - head.len() as u64;
    io::copy(&mut head.as_slice(), target)?;
    // One that is shorter than it says is the kernel's to judge.
    io::copy(&mut source.take(rest), target).map(drop)
}

/// Up to the end of the last segment; nothing where `head` is not the beginning of a program.
fn loaded_length(head: &[u8]) -> Option<u64> {
    if !head.starts_with(IDENTITY) {
        return None;
    }
    let (table, size, count) = (long(head, 32)?, short(head, 54)?, short(head, 56)?);
    let mut length = HEADER as u64;
    for index in 0..count {
        let segment = usize::try_from(table.checked_add(size * index)?).ok()?;
        let (offset, bytes) = (long(head, segment.checked_add(8)?)?, long(head, segment.checked_add(32)?)?);
        length = length.max(offset.checked_add(bytes)?);
    }
    Some(length)
}

fn long(head: &[u8], at: usize) -> Option<u64> {
    let bytes = head.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

fn short(head: &[u8], at: usize) -> Option<u64> {
    let bytes = head.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?).into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn copied(bytes: &[u8]) -> Vec<u8> {
        let directory = tempfile::tempdir().expect("a directory");
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        File::create(&from).and_then(|mut file| file.write_all(bytes)).expect("a file");
        let mut target = File::create(&to).expect("a file");
        copy(&File::open(&from).expect("the file"), &mut target).expect("copied");
        fs::read(&to).expect("the copy")
    }

    #[test]
    fn a_program_loses_what_is_behind_its_segments() {
        let whole = fs::read("/proc/self/exe").expect("this program");
        let cut = copied(&whole);
        assert!(cut.len() < whole.len(), "{} of {} bytes are left", cut.len(), whole.len());
        assert_eq!(cut[HEADER..], whole[HEADER..cut.len()]);
        assert_eq!(copied(&cut), cut, "once is enough");
    }

    #[test]
    fn what_is_no_program_stays_whole() {
        let whole = fs::read("/proc/self/exe").expect("this program");
        let mut liar = whole[..8192].to_vec();
        // Its table of segments is said to be where nothing is.
        liar[32..40].fill(0xff);
        for file in [b"#!/bin/sh\n".to_vec(), Vec::new(), IDENTITY.to_vec(), liar, vec![7; 10_000]] {
            assert_eq!(copied(&file), file);
        }
    }
}
