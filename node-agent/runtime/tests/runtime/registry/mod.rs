//! Pulls: from a real registry (Debian's docker-registry), and from servers that only pretend to be one.

mod collection;
mod crashes;
mod misbehaviour;
mod pulls;
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weir_runtime::images::{Keyring, Progress, Pulled, RegistrySettings};
use weir_runtime::{ImageStore, PullPolicy};

use crate::fixture::{Compression, Layer, Layout};

/// A store, and what configures its registries.
pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn settings(&self) -> RegistrySettings {
        RegistrySettings {
            config_dir: Some(self.path("certs.d")),
            patience: Duration::from_secs(1),
            attempts: 3,
            first_delay: Duration::from_millis(1),
            ..RegistrySettings::default()
        }
    }

    pub(crate) fn store(&self) -> ImageStore {
        ImageStore::open(self.path("images"), vec![]).expect("a store").with_registries(self.settings())
    }

    /// Writes a registry's `hosts.toml`.
    pub(crate) fn configure(&self, registry: &str, text: &str) {
        let dir = self.path("certs.d").join(registry);
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("hosts.toml"), text).expect("a file");
    }

    pub(crate) fn allow_plain_http(&self, server: &server::Server) {
        self.configure(&server.address.to_string(), &format!("server = 'http://{}'", server.address));
    }

    pub(crate) fn unpacked(&self) -> usize {
        count(&self.path("images/layers"))
    }

    pub(crate) fn partial(&self) -> usize {
        count(&self.path("images/ingest/blobs"))
    }
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).expect("a directory").count()
}

pub(crate) fn pull(
    store: &ImageStore,
    image: &str,
    keyring: &Keyring,
) -> Result<Pulled, weir_runtime::images::ImageError> {
    store.pull(image, PullPolicy::Always, keyring, &Progress::default())
}

pub(crate) fn keyring(registry: &str, user: &str, password: &str) -> Keyring {
    let mut keyring = Keyring::default();
    let json = serde_json::json!({ "auths": { registry: { "username": user, "password": password } } });
    keyring.add_config_json(json.to_string().as_bytes()).expect("a keyring");
    keyring
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(size).collect()
}

/// An image of so many layers, each with one file of so many bytes.
pub(crate) fn image(path: PathBuf, layers: u64, size: usize) -> Layout {
    let layout = Layout::new(path);
    let layers: Vec<_> = (0..layers)
        .map(|number| Layer::new().file(&format!("file-{number}"), &noise(number + 1, size)).bytes())
        .collect();
    let image = layout.image(serde_json::json!({ "User": "web" }), &layers, Compression::Gzip);
    layout.index(&[("weir.test/image:v1", image)]);
    layout
}
