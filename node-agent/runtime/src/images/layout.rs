//! The OCI image layout: `index.json`, and blobs by digest.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::manifest::{DOCUMENT_LIMIT, Descriptor, Document, Documents, Found, Kind, load, malformed, parse};
use super::reference::Reference;
use super::{ImageError, io_error};

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
        named.map(|descriptor| load(self, &reference.canonical(), descriptor)).transpose()
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

impl Documents for Layout {
    fn read(&self, descriptor: &Descriptor, _kind: Kind) -> Result<Vec<u8>, ImageError> {
        read_limited(&self.blob_path(&descriptor.digest))
    }
}

fn read_limited(path: &Path) -> Result<Vec<u8>, ImageError> {
    let size = fs::metadata(path).map_err(io_error("read", path))?.len();
    if size > DOCUMENT_LIMIT {
        return Err(malformed(path.display().to_string(), "it is larger than 4 MiB"));
    }
    fs::read(path).map_err(io_error("read", path))
}
