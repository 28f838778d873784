//! Volumes that show an image: its files, mounted read-only for as long as the pod's sandbox exists.
//!
//! ```text
//! pods/<uid>/.images/<volume>/image.json   which image; keeps it from being collected
//! pods/<uid>/.images/<volume>/root         its files
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Runtime, directories, safe_name, save};
use crate::error::{Error, Result};
use crate::images::collect::InUse;
use crate::images::{Image, snapshot};

const IMAGES: &str = ".images";
const RECORD: &str = "image.json";
const ROOT: &str = "root";

/// Where the files of a volume that shows an image lie, in the pod's directory.
pub fn image_volume(pod_dir: &Path, volume: &str) -> PathBuf {
    pod_dir.join(IMAGES).join(volume).join(ROOT)
}

impl Runtime {
    /// Mounts the image's files for a volume of the pod; does nothing when they are mounted. They go with the sandbox.
    pub fn mount_image(&self, uid: &str, volume: &str, image: &Image) -> Result<PathBuf> {
        let dir = self.pod_dir(uid)?.join(IMAGES).join(safe_name("volume name", volume)?);
        let root = dir.join(ROOT);
        if is_mounted(&root) {
            return Ok(root);
        }
        fs::create_dir_all(&root).map_err(Error::io("create", &root))?;
        // Until the record says that the layers are in use.
        let _pin = self.images.pin_layers(&image.reference, &image.layers)?;
        save(&dir.join(RECORD), image)?;
        snapshot::mount_read_only(&self.images, &image.layers, &dir, &root)?;
        Ok(root)
    }

    /// Whether the volume is mounted already.
    pub fn has_image_volume(&self, uid: &str, volume: &str) -> Result<bool> {
        Ok(is_mounted(&image_volume(&self.pod_dir(uid)?, safe_name("volume name", volume)?)))
    }

    /// Adds what the volumes of a pod show.
    pub(super) fn add_images_of_volumes(pod: &Path, used: &mut InUse) -> io::Result<()> {
        let volumes = match directories(&pod.join(IMAGES)) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.map_err(io::Error::other)?,
        };
        for volume in volumes {
            match fs::read(volume.join(RECORD)) {
                Ok(record) => {
                    let image = serde_json::from_slice::<Image>(&record)?;
                    used.images.insert(image.digest);
                    used.layers.extend(image.layers);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_mounted(root: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let own = device(root);
    own.is_some() && own != root.parent().and_then(device)
}
