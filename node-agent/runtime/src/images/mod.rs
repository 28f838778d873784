//! Images: pulled from registries or found in OCI layouts and archives, verified, unpacked once, mounted for each container.
//!
//! A source is a directory or an archive (tar, tar.gz) in the OCI image layout; an image in it is found by the
//! annotation `org.opencontainers.image.ref.name` (or containerd's `io.containerd.image.name`). What is needed from it is
//! copied into a content-addressed store, so that a source may vanish afterwards. Each digest is checked on the way:
//! manifest, config, each layer, and each layer's diff_id after decompression.
//!
//! What no source has comes from its registry, over a blocking HTTP client: a pull is a few threads that end with it, and
//! no async runtime. Whoever starts one may watch it and end it ([`Progress`]).

mod archive;
mod claims;
pub(crate) mod collect;
mod digest;
mod entries;
mod layers;
mod layout;
mod limits;
mod manifest;
mod progress;
mod reference;
mod registry;
pub(crate) mod snapshot;
mod store;
mod unpack;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use collect::{Collected, CollectionPolicy};
pub use limits::LayerLimits;
pub use progress::{Progress, Stage};
pub use registry::{Keyring, KeyringError, RegistryError, RegistrySettings};
pub use store::{Effort, ImageStore, Pulled};

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("invalid image reference {reference:?}: {problem}")]
    InvalidName { reference: String, problem: &'static str },
    #[error(
        "image {reference:?} was not found in any image source (searched: {searched}), and no registry is asked"
    )]
    NotFound { reference: String, searched: String },
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(
        "image {reference:?} has a manifest of Docker's schema 1, which is not supported; push it again with a client of \
         this decade: skopeo copy --format v2s2"
    )]
    SchemaOne { reference: String },
    /// It was removed between being found and being used.
    #[error("image {reference:?} was collected a moment ago; it is pulled again")]
    Collected { reference: String },
    #[error("image {reference:?} is not present on the node and imagePullPolicy is Never")]
    NeverPull { reference: String },
    #[error("image {reference:?} has no variant for {platform} (it offers: {offered})")]
    NoPlatform { reference: String, platform: String, offered: String },
    #[error("{what} has digest {actual}, expected {expected}")]
    DigestMismatch { what: String, expected: String, actual: String },
    #[error("{what} is malformed: {problem}")]
    Malformed { what: String, problem: String },
    #[error("layer {digest}: entry {entry:?} refused: {problem}")]
    Refused { digest: String, entry: String, problem: String },
    #[error("layer {digest} is too large: unpacked it has {excess}")]
    TooLarge { digest: String, excess: String },
    #[error("image source {path}: {problem}")]
    BadSource { path: PathBuf, problem: String },
    #[error("cannot {operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

impl ImageError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidName { .. } => "InvalidImageName",
            Self::NeverPull { .. } => "ErrImageNeverPull",
            _ => "ErrImagePull",
        }
    }
}

/// Kubernetes' `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

/// A resolved image, ready to run: everything of it lies in the store, unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// As asked for.
    pub reference: String,
    /// Digest of the manifest, `sha256:…`.
    pub digest: String,
    pub config: ImageConfig,
    /// The layers' diff_ids, lowest first.
    pub layers: Vec<String>,
    /// Bytes of the layers as they are in the source, as in a node's `status.images`.
    pub size: u64,
}

/// What an image says about running it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    pub stop_signal: Option<String>,
    /// Paths the image declares as volumes.
    pub volumes: Vec<String>,
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Io { operation, path, source }
}
