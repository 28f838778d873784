//! The OCI image layout: `index.json`, and blobs by digest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::digest::Digest;
use super::reference::Reference;
use super::{ImageConfig, ImageError, io_error};

/// Largest manifest, index or config that is read. Those of real images are a few kilobytes.
const DOCUMENT_LIMIT: u64 = 4 << 20;
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
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// An index or a manifest: which of the two is told by what it holds.
#[derive(Debug, Deserialize)]
struct Document {
    manifests: Option<Vec<Descriptor>>,
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

pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn open(root: PathBuf) -> Result<Self, ImageError> {
        let problem = if !root.is_dir() {
            "does not exist or is not a directory"
        } else if !root.join("index.json").is_file() {
            "is not an OCI image layout: it has no index.json"
        } else {
            return Ok(Self { root });
        };
        Err(ImageError::BadSource { path: root, problem: problem.to_owned() })
    }

    /// The image that answers to `reference`, with manifest and config verified.
    pub(super) fn find(&self, reference: &Reference) -> Result<Option<Found>, ImageError> {
        let path = self.root.join("index.json");
        let index: Document = parse(&read_limited(&path)?, &path.display().to_string())?;
        let named = index.manifests.unwrap_or_default().into_iter().find(|descriptor| {
            ["org.opencontainers.image.ref.name", "io.containerd.image.name"].iter().any(|annotation| {
                let name = descriptor.annotations.get(*annotation);
                reference.matches(name.map_or("", String::as_str), &descriptor.digest)
            })
        });
        named.map(|descriptor| self.load(&reference.canonical(), descriptor, INDEX_DEPTH)).transpose()
    }

    fn load(&self, reference: &str, descriptor: Descriptor, depth: usize) -> Result<Found, ImageError> {
        let document: Document = self.document(&descriptor, "manifest")?;
        if let Some(manifests) = document.manifests {
            if depth == 0 {
                return Err(malformed(format!("index {}", descriptor.digest), "indexes nest too deep"));
            }
            let variant = choose(reference, manifests)?;
            return self.load(reference, variant, depth - 1);
        }
        let (Some(config), Some(layers)) = (document.config, document.layers) else {
            let what = format!("manifest {}", descriptor.digest);
            return Err(malformed(what, "it has neither manifests nor config and layers"));
        };
        let config: ConfigDocument = self.document(&config, "image config")?;
        if !config.architecture.is_empty() && !is_this_platform(&config.os, &config.architecture) {
            return Err(ImageError::NoPlatform {
                reference: reference.to_owned(),
                platform: this_platform(),
                offered: format!("{}/{}", config.os, config.architecture),
            });
        }
        if config.rootfs.diff_ids.len() != layers.len() {
            let what = format!("manifest {}", descriptor.digest);
            return Err(malformed(what, "it has another number of layers than its config has diff_ids"));
        }
        Ok(Found {
            digest: descriptor.digest,
            config: config.config.unwrap_or_default().into(),
            layers: layers.into_iter().zip(config.rootfs.diff_ids).collect(),
        })
    }

    /// Reads and verifies a JSON blob.
    fn document<T: for<'de> Deserialize<'de>>(
        &self,
        descriptor: &Descriptor,
        what: &str,
    ) -> Result<T, ImageError> {
        let what = format!("{what} {}", descriptor.digest);
        let bytes = read_limited(&self.blob_path(&descriptor.digest))?;
        descriptor.digest.check(&Digest::of(&bytes), &what)?;
        parse(&bytes, &what)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// A layer's bytes, not verified yet.
    pub(super) fn open_blob(&self, descriptor: &Descriptor) -> Result<File, ImageError> {
        let path = self.blob_path(&descriptor.digest);
        let file = File::open(&path).map_err(io_error("open layer", &path))?;
        let size = file.metadata().map_err(io_error("read", &path))?.len();
        if size != descriptor.size {
            let problem = format!("it has {size} bytes, the manifest says {}", descriptor.size);
            return Err(malformed(format!("layer {}", descriptor.digest), &problem));
        }
        Ok(file)
    }
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

fn read_limited(path: &Path) -> Result<Vec<u8>, ImageError> {
    let size = fs::metadata(path).map_err(io_error("read", path))?.len();
    if size > DOCUMENT_LIMIT {
        return Err(malformed(path.display().to_string(), "it is larger than 4 MiB"));
    }
    fs::read(path).map_err(io_error("read", path))
}

fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8], what: &str) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| malformed(what.to_owned(), &error.to_string()))
}

fn malformed(what: String, problem: &str) -> ImageError {
    ImageError::Malformed { what, problem: problem.to_owned() }
}
