//! Brings a backup to disk: whole under its name, or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::BackupError;
use super::read::{Reader, Summary};

/// A backup that is being written, beside the place where it will be. Dropped before [`PartFile::finish`], it leaves
/// nothing.
#[derive(Debug)]
pub struct PartFile {
    file: File,
    path: PathBuf,
    part: PathBuf,
}

impl PartFile {
    /// Nothing may be at `path`; what an earlier attempt left at `PATH.part` is replaced.
    pub fn create(path: &Path) -> Result<Self, BackupError> {
        if fs::exists(path).map_err(BackupError::file("look for", path))? {
            return Err(BackupError::Exists { path: path.to_owned() });
        }
        let part = beside(path);
        match fs::remove_file(&part) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(BackupError::file("remove", &part)(error));
            }
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
        let file = file.map_err(BackupError::file("create", &part))?;
        Ok(Self { file, path: path.to_owned(), part })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.file.write_all(bytes).map_err(BackupError::file("write", &self.part))
    }

    /// Reads back what was written, and gives it its name.
    pub fn finish(self) -> Result<Summary, BackupError> {
        self.file.sync_all().map_err(BackupError::file("write", &self.part))?;
        let summary = Reader::open(&self.part)?.finish()?;
        match fs::hard_link(&self.part, &self.path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(BackupError::Exists { path: self.path.clone() });
            }
            result => result.map_err(BackupError::file("name", &self.path))?,
        }
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(BackupError::file("write", directory))?;
        Ok(summary)
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        // Of a finished one only the name goes.
        let _ = fs::remove_file(&self.part);
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut part = OsString::from(path);
    part.push(".part");
    part.into()
}
