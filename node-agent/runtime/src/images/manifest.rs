//! Indexes, manifests and configs: from a descriptor to the image of this platform, whatever keeps the documents.
//!
//! OCI's and Docker's second schema are the same to this module: which document is which is told by what it holds.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::digest::Digest;
use super::{ImageConfig, ImageError};

/// Largest manifest, index or config that is read. Those of real images are a few kilobytes.
pub(super) const DOCUMENT_LIMIT: u64 = 4 << 20;
/// How deep indexes may nest.
const INDEX_DEPTH: usize = 4;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// An index or a manifest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    schema_version: Option<u32>,
    pub(super) manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

#[derive(Debug, Deserialize)]
struct ConfigDocument {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    config: Option<ConfigFields>,
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigFields {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// An image found: its manifest's digest, and what the manifest and config say.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) digest: Digest,
    pub(super) config: ImageConfig,
    /// Lowest first: the blob, and the digest of what it decompresses to.
    pub(super) layers: Vec<(Descriptor, Digest)>,
}

/// What a document is fetched as: registries keep manifests and blobs under different paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Manifest,
    Config,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Config => "image config",
        }
    }
}

/// Whatever keeps documents. What it gives is not trusted: [`load`] checks every digest.
pub(super) trait Documents {
    fn read(&self, descriptor: &Descriptor, kind: Kind) -> Result<Vec<u8>, ImageError>;
}

/// The image behind `descriptor`: through indexes to the manifest of this platform, and its config.
pub(super) fn load(
    documents: &impl Documents,
    reference: &str,
    descriptor: Descriptor,
) -> Result<Found, ImageError> {
    let bytes = documents.read(&descriptor, Kind::Manifest)?;
    descend(documents, reference, descriptor.digest, &bytes, INDEX_DEPTH)
}

/// As [`load`], of a manifest or index that is at hand.
pub(super) fn load_from(
    documents: &impl Documents,
    reference: &str,
    digest: Digest,
    bytes: &[u8],
) -> Result<Found, ImageError> {
    descend(documents, reference, digest, bytes, INDEX_DEPTH)
}

fn descend(
    documents: &impl Documents,
    reference: &str,
    digest: Digest,
    bytes: &[u8],
    depth: usize,
) -> Result<Found, ImageError> {
    let document: Document = verified(bytes, &digest, Kind::Manifest)?;
    if document.schema_version == Some(1) {
        return Err(ImageError::SchemaOne { reference: reference.to_owned() });
    }
    if let Some(manifests) = document.manifests {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(malformed(format!("index {digest}"), "indexes nest too deep"));
        };
        let variant = choose(reference, manifests)?;
        let bytes = documents.read(&variant, Kind::Manifest)?;
        return descend(documents, reference, variant.digest, &bytes, depth);
    }
    let (Some(config), Some(layers)) = (document.config, document.layers) else {
        return Err(malformed(
            format!("manifest {digest}"),
            "it has neither manifests nor config and layers",
        ));
    };
    let bytes = documents.read(&config, Kind::Config)?;
    let config: ConfigDocument = verified(&bytes, &config.digest, Kind::Config)?;
    if !config.architecture.is_empty() && !is_this_platform(&config.os, &config.architecture) {
        return Err(ImageError::NoPlatform {
            reference: reference.to_owned(),
            platform: this_platform(),
            offered: format!("{}/{}", config.os, config.architecture),
        });
    }
    if config.rootfs.diff_ids.len() != layers.len() {
        let what = format!("manifest {digest}");
        return Err(malformed(what, "it has another number of layers than its config has diff_ids"));
    }
    Ok(Found {
        digest,
        config: config.config.unwrap_or_default().into(),
        layers: layers.into_iter().zip(config.rootfs.diff_ids).collect(),
    })
}

/// Docker's first schema, told before its digest is looked at: that is of the manifest without its signatures.
pub(super) fn is_schema_one(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Document>(bytes).is_ok_and(|document| document.schema_version == Some(1))
}

fn verified<T: for<'de> Deserialize<'de>>(
    bytes: &[u8],
    digest: &Digest,
    kind: Kind,
) -> Result<T, ImageError> {
    let what = format!("{} {digest}", kind.name());
    digest.check(&Digest::of(bytes), &what)?;
    parse(bytes, &what)
}

impl From<ConfigFields> for ImageConfig {
    fn from(fields: ConfigFields) -> Self {
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        Self {
            entrypoint: fields.entrypoint.unwrap_or_default(),
            cmd: fields.cmd.unwrap_or_default(),
            env: fields.env.unwrap_or_default(),
            working_dir: filled(fields.working_dir),
            user: filled(fields.user),
            stop_signal: filled(fields.stop_signal),
            volumes: fields.volumes.unwrap_or_default().into_keys().collect(),
        }
    }
}

fn choose(reference: &str, manifests: Vec<Descriptor>) -> Result<Descriptor, ImageError> {
    let mut offered = Vec::new();
    for manifest in manifests {
        match &manifest.platform {
            Some(platform) if !is_this_platform(&platform.os, &platform.architecture) => {
                offered.push(format!("{}/{}", platform.os, platform.architecture));
            }
            _ => return Ok(manifest),
        }
    }
    Err(ImageError::NoPlatform {
        reference: reference.to_owned(),
        platform: this_platform(),
        offered: offered.join(", "),
    })
}

/// The platform in Go's words, which OCI uses.
fn this_platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}

fn is_this_platform(os: &str, architecture: &str) -> bool {
    format!("{os}/{architecture}") == this_platform()
}

pub(super) fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8], what: &str) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| malformed(what.to_owned(), &error.to_string()))
}

pub(super) fn malformed(what: String, problem: &str) -> ImageError {
    ImageError::Malformed { what, problem: problem.to_owned() }
}
