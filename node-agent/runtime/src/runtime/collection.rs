//! Which images may go: none that a container has, running or not.

use std::fs;
use std::io;
use std::path::Path;

use super::{RECORD_FILE, Record, Runtime, directories, is_hidden};
use crate::error::{Error, Result};
use crate::images::collect::InUse;
use crate::images::{Collected, CollectionPolicy};

impl Runtime {
    /// Removes images as `policy` says: none that a container has, running or not.
    pub fn collect_images(&self, policy: &CollectionPolicy) -> Result<Collected> {
        Ok(self.images.collect(policy, &|| self.images_in_use())?)
    }

    /// What the records of containers and of volumes name. One that cannot be read might name anything; what vanishes meanwhile, nothing.
    fn images_in_use(&self) -> io::Result<InUse> {
        let below = |dir: &Path| match directories(dir) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            found => found.map_err(io::Error::other),
        };
        let mut used = InUse::default();
        for pod in below(&self.pods)? {
            Self::add_images_of_volumes(&pod, &mut used)?;
            // Volumes lie in hidden directories: what containers write there is no record.
            for container in below(&pod)?.into_iter().filter(|dir| !is_hidden(dir)) {
                for run in below(&container)? {
                    match fs::read(run.join(RECORD_FILE)) {
                        Ok(record) => {
                            let image = serde_json::from_slice::<Record>(&record)?.spec.image;
                            used.images.insert(image.digest);
                            used.layers.extend(image.layers);
                        }
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(used)
    }
}
