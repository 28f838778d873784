//! Taking the whole dataplane of a node away.

use std::fs;
use std::io;
use std::path::Path;

use crate::programs::{links_directory, programs_directory};
use crate::{Error, Result};

/// Removes every pin below `bpffs` and the directory itself: links first, so that no packet meets half a dataplane. A
/// directory that is not there has nothing to remove.
pub(crate) fn unload(bpffs: &Path) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for directory in [links_directory(bpffs), programs_directory(bpffs), bpffs.to_owned()] {
        match fs::read_dir(&directory) {
            Ok(entries) => remove_all(&directory, entries, &mut removed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Pin { action: "list", path: directory, source }),
        }
    }
    Ok(removed)
}

fn remove_all(directory: &Path, entries: fs::ReadDir, removed: &mut Vec<String>) -> Result<()> {
    let failed = |path: &Path, source| Error::Pin { action: "remove", path: path.to_owned(), source };
    for entry in entries {
        let path = entry.map_err(|source| failed(directory, source))?.path();
        fs::remove_file(&path).map_err(|source| failed(&path, source))?;
        removed.push(path.display().to_string());
    }
    fs::remove_dir(directory).map_err(|source| failed(directory, source))?;
    removed.push(directory.display().to_string());
    Ok(())
}
