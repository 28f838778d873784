//! What a pod that is over gives back at once, though its object and its logs stay: memory and disk of its volumes, which
//! may be the very thing that the node ran out of.

use std::fs;
use std::io;

use super::perform::{PerformError, Result};
use super::worker::Worker;

impl Worker {
    pub(super) async fn release_volumes(&mut self) -> Result {
        // Nobody is left to see later changes.
        self.end_refresher().await;
        let uid = self.uid.clone();
        let release = move |runtime: &weir_runtime::Runtime| {
            let dir = runtime.pod_directory(&uid)?.join(".volumes");
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                // Containers' last words are no volume.
                if name.starts_with('.') {
                    continue;
                }
                // What is mounted there is others': it is unmounted first, so that it is not removed.
                weir_runtime::unmount_below(&entry.path())?;
                match fs::remove_dir_all(entry.path()) {
                    Err(source) if source.kind() != io::ErrorKind::NotFound => {
                        return Err(PerformError::Release { name, source });
                    }
                    _ => {}
                }
            }
            Ok(())
        };
        self.blocking(release).await??;
        self.memory.volumes = false;
        self.memory.released = true;
        Ok(())
    }
}
