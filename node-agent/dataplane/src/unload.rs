//! Taking the whole dataplane of a node away.

use std::fs;
use std::io;
use std::path::Path;

use crate::programs::{links_directory, programs_directory, remove_link, remove_pin};
use crate::{Error, Result};

/// Removes every pin below `bpffs` and the directory itself: links first, so that no packet meets half a dataplane. A
/// directory that is not there has nothing to remove.
pub(crate) fn unload(bpffs: &Path) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    remove_all(&links_directory(bpffs), remove_link, &mut removed)?;
    remove_all(&programs_directory(bpffs), remove_pin, &mut removed)?;
    remove_all(bpffs, remove_pin, &mut removed)?;
    Ok(removed)
}

fn remove_all(directory: &Path, remove: fn(&Path) -> Result<()>, removed: &mut Vec<String>) -> Result<()> {
    let failed = |source| Error::Pin { action: "remove", path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed(source)),
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        remove(&path)?;
        removed.push(path.display().to_string());
    }
    fs::remove_dir(directory).map_err(failed)?;
    removed.push(directory.display().to_string());
    Ok(())
}
