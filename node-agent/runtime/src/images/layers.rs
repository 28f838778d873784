//! From blobs to layers: several at a time, each in a directory of its own, each once however many images have it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::digest::Digest;
use super::manifest::{Descriptor, Found};
use super::progress::Progress;
use super::reference::Reference;
use super::{Image, ImageError, ImageStore, io_error, unpack};

/// Gives a layer's blob, and the file to remove once it has been unpacked.
pub(super) type Open<'a> = dyn Fn(&Descriptor) -> Result<(File, Option<PathBuf>), ImageError> + Sync + 'a;

impl ImageStore {
    /// Unpacks what the store does not have yet, and records the image. Each layer that is done stays, whatever becomes of
    /// the others.
    pub(super) fn take_in(
        &self,
        reference: &str,
        parsed: &Reference,
        found: &Found,
        parallel: usize,
        progress: &Progress,
        open: &Open<'_>,
    ) -> Result<Image, ImageError> {
        let size = found.layers.iter().map(|(descriptor, _)| descriptor.size).sum();
        let names =
            found.layers.iter().flat_map(|(descriptor, diff_id)| [descriptor.digest.hex(), diff_id.hex()]);
        // Until the record says what the layers are for.
        let _pin = self.pins.pin(names.map(str::to_owned).collect());
        progress.begin(found.layers.len() as u64, size);
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || {
            while let Some((descriptor, diff_id)) = found.layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.layer(descriptor, diff_id, progress, open) {
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    // The image cannot be had: the other threads need not go on.
                    progress.cancel();
                    return;
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..parallel.min(found.layers.len()) {
                scope.spawn(work);
            }
            work();
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let image = Image {
            reference: reference.to_owned(),
            digest: found.digest.to_string(),
            config: found.config.clone(),
            layers: found.layers.iter().map(|(_, diff_id)| diff_id.to_string()).collect(),
            size,
        };
        self.record(parsed, &image)?;
        Ok(image)
    }

    fn layer(
        &self,
        descriptor: &Descriptor,
        diff_id: &Digest,
        progress: &Progress,
        open: &Open<'_>,
    ) -> Result<(), ImageError> {
        let _layer = self.turns.take(format!("layer {diff_id}"), progress)?;
        let _blob = self.turns.take(format!("blob {}", descriptor.digest), progress)?;
        let done = self.layer_dir(diff_id.hex());
        if done.is_dir() {
            progress.receive(descriptor.size);
            progress.unpack();
            return Ok(());
        }
        let (blob, fetched) = open(descriptor)?;
        let part = done.with_extension("part");
        let _ = fs::remove_dir_all(&part);
        fs::create_dir(&part).map_err(io_error("create", &part))?;
        fs::set_permissions(&part, PermissionsExt::from_mode(0o755)).map_err(io_error("change", &part))?;
        tracing::debug!(layer = %descriptor.digest, kind = descriptor.media_type, "unpacking layer");
        if let Err(error) = unpack::layer(blob, &part, &descriptor.digest, diff_id, self.limits) {
            let _ = fs::remove_dir_all(&part);
            return Err(error);
        }
        self.sync()?;
        fs::rename(&part, &done).map_err(io_error("rename", &part))?;
        if let Some(fetched) = fetched {
            fs::remove_file(&fetched).map_err(io_error("remove", &fetched))?;
        }
        progress.unpack();
        Ok(())
    }
}
