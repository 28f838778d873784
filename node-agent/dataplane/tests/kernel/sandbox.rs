//! What a dataplane needs besides a network namespace: a bpffs and a cgroup, both gone when the guard is.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::Uid;
use weir_dataplane::{Config, Dataplane, Error};

/// Whether kernel tests can run here. Prints why not, and fails where that is not accepted.
pub(crate) fn is_ready() -> bool {
    let reason = if !Uid::effective().is_root() {
        "not root"
    } else if !is_built() {
        "no eBPF object: run `cargo xtask ebpf`"
    } else {
        return true;
    };
    let is_required = ["CI", "WEIR_REQUIRE_ROOT"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!is_required, "cannot run kernel tests: {reason}");
    // Past the capture of the test harness, which would hide it.
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
    false
}

fn is_built() -> bool {
    let nowhere = Config {
        bpffs: PathBuf::from("/proc/no-bpffs"),
        cgroup: PathBuf::from("/"),
        uplink: 0,
        node_addresses: Vec::new(),
        xdp: weir_dataplane::XdpMode::Off,
        sizes: weir_dataplane::Sizes::default(),
    };
    !matches!(Dataplane::open(&nowhere), Err(Error::NotBuilt))
}

/// A mounted bpffs.
#[derive(Debug)]
pub(crate) struct Bpffs {
    directory: tempfile::TempDir,
}

impl Bpffs {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("weir-bpffs-").tempdir().unwrap();
        mount(Some("bpf"), directory.path(), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        Self { directory }
    }

    /// Where a node's pins go.
    pub(crate) fn node(&self) -> PathBuf {
        self.directory.path().join("node")
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.directory.path(), MntFlags::MNT_DETACH) {
            println!("cannot unmount {}: {error}", self.directory.path().display());
        }
    }
}

/// A directory of the machine's cgroup2 hierarchy.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = hierarchy().join(format!("weir-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has just been waited for may be leaving still.
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Err(error) = fs::remove_dir(&self.path) {
            if Instant::now() > deadline {
                println!("cannot remove {}: {error}", self.path.display());
                return;
            }
            std::thread::yield_now();
        }
    }
}

fn hierarchy() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.find(|fields| fields[2] == "cgroup2").map(|fields| PathBuf::from(fields[1])).unwrap()
}
