//! Where cgroup hierarchies are mounted, and what is done alike in all of them: kill, remove, read.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::CgroupError;

/// How long killed processes may take to leave their groups.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// The hierarchies mounted below `/sys/fs/cgroup`.
#[derive(Debug, Clone)]
pub(crate) struct Hierarchies {
    /// Mount points of version 1 hierarchies, named ones included.
    v1: Vec<PathBuf>,
    /// Mount point of the cgroup2 hierarchy.
    unified: Option<PathBuf>,
    pub(super) memory: Option<PathBuf>,
    pub(super) cpuacct: Option<PathBuf>,
    hugetlb: bool,
}

impl Hierarchies {
    pub(crate) fn detect() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let mounts = fs::read_to_string(path).map_err(io_error("read", path))?;
        let mut found = Self::from_mountinfo(&mounts);
        if found.v1.is_empty() && found.unified.is_none() {
            return Err(CgroupError::NoHierarchy);
        }
        // On hybrid hosts limits are set in the version 1 hierarchies alone.
        if let Some(root) = found.unified.as_ref().filter(|_| found.v1.is_empty()) {
            let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            found.hugetlb |= controllers.split_whitespace().any(|name| name == "hugetlb");
        }
        Ok(found)
    }

    fn from_mountinfo(mounts: &str) -> Self {
        let mut found = Self { v1: Vec::new(), unified: None, memory: None, cpuacct: None, hugetlb: false };
        for line in mounts.lines() {
            let Some((head, tail)) = line.split_once(" - ") else { continue };
            let Some(point) = head.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut tail = tail.split(' ');
            let (kind, options) = (tail.next().unwrap_or(""), tail.nth(1).unwrap_or(""));
            if !point.starts_with("/sys/fs/cgroup") {
                continue;
            }
            match kind {
                "cgroup2" => found.unified = found.unified.or(Some(point)),
                "cgroup" => {
                    let has = |name: &str| options.split(',').any(|option| option == name);
                    if has("memory") {
                        found.memory = Some(point.clone());
                    }
                    found.hugetlb |= has("hugetlb");
                    if has("cpuacct") {
                        found.cpuacct = Some(point.clone());
                    }
                    found.v1.push(point);
                }
                _ => {}
            }
        }
        found
    }

    /// Version 2 alone, controllers included.
    pub(crate) fn is_pure_v2(&self) -> bool {
        self.v1.is_empty()
    }

    pub(crate) fn limits_huge_pages(&self) -> bool {
        self.hugetlb
    }

    pub(crate) fn v1_mount_points(&self) -> &[PathBuf] {
        &self.v1
    }

    /// `cgroup` in the cgroup2 hierarchy.
    pub(crate) fn unified_dir(&self, cgroup: &str) -> Option<PathBuf> {
        Some(self.unified.as_ref()?.join(cgroup))
    }

    /// `cgroup` in every hierarchy.
    pub(crate) fn dirs(&self, cgroup: &str) -> impl Iterator<Item = PathBuf> {
        self.v1.iter().chain(&self.unified).map(move |root| root.join(cgroup))
    }

    /// Lets groups below `cgroup` have what it has of version 2's controllers. libcontainer does so only for groups whose
    /// directory it makes itself, and the container's is there already when devices have been denied to it.
    pub(crate) fn delegate(&self, cgroup: &str) -> Result<(), CgroupError> {
        let Some(dir) = self.unified_dir(cgroup) else { return Ok(()) };
        let path = dir.join("cgroup.controllers");
        let controllers = fs::read_to_string(&path).map_err(io_error("read", &path))?;
        let path = dir.join("cgroup.subtree_control");
        for controller in controllers.split_whitespace() {
            fs::write(&path, format!("+{controller}")).map_err(io_error("write", &path))?;
        }
        Ok(())
    }

    /// How often the out-of-memory killer struck in `cgroup`. To be read before the group is removed; the counters of
    /// parent groups stay 0 on version 1.
    pub(crate) fn oom_kills(&self, cgroup: &str) -> u64 {
        let path = match &self.memory {
            Some(memory) => memory.join(cgroup).join("memory.oom_control"),
            None => match self.unified_dir(cgroup) {
                Some(dir) => dir.join("memory.events"),
                None => return 0,
            },
        };
        let text = fs::read_to_string(path).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// How many processes are in `cgroup` and below it.
    pub(crate) fn count(&self, cgroup: &str) -> usize {
        self.unified_dir(cgroup).map_or(0, |dir| processes(&dir).len())
    }

    /// Kills every process in `cgroup` and below it and waits until they have left.
    pub(crate) fn kill(&self, cgroup: &str) -> Result<(), CgroupError> {
        let deadline = Instant::now() + KILL_DEADLINE;
        loop {
            if let Some(dir) = self.unified_dir(cgroup) {
                // Atomic against forks. A missing directory has no processes.
                let _ = fs::write(dir.join("cgroup.kill"), "1");
            }
            let mut occupied = None;
            for dir in self.dirs(cgroup) {
                for pid in processes(&dir) {
                    // Not ours to judge why it fails: the next round looks again.
                    let _ = kill(pid, Signal::SIGKILL);
                    occupied = Some(dir.clone());
                }
            }
            match occupied {
                None => return Ok(()),
                Some(path) if Instant::now() > deadline => return Err(CgroupError::Unkillable { path }),
                Some(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Removes `cgroup` and what is below it from all hierarchies.
    pub(crate) fn remove(&self, cgroup: &str) -> Result<(), CgroupError> {
        self.dirs(cgroup).try_for_each(|dir| remove_tree(&dir))
    }

    /// Removes `cgroup`'s parents as far as they are empty: on version 1 all of them, in the cgroup2 hierarchy up to and
    /// including `top`, because eBPF programs are attached further up and would go with the directory.
    pub(crate) fn prune_parents(&self, cgroup: &str, top: &str) {
        for parent in Path::new(cgroup).ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()) {
            for root in &self.v1 {
                // Not empty is the expected failure; what is left for another reason is found by the next removal.
                let _ = fs::remove_dir(root.join(parent));
            }
            if let Some(root) = self.unified.as_ref().filter(|_| parent.starts_with(top)) {
                let _ = fs::remove_dir(root.join(parent));
            }
        }
    }
}

/// The processes in `dir` and all directories below it.
fn processes(dir: &Path) -> BTreeSet<Pid> {
    let own = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut found: BTreeSet<Pid> =
        own.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).map(Pid::from_raw).collect();
    for child in children(dir) {
        found.extend(processes(&child));
    }
    found
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// A group stays busy for a moment after its last process was reaped.
fn remove_tree(dir: &Path) -> Result<(), CgroupError> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        for child in children(dir) {
            remove_tree(&child)?;
        }
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(io_error("remove", dir)(error)),
        }
    }
}

pub(super) fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Io { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_and_pure_hosts_are_told_apart() {
        let hybrid = "30 25 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      31 25 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      33 25 0:28 / /somewhere/else rw - cgroup2 cgroup2 rw\n";
        let found = Hierarchies::from_mountinfo(hybrid);
        assert!(!found.is_pure_v2());
        assert_eq!(found.memory.as_deref(), Some(Path::new("/sys/fs/cgroup/memory")));
        assert_eq!(found.v1.len(), 2);
        assert_eq!(found.unified_dir("a/b"), Some("/sys/fs/cgroup/unified/a/b".into()));

        let pure = Hierarchies::from_mountinfo("30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert!(pure.is_pure_v2());
        assert_eq!(pure.unified_dir("a"), Some("/sys/fs/cgroup/a".into()));
    }
}
