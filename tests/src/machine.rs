//! A picture of everything on the machine that a cluster touches, to compare before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

/// What is on the machine, by kind, as sorted names.
#[derive(Debug, PartialEq, Eq)]
pub struct Picture {
    kinds: Vec<(&'static str, BTreeSet<String>)>,
}

impl Picture {
    /// Namespaces, links, mounts, cgroups, pins, processes of Weir and files below `directory`.
    pub fn take(directory: &Path) -> Result<Self> {
        Ok(Self {
            kinds: vec![
                ("network namespace", names_in(Path::new("/run/netns"))),
                ("link", links()?),
                ("mount", mounts()?),
                ("cgroup", below(Path::new("/sys/fs/cgroup"))),
                ("pin", below(Path::new("/sys/fs/bpf"))),
                ("process", processes()?),
                ("file", below(directory)),
            ],
        })
    }

    /// What this picture has that `before` has not, and the other way round, one a line; empty where they are equal.
    pub fn differences_from(&self, before: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for ((kind, now), (_, then)) in self.kinds.iter().zip(&before.kinds) {
            differences.extend(now.difference(then).map(|name| format!("new {kind}: {name}")));
            differences.extend(then.difference(now).map(|name| format!("lost {kind}: {name}")));
        }
        differences
    }
}

fn names_in(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Every directory and file below, by path; file systems of the kernel have no cycles.
fn below(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        // A cgroup's own files come and go with the cgroup.
        if is_directory {
            found.extend(below(&path));
        }
        if is_directory || !path.starts_with("/sys/fs/cgroup") {
            found.insert(path.display().to_string());
        }
    }
    found
}

fn links() -> Result<BTreeSet<String>> {
    let text = xtask::shell::output(Command::new("ip").args(["-o", "link"]))?;
    Ok(text.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned).collect())
}

fn mounts() -> Result<BTreeSet<String>> {
    let text = fs::read_to_string("/proc/self/mounts")?;
    Ok(text.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect())
}

/// Processes whose program is one of ours. The dead that nobody has collected yet are their parent's affair.
fn processes() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let (comm, status) = (read("comm"), read("status"));
        let comm = comm.trim();
        let ours = comm.starts_with("weir") || comm == "etcd" || comm == "echo";
        if ours && !status.contains("State:\tZ") {
            found.insert(format!("{} {comm}", entry.file_name().to_string_lossy()));
        }
    }
    Ok(found)
}
