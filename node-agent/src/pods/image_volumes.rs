//! Volumes that show the files of an image: pulled as their policy says when the first container that mounts one starts.

use std::sync::Arc;

use weir_proto::core::v1::{Container, Pod};

use super::container::pull_policy;
use super::perform::{PerformError, Result};
use super::volumes;
use super::worker::Worker;

impl Worker {
    /// Makes the volumes of the container that show images. One that is there stays as it is, whatever its tag means by now.
    pub(super) async fn mount_images(&mut self, pod: &Arc<Pod>, container: &Container) -> Result {
        for mount in &container.volume_mounts {
            let Some(source) = volumes::find(pod, &mount.name).and_then(|volume| volume.image.as_ref())
            else {
                continue;
            };
            let (uid, volume) = (self.uid.clone(), mount.name.clone());
            if self.blocking(move |runtime| runtime.has_image_volume(&uid, &volume)).await?? {
                continue;
            }
            let reference = source.reference.clone();
            let policy = pull_policy(&reference, &source.pull_policy);
            let image = match self.obtain(pod, container, reference.clone(), policy).await {
                Err(PerformError::Image(source)) => {
                    let (volume, source) = (mount.name.clone(), Box::new(source));
                    return Err(PerformError::VolumeImage { volume, image: reference, source });
                }
                image => image?,
            };
            let (uid, volume) = (self.uid.clone(), mount.name.clone());
            self.blocking(move |runtime| runtime.mount_image(&uid, &volume, &image)).await??;
        }
        Ok(())
    }
}
