//! hostPath: a path of the node, looked at as its type asks.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use weir_proto::core::v1::HostPathVolumeSource;

#[derive(Debug, Error)]
pub(in crate::pods) enum HostPathError {
    /// The kubelet's words.
    #[error("hostPath type check failed: {} is not a {wanted}", path.display())]
    Type { path: PathBuf, wanted: &'static str },
    #[error("hostPath type check failed: {0:?} is an invalid volume type")]
    Unknown(String),
    #[error("cannot make {}: {source}", path.display())]
    Make { path: PathBuf, source: io::Error },
}

/// Makes what may be made, and checks that what is there is what is meant. Without a type nothing is checked, and a
/// directory made where nothing is.
pub(super) fn make(source: &HostPathVolumeSource) -> Result<(), HostPathError> {
    let path = Path::new(&source.path);
    let kind = source.r#type.as_deref().unwrap_or_default();
    if !path.exists() {
        let made = match kind {
            "" | "DirectoryOrCreate" => fs::DirBuilder::new().recursive(true).mode(0o755).create(path),
            "FileOrCreate" => fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .open(path)
                .map(drop),
            _ => Ok(()),
        };
        made.map_err(|source| HostPathError::Make { path: path.to_owned(), source })?;
    }
    let found = fs::metadata(path).ok().map(|metadata| metadata.file_type());
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(test);
    let (fits, wanted) = match kind {
        "" => (true, ""),
        "Directory" | "DirectoryOrCreate" => (is(fs::FileType::is_dir), "directory"),
        "File" | "FileOrCreate" => (is(fs::FileType::is_file), "file"),
        "Socket" => (is(FileTypeExt::is_socket), "socket file"),
        "CharDevice" => (is(FileTypeExt::is_char_device), "character device"),
        "BlockDevice" => (is(FileTypeExt::is_block_device), "block device"),
        other => return Err(HostPathError::Unknown(other.to_owned())),
    };
    if fits { Ok(()) } else { Err(HostPathError::Type { path: path.to_owned(), wanted }) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn each_type_is_checked_and_made_as_kubernetes_does() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "kept").expect("written");
        let _socket = UnixListener::bind(at("socket")).expect("bound");
        let of = |path: &Path, kind: &str| {
            make(&HostPathVolumeSource { path: path.display().to_string(), r#type: Some(kind.to_owned()) })
                .map_err(|error| error.to_string())
        };
        for (path, kind) in [
            (dir.path().to_owned(), "Directory"),
            (at("new/er"), "DirectoryOrCreate"),
            (at("made"), ""),
            (at("file"), ""),
            (at("file"), "File"),
            (at("file"), "FileOrCreate"),
            (at("fresh"), "FileOrCreate"),
            (at("socket"), "Socket"),
            ("/dev/null".into(), "CharDevice"),
        ] {
            assert_eq!(of(&path, kind), Ok(()), "{kind} {}", path.display());
        }
        assert!(at("new/er").is_dir() && at("made").is_dir() && at("fresh").is_file());
        assert_eq!(fs::read_to_string(at("file")).expect("there"), "kept");
        for (path, kind, problem) in [
            (at("file"), "Directory", "is not a directory"),
            (at("file"), "DirectoryOrCreate", "is not a directory"),
            (dir.path().to_owned(), "File", "is not a file"),
            (at("none"), "Directory", "is not a directory"),
            (at("none"), "File", "is not a file"),
            (at("file"), "Socket", "is not a socket file"),
            (at("file"), "CharDevice", "is not a character device"),
            ("/dev/null".into(), "BlockDevice", "is not a block device"),
            (at("none/file"), "FileOrCreate", "cannot make"),
            (at("file"), "Sock", "invalid volume type"),
        ] {
            let error = of(&path, kind).expect_err(kind);
            assert!(error.contains(problem), "{kind} {}: {error}", path.display());
        }
    }
}
