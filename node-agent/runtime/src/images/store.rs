//! What the node holds of images: a record for each reference, a directory for each unpacked layer.
//!
//! ```text
//! refs/<sha256 of the full reference>.json   which manifest a reference means
//! layers/<diff_id>/                          an unpacked layer, never changed after it got this name
//! ingest/                                    expanded archives
//! ```
//!
//! Invariant: whatever bears its final name is complete and verified. Work in progress is called `….part`, is synced and
//! renamed when done, and is swept when the store is opened.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::unistd::syncfs;

use super::archive;
use super::digest::Digest;
use super::layout::{Found, Layout};
use super::reference::Reference;
use super::unpack;
use super::{Image, ImageError, PullPolicy, io_error};

/// The node's images.
#[derive(Debug)]
pub struct ImageStore {
    dir: PathBuf,
    sources: Vec<PathBuf>,
    /// One image is taken in at a time: two pods of one image must not unpack it twice.
    ingest: Mutex<()>,
}

impl ImageStore {
    /// Opens or creates the store in `dir`, removing what an interrupted run left half-written.
    pub fn open(dir: PathBuf, sources: Vec<PathBuf>) -> Result<Self, ImageError> {
        for part in ["refs", "layers", "ingest"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(io_error("create", &path))?;
            for entry in fs::read_dir(&path).map_err(io_error("read", &path))? {
                let path = entry.map_err(io_error("read", &path))?.path();
                if path.extension().is_some_and(|extension| extension == "part") {
                    let removed =
                        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                    removed.map_err(io_error("remove", &path))?;
                }
            }
        }
        Ok(Self { dir, sources, ingest: Mutex::new(()) })
    }

    /// Finds `reference` in the store or the sources, as `policy` says, and makes it ready to run. The first source that
    /// has it wins. With [`PullPolicy::Always`] the sources are asked first, and the store serves when none has it.
    pub fn resolve(&self, reference: &str, policy: PullPolicy) -> Result<Image, ImageError> {
        let parsed = Reference::parse(reference)?;
        let _one_at_a_time = self.ingest.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let present = self.present(reference, &parsed)?;
        match (policy, present) {
            (PullPolicy::IfNotPresent | PullPolicy::Never, Some(image)) => Ok(image),
            (PullPolicy::Never, None) => Err(ImageError::NeverPull { reference: reference.to_owned() }),
            (PullPolicy::Always | PullPolicy::IfNotPresent, present) => {
                match (self.fetch(reference, &parsed), present) {
                    (Err(ImageError::NotFound { .. }), Some(image)) => Ok(image),
                    (result, _) => result,
                }
            }
        }
    }

    /// The images in the store, by reference.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let refs = self.dir.join("refs");
        let mut images = Vec::new();
        for entry in fs::read_dir(&refs).map_err(io_error("read", &refs))?.flatten() {
            let record = fs::read(entry.path()).ok();
            images.extend(record.and_then(|record| serde_json::from_slice::<Image>(&record).ok()));
        }
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(images)
    }

    /// Where an unpacked layer lies.
    pub(crate) fn layer_dir(&self, diff_id: &str) -> PathBuf {
        self.dir.join("layers").join(diff_id.trim_start_matches("sha256:"))
    }

    fn record_path(&self, reference: &Reference) -> PathBuf {
        self.dir.join("refs").join(Digest::of(reference.canonical().as_bytes()).hex()).with_extension("json")
    }

    /// The image as recorded, unless one of its layers is gone.
    fn present(&self, reference: &str, parsed: &Reference) -> Result<Option<Image>, ImageError> {
        let path = self.record_path(parsed);
        let record = match fs::read(&path) {
            Ok(record) => record,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        // A record that does not parse was written by another version: the image is taken in again.
        let Ok(image) = serde_json::from_slice::<Image>(&record) else { return Ok(None) };
        let complete = image.layers.iter().all(|layer| self.layer_dir(layer).is_dir());
        Ok(complete.then(|| Image { reference: reference.to_owned(), ..image }))
    }

    fn fetch(&self, reference: &str, parsed: &Reference) -> Result<Image, ImageError> {
        let mut searched = Vec::new();
        for source in &self.sources {
            // One broken source must not hide the others.
            let layout = match self.open_source(source) {
                Ok(layout) => layout,
                Err(error) => {
                    searched.push(error.to_string());
                    continue;
                }
            };
            if let Some(found) = layout.find(parsed)? {
                return self.take_in(reference, parsed, &layout, found);
            }
            searched.push(source.display().to_string());
        }
        let searched = match searched.as_slice() {
            [] => "no image source is configured".to_owned(),
            searched => searched.join(", "),
        };
        Err(ImageError::NotFound { reference: parsed.canonical(), searched })
    }

    fn open_source(&self, source: &Path) -> Result<Layout, ImageError> {
        if source.is_file() {
            return Layout::open(archive::expand(source, &self.dir.join("ingest"))?);
        }
        Layout::open(source.to_owned())
    }

    fn take_in(
        &self,
        reference: &str,
        parsed: &Reference,
        layout: &Layout,
        found: Found,
    ) -> Result<Image, ImageError> {
        let mut unpacked = Vec::new();
        for (descriptor, diff_id) in &found.layers {
            let done = self.layer_dir(diff_id.hex());
            let part = done.with_extension("part");
            if done.is_dir() || unpacked.iter().any(|(_, other)| *other == done) {
                continue;
            }
            let blob = layout.open_blob(descriptor)?;
            let _ = fs::remove_dir_all(&part);
            fs::create_dir(&part).map_err(io_error("create", &part))?;
            fs::set_permissions(&part, PermissionsExt::from_mode(0o755))
                .map_err(io_error("change", &part))?;
            tracing::debug!(reference, layer = %descriptor.digest, kind = descriptor.media_type, "unpacking layer");
            if let Err(error) = unpack::layer(blob, &part, &descriptor.digest, diff_id) {
                let _ = fs::remove_dir_all(&part);
                return Err(error);
            }
            unpacked.push((part, done));
        }
        if !unpacked.is_empty() {
            self.sync()?;
        }
        for (part, done) in unpacked {
            fs::rename(&part, &done).map_err(io_error("rename", &part))?;
        }
        let image = Image {
            reference: reference.to_owned(),
            digest: found.digest.to_string(),
            config: found.config,
            layers: found.layers.iter().map(|(_, diff_id)| diff_id.to_string()).collect(),
            size: found.layers.iter().map(|(descriptor, _)| descriptor.size).sum(),
        };
        self.record(parsed, &image)?;
        Ok(image)
    }

    /// Brings the layers to disk before their names say they are complete.
    fn sync(&self) -> Result<(), ImageError> {
        let dir = File::open(&self.dir).map_err(io_error("open", &self.dir))?;
        syncfs(&dir).map_err(io::Error::from).map_err(io_error("sync", &self.dir))
    }

    fn record(&self, parsed: &Reference, image: &Image) -> Result<(), ImageError> {
        let path = self.record_path(parsed);
        let part = path.with_extension("part");
        let json = serde_json::to_vec(image).map_err(io::Error::from).map_err(io_error("encode", &path))?;
        fs::write(&part, json).map_err(io_error("write", &part))?;
        fs::rename(&part, &path).map_err(io_error("rename", &part))?;
        Ok(())
    }
}
