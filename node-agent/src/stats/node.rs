//! The machine as a whole, from `/proc`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use nix::unistd::{SysconfVar, sysconf};
use weir_proto::weir::v1::FilesystemStats;
use weir_runtime::cgroup::Usage;

/// Time that the CPUs were not idle, since boot.
pub(super) fn cpu() -> Duration {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    Duration::from_millis(busy_ticks(&text) * 1000 / ticks.unwrap_or(100).max(1))
}

/// user, nice, system, idle, iowait, irq, softirq, steal; guests' time is in user's.
fn busy_ticks(stat: &str) -> u64 {
    let line = stat.lines().next().unwrap_or_default();
    let fields = line.split_whitespace().skip(1).take(8).enumerate();
    fields
        .filter(|(index, _)| !matches!(index, 3 | 4))
        .filter_map(|(_, field)| field.parse::<u64>().ok())
        .sum()
}

pub(super) fn usage() -> Usage {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes: u64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        kilobytes * 1024
    };
    let (total, free) = (bytes("MemTotal"), bytes("MemFree"));
    let memory = total.saturating_sub(free);
    let faults = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = |name: &str| {
        let found = faults.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.and_then(|count| count.parse().ok()).unwrap_or(0)
    };
    Usage {
        cpu: cpu(),
        memory,
        memory_working_set: memory.saturating_sub(bytes("Inactive(file)")),
        memory_rss: bytes("AnonPages"),
        memory_limit: Some(total),
        page_faults: count("pgfault"),
        major_page_faults: count("pgmajfault"),
    }
}

/// Bytes of memory that could still be given out, and all there are. As the kubelet counts: all but the working set.
pub(crate) fn memory() -> (u64, u64) {
    let usage = usage();
    let capacity = usage.memory_limit.unwrap_or(0);
    (capacity.saturating_sub(usage.memory_working_set), capacity)
}

/// The file system that holds `path`.
pub(super) fn filesystem(path: &Path) -> Option<FilesystemStats> {
    let found = statvfs(path).ok()?;
    let size = found.fragment_size();
    Some(FilesystemStats {
        capacity_bytes: found.blocks() * size,
        available_bytes: found.blocks_available() * size,
        used_bytes: (found.blocks() - found.blocks_free()) * size,
        inodes: found.files(),
        inodes_free: found.files_free(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_cpus_are_not_busy() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 9 9 9"), 63);
        assert_eq!(busy_ticks(""), 0);
    }
}
