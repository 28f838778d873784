//! What the node holds of images: a record for each reference, a directory for each unpacked layer.
//!
//! ```text
//! refs/<sha256 of the full reference>.json   which manifest a reference means; its mtime: when it was last used
//! layers/<diff_id>/                          an unpacked layer, never changed after it got this name
//! ingest/<hex>/                              expanded archives
//! ingest/blobs/<digest>.part                 layers on their way from a registry, kept over crashes and failures
//! ```
//!
//! Invariant: whatever bears its final name is complete and verified. Work in progress is called `….part`, is synced and
//! renamed when done. What cannot be gone on with is swept when the store is opened; [`collect`](super::collect) takes
//! what nobody went on with.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::unistd::syncfs;

use super::archive;
use super::claims::{Pin, Pins, Places, Turns};
use super::digest::Digest;
use super::layout::Layout;
use super::limits::LayerLimits;
use super::manifest::{Descriptor, load_from};
use super::progress::Progress;
use super::reference::Reference;
use super::registry::{Keyring, RegistrySettings, Session};
use super::{Image, ImageError, PullPolicy, io_error};

/// The node's images.
#[derive(Debug)]
pub struct ImageStore {
    pub(super) dir: PathBuf,
    sources: Vec<PathBuf>,
    registries: Option<RegistrySettings>,
    pub(super) turns: Turns,
    places: Places,
    pub(super) pins: Pins,
    pub(super) limits: LayerLimits,
}

/// An image, and what it took to get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    pub image: Image,
    /// Nothing when it was present.
    pub effort: Option<Effort>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    pub took: Duration,
    /// For others that pulled the same image, or for a free place.
    pub waited: Duration,
}

impl ImageStore {
    /// Opens or creates the store in `dir`, removing what an interrupted run left half-written.
    pub fn open(dir: PathBuf, sources: Vec<PathBuf>) -> Result<Self, ImageError> {
        for part in ["refs", "layers", "ingest", "ingest/blobs"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(io_error("create", &path))?;
        }
        for part in ["refs", "layers", "ingest"] {
            let path = dir.join(part);
            for entry in fs::read_dir(&path).map_err(io_error("read", &path))? {
                let path = entry.map_err(io_error("read", &path))?.path();
                if path.extension().is_some_and(|extension| extension == "part") {
                    let removed =
                        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                    removed.map_err(io_error("remove", &path))?;
                }
            }
        }
        let (turns, places, pins) = (Turns::default(), Places::new(1), Pins::default());
        let limits = LayerLimits::default();
        Ok(Self { dir, sources, registries: None, turns, places, pins, limits })
    }

    #[must_use]
    pub fn with_limits(mut self, limits: LayerLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Images that no source has are pulled from their registries.
    #[must_use]
    pub fn with_registries(mut self, settings: RegistrySettings) -> Self {
        self.places = Places::new(settings.parallel_pulls);
        self.registries = Some(settings);
        self
    }

    /// As [`ImageStore::pull`], without credentials and unwatched.
    pub fn resolve(&self, reference: &str, policy: PullPolicy) -> Result<Image, ImageError> {
        Ok(self.pull(reference, policy, &Keyring::default(), &Progress::default())?.image)
    }

    /// The image as far as `policy` lets it be used without asking anybody.
    pub fn present(&self, reference: &str, policy: PullPolicy) -> Result<Option<Image>, ImageError> {
        let parsed = Reference::parse(reference)?;
        if policy == PullPolicy::Always {
            return Ok(None);
        }
        match self.recorded(reference, &parsed)? {
            None if policy == PullPolicy::Never => {
                Err(ImageError::NeverPull { reference: reference.to_owned() })
            }
            found => Ok(found),
        }
    }

    /// Finds `reference` in the store, the sources or its registry, as `policy` says, and makes it ready to run. The first
    /// source that has it wins; only then its registry is asked. With [`PullPolicy::Always`] the store serves only
    /// where no registry could.
    pub fn pull(
        &self,
        reference: &str,
        policy: PullPolicy,
        keyring: &Keyring,
        progress: &Progress,
    ) -> Result<Pulled, ImageError> {
        let present = |image| Pulled { image, effort: None };
        if let Some(image) = self.present(reference, policy)? {
            return Ok(present(image));
        }
        let parsed = Reference::parse(reference)?;
        let asked = Instant::now();
        let _turn = self.turns.take(parsed.canonical(), progress)?;
        // Another pod's pull may just have ended.
        if let Some(image) = self.present(reference, policy)? {
            return Ok(present(image));
        }
        let _place = self.places.take(progress)?;
        let began = Instant::now();
        let image =
            match (self.fetch(reference, &parsed, keyring, progress), self.recorded(reference, &parsed)?) {
                (Err(ImageError::NotFound { .. }), Some(image)) => image,
                (result, _) => result?,
            };
        let effort = Effort { took: began.elapsed(), waited: began.duration_since(asked) };
        Ok(Pulled { image, effort: Some(effort) })
    }

    /// The images in the store, by reference.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut images: Vec<_> = self.records()?.into_iter().map(|record| record.image).collect();
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(images)
    }

    /// Keeps these layers while the pin lives, and says so if one is gone already.
    pub(crate) fn pin_layers(&self, reference: &str, layers: &[String]) -> Result<Pin<'_>, ImageError> {
        let pin = self.pins.pin(layers.iter().map(|layer| hex(layer).to_owned()).collect());
        match layers.iter().find(|layer| !self.layer_dir(layer).is_dir()) {
            Some(_) => Err(ImageError::Collected { reference: reference.to_owned() }),
            None => Ok(pin),
        }
    }

    /// Where an unpacked layer lies.
    pub(crate) fn layer_dir(&self, diff_id: &str) -> PathBuf {
        self.dir.join("layers").join(hex(diff_id))
    }

    fn record_path(&self, reference: &Reference) -> PathBuf {
        self.dir.join("refs").join(Digest::of(reference.canonical().as_bytes()).hex()).with_extension("json")
    }

    /// The image as recorded, unless one of its layers is gone. Counts as a use.
    fn recorded(&self, reference: &str, parsed: &Reference) -> Result<Option<Image>, ImageError> {
        let path = self.record_path(parsed);
        let record = match fs::read(&path) {
            Ok(record) => record,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        // A record that does not parse was written by another version: the image is taken in again.
        let Ok(image) = serde_json::from_slice::<Image>(&record) else { return Ok(None) };
        touch(&path);
        let complete = image.layers.iter().all(|layer| self.layer_dir(layer).is_dir());
        Ok(complete.then(|| Image { reference: reference.to_owned(), ..image }))
    }

    pub(super) fn records(&self) -> Result<Vec<Record>, ImageError> {
        let refs = self.dir.join("refs");
        let mut found = Vec::new();
        for entry in fs::read_dir(&refs).map_err(io_error("read", &refs))?.flatten() {
            let path = entry.path();
            let image = fs::read(&path).ok().and_then(|record| serde_json::from_slice::<Image>(&record).ok());
            let used = entry.metadata().and_then(|metadata| metadata.modified());
            if let (Some(image), Ok(used)) = (image, used) {
                found.push(Record { path, image, used });
            }
        }
        Ok(found)
    }

    fn fetch(
        &self,
        reference: &str,
        parsed: &Reference,
        keyring: &Keyring,
        progress: &Progress,
    ) -> Result<Image, ImageError> {
        let mut searched = Vec::new();
        for source in &self.sources {
            // One broken source must not hide the others.
            let layout = match self.open_source(source) {
                Ok(layout) => layout,
                Err(error) => {
                    tracing::warn!(%error, "an image source is left out");
                    searched.push(error.to_string());
                    continue;
                }
            };
            if let Some(found) = layout.find(parsed)? {
                let open = |descriptor: &_| Ok((layout.open_blob(descriptor)?, None));
                return self.take_in(reference, parsed, &found, 1, progress, &open);
            }
            searched.push(source.display().to_string());
        }
        if let Some(settings) = &self.registries {
            return self.fetch_from_registry(reference, parsed, keyring, settings, progress);
        }
        let searched = match searched.as_slice() {
            [] => "no image source is configured".to_owned(),
            searched => searched.join(", "),
        };
        Err(ImageError::NotFound { reference: parsed.canonical(), searched })
    }

    fn fetch_from_registry(
        &self,
        reference: &str,
        parsed: &Reference,
        keyring: &Keyring,
        settings: &RegistrySettings,
        progress: &Progress,
    ) -> Result<Image, ImageError> {
        let session = Session::open(parsed, keyring, settings, progress)?;
        let (digest, manifest) = session.manifest()?;
        let found = load_from(&session, &parsed.canonical(), digest, &manifest)?;
        let open = |descriptor: &Descriptor| {
            let path = self.dir.join("ingest/blobs").join(descriptor.digest.hex()).with_extension("part");
            session.blob(descriptor, &path)?;
            let blob = File::open(&path).map_err(io_error("open layer", &path))?;
            Ok((blob, Some(path)))
        };
        self.take_in(reference, parsed, &found, settings.parallel_layers, progress, &open)
    }

    fn open_source(&self, source: &Path) -> Result<Layout, ImageError> {
        if source.is_file() {
            // Two images of one archive: it is expanded once.
            let _turn = self.turns.take(source.display().to_string(), &Progress::default())?;
            return Layout::open(archive::expand(source, &self.dir.join("ingest"))?);
        }
        Layout::open(source.to_owned())
    }

    /// Brings a layer to disk before its name says that it is complete.
    pub(super) fn sync(&self) -> Result<(), ImageError> {
        let dir = File::open(&self.dir).map_err(io_error("open", &self.dir))?;
        syncfs(&dir).map_err(io::Error::from).map_err(io_error("sync", &self.dir))
    }

    pub(super) fn record(&self, parsed: &Reference, image: &Image) -> Result<(), ImageError> {
        let path = self.record_path(parsed);
        let part = path.with_extension("part");
        let json = serde_json::to_vec(image).map_err(io::Error::from).map_err(io_error("encode", &path))?;
        fs::write(&part, json).map_err(io_error("write", &part))?;
        fs::rename(&part, &path).map_err(io_error("rename", &part))?;
        Ok(())
    }
}

/// A reference's record.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) path: PathBuf,
    pub(super) image: Image,
    pub(super) used: SystemTime,
}

/// Marks a record as used now. One that vanished meanwhile was collected: whoever uses it will be told.
pub(super) fn touch(path: &Path) {
    if let Ok(file) = File::open(path) {
        let _ = file.set_modified(SystemTime::now());
    }
}

pub(super) fn hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}
