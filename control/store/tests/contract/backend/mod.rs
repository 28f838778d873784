//! Stores to test with: the embedded one in a directory of its own, and a real etcd on loopback.

mod etcd;

use std::sync::Arc;

use tempfile::TempDir;
use weir_store::{Store, embedded};

pub(crate) use etcd::EtcdServer;

/// An embedded store in a directory that vanishes with it.
pub(crate) struct Embedded {
    store: Arc<dyn Store>,
    _directory: TempDir,
}

impl Embedded {
    pub(crate) fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let store = embedded::open(directory.path().join("weir.store")).unwrap();
        Self { store: Arc::new(store), _directory: directory }
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }
}
