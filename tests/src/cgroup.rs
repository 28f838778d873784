//! A cgroup of the test's own, for programs that go by the cgroup of a process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::wait;

/// A directory of the machine's cgroup2 hierarchy; dropping it removes it, once the last process has left.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    pub fn create() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = hierarchy().join(format!("weir-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a cgroup");
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has just been waited for may be leaving still.
        let what = format!("remove {}", self.path.display());
        let removed = wait::until(&what, Duration::from_secs(5), || Ok(fs::remove_dir(&self.path)?));
        if let Err(error) = removed {
            eprintln!("{error:#}");
        }
    }
}

fn hierarchy() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = fields.find(|fields| fields[2] == "cgroup2").expect("a cgroup2 hierarchy");
    PathBuf::from(mount[1])
}
