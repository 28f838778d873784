//! A place for pins: a bpf file system of the test's own.

use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A mounted bpffs; dropping it unmounts it, and with it go the pins.
#[derive(Debug)]
pub struct Bpffs {
    directory: tempfile::TempDir,
}

impl Bpffs {
    pub fn mount() -> Self {
        let directory = tempfile::Builder::new().prefix("weir-bpffs-").tempdir().expect("a directory");
        mount(Some("bpf"), directory.path(), Some("bpf"), MsFlags::empty(), None::<&str>).expect("a bpffs");
        Self { directory }
    }

    /// Where a node's pins go; it is not made yet.
    pub fn node(&self) -> PathBuf {
        self.directory.path().join("node")
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.directory.path(), MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.directory.path().display());
        }
    }
}
