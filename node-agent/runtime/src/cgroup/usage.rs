//! What a control group uses, read from its own files: three of them, where a library would read twenty.
//!
//! Working set is what the kubelet means by it: usage without inactive file pages, which the kernel gives back first.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{CgroupError, Hierarchies};

/// Version 1 says "no limit" by a number near this.
const NO_LIMIT: u64 = 1 << 62;

/// Of a container or a pod, everything below included. Zero where the node has no such controller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Since the group was made.
    pub cpu: Duration,
    /// Bytes, as all that follow.
    pub memory: u64,
    pub memory_working_set: u64,
    pub memory_rss: u64,
    pub memory_limit: Option<u64>,
    pub page_faults: u64,
    pub major_page_faults: u64,
}

impl Hierarchies {
    /// None when there is no such group.
    pub(crate) fn usage(&self, cgroup: &str) -> Option<Usage> {
        let unified = self.unified_dir(cgroup);
        let cpu = match &self.cpuacct {
            Some(root) => Duration::from_nanos(number(&root.join(cgroup).join("cpuacct.usage"))?),
            None => {
                let stat = fs::read_to_string(unified.as_ref()?.join("cpu.stat")).ok()?;
                Duration::from_micros(field(&stat, "usage_usec"))
            }
        };
        let usage = self.memory_of(cgroup)?;
        Some(Usage { cpu, ..usage })
    }

    /// What `usage` says of memory; CPU stays zero.
    fn memory_of(&self, cgroup: &str) -> Option<Usage> {
        let unified = self.unified_dir(cgroup);
        let (inactive, usage) = match &self.memory {
            Some(root) => {
                let dir = root.join(cgroup);
                let stat = fs::read_to_string(dir.join("memory.stat")).ok()?;
                let limit = number(&dir.join("memory.limit_in_bytes"));
                let usage = Usage {
                    memory: number(&dir.join("memory.usage_in_bytes"))?,
                    memory_rss: field(&stat, "total_rss"),
                    memory_limit: limit.filter(|limit| *limit < NO_LIMIT),
                    page_faults: field(&stat, "total_pgfault"),
                    major_page_faults: field(&stat, "total_pgmajfault"),
                    ..Usage::default()
                };
                (field(&stat, "total_inactive_file"), usage)
            }
            None => {
                let dir = unified?;
                let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
                let usage = Usage {
                    memory: number(&dir.join("memory.current")).unwrap_or(0),
                    memory_rss: field(&stat, "anon"),
                    memory_limit: number(&dir.join("memory.max")),
                    page_faults: field(&stat, "pgfault"),
                    major_page_faults: field(&stat, "pgmajfault"),
                    ..Usage::default()
                };
                (field(&stat, "inactive_file"), usage)
            }
        };
        Some(Usage { memory_working_set: usage.memory.saturating_sub(inactive), ..usage })
    }
}

/// A control group that others made, such as the node's own.
#[derive(Debug, Clone)]
pub struct Group {
    hierarchies: Hierarchies,
    path: String,
}

/// Of a group and all below it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupMemory {
    pub working_set: u64,
    pub limit: Option<u64>,
}

impl Group {
    /// `path` is relative to each hierarchy's root; whether the group is there shows when it is read.
    pub fn at(path: &str) -> Result<Self, CgroupError> {
        Ok(Self { hierarchies: Hierarchies::detect()?, path: path.trim_matches('/').to_owned() })
    }

    /// Processes and threads of the group and all below it, and how many there may be. None where there is no limit.
    pub fn tasks(&self) -> Option<(u64, u64)> {
        self.hierarchies
            .dirs(&self.path)
            .find_map(|dir| Some((number(&dir.join("pids.current"))?, number(&dir.join("pids.max"))?)))
    }

    /// None while there is no such group, or it does not count memory.
    pub fn memory(&self) -> Option<GroupMemory> {
        let usage = self.hierarchies.memory_of(&self.path)?;
        Some(GroupMemory { working_set: usage.memory_working_set, limit: usage.memory_limit })
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> u64 {
    let mut values = text.lines().filter_map(|line| line.split_once(' '));
    let value = values.find(|(known, _)| *known == name).and_then(|(_, value)| value.trim().parse().ok());
    value.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let stat = "inactive_file 7\ntotal_inactive_file 12\nanon 3\n";
        assert_eq!(field(stat, "inactive_file"), 7);
        assert_eq!(field(stat, "total_inactive_file"), 12);
        assert_eq!(field(stat, "file"), 0);
    }
}
