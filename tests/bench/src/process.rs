//! What a process has used, from `/proc`.

use std::fs;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

/// A process by its id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process(pub(crate) u32);

/// Bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// The most that was ever resident.
    pub(crate) peak: u64,
}

/// What of a process's memory is in use, in bytes, from `smaps_rollup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Mapped {
    /// All of it, what it shares with others included.
    pub(crate) resident: u64,
    /// With a fair share of what others have too.
    pub(crate) proportional: u64,
    /// What nobody else has: it would be free if the process ended.
    pub(crate) private: u64,
    /// Of that, what it has written itself: not the clean pages of its program.
    pub(crate) private_dirty: u64,
}

impl Process {
    pub(crate) fn this() -> Self {
        Self(std::process::id())
    }

    /// Seconds of CPU, user and system, of all its threads so far.
    pub(crate) fn cpu(self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.0);
        let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let ticks = ticks(&stat).with_context(|| format!("{path} is not as expected: {stat}"))?;
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the length of a clock tick is not known")?;
        Ok(ticks as f64 / per_second as f64)
    }

    pub(crate) fn memory(self) -> Result<Memory> {
        let path = format!("/proc/{}/status", self.0);
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let bytes = |field| kibibytes(&status, field).map(|amount| amount << 10);
        let memory = bytes("VmRSS").zip(bytes("VmHWM"));
        let (resident, peak) = memory.with_context(|| format!("{path} tells no memory"))?;
        Ok(Memory { resident, peak })
    }

    pub(crate) fn mapped(self) -> Result<Mapped> {
        let path = format!("/proc/{}/smaps_rollup", self.0);
        let rollup = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        mapped(&rollup).with_context(|| format!("{path} is not as expected"))
    }
}

fn mapped(rollup: &str) -> Option<Mapped> {
    let bytes = |field| kibibytes(rollup, field).map(|amount| amount << 10);
    let private_dirty = bytes("Private_Dirty")?;
    Some(Mapped {
        resident: bytes("Rss")?,
        proportional: bytes("Pss")?,
        private: bytes("Private_Clean")? + private_dirty,
        private_dirty,
    })
}

/// utime and stime, the 14th and 15th fields; the second, the name in brackets, may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

fn kibibytes(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_does_not_confuse() {
        let stat = "7 (a) R 2 (b)) S 1 7 7 0 -1 4194304 100 0 0 0 25 17 0 0 20 0 4 0 1 2 3";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn memory_is_read_from_its_line() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!((kibibytes(status, "VmRSS"), kibibytes(status, "VmHWM")), (Some(1024), Some(2048)));
        assert_eq!(kibibytes(status, "VmSwap"), None);
    }

    #[test]
    fn private_memory_is_the_clean_and_the_written() {
        let rollup =
            "0-f ---p 0 00:00 0 [rollup]\nRss: 90 kB\nPss: 50 kB\nPrivate_Clean: 3 kB\nPrivate_Dirty: 4 kB\n";
        let found = mapped(rollup).unwrap();
        assert_eq!((found.resident, found.private, found.private_dirty), (90 << 10, 7 << 10, 4 << 10));
        assert_eq!(mapped("Rss: 90 kB"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let memory = Process::this().memory().unwrap();
        assert!(memory.peak >= memory.resident && memory.resident > 0);
        Process::this().cpu().unwrap();
    }
}
