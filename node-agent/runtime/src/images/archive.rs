//! Layouts inside archives (tar, tar.gz, tar.zst): expanded once into the store, then read as a directory.
//!
//! Only `index.json`, `oci-layout` and `blobs/sha256/<digest>` are taken out, as regular files with names this module
//! composes: nothing an archive holds decides where a byte is written.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::unpack::decompress;
use super::{ImageError, io_error};

/// The expanded layout's directory below `ingest`. Expanded again when the archive has changed.
pub(super) fn expand(archive: &Path, ingest: &Path) -> Result<PathBuf, ImageError> {
    let file = File::open(archive).map_err(io_error("open image archive", archive))?;
    let metadata = file.metadata().map_err(io_error("read", archive))?;
    let version =
        format!("{} {} {} {}", archive.display(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    let done = ingest.join(Digest::of(version.as_bytes()).hex());
    if done.is_dir() {
        return Ok(done);
    }
    let part = done.with_extension("part");
    let _ = fs::remove_dir_all(&part);
    fs::create_dir_all(part.join("blobs/sha256")).map_err(io_error("create", &part))?;
    let bad = |problem: String| ImageError::BadSource { path: archive.to_owned(), problem };
    let has =
        copy_out(BufReader::new(file), &part).map_err(|error| bad(format!("cannot be read: {error}")))?;
    if !has.index {
        let _ = fs::remove_dir_all(&part);
        return Err(bad(if has.docker_manifest {
            "is a docker archive, which is not supported; convert it: skopeo copy docker-archive:FILE \
             oci-archive:NEW:REFERENCE"
                .to_owned()
        } else {
            "is not an OCI image archive: it has no index.json".to_owned()
        }));
    }
    fs::rename(&part, &done).map_err(io_error("rename", &part))?;
    Ok(done)
}

#[derive(Default)]
struct Contents {
    index: bool,
    docker_manifest: bool,
}

fn copy_out(archive: impl Read + 'static, directory: &Path) -> io::Result<Contents> {
    let mut contents = Contents::default();
    for entry in tar::Archive::new(decompress(Box::new(archive))?).entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path()?.into_owned();
        let path = path.strip_prefix(".").unwrap_or(&path);
        let target = match path.to_str() {
            Some(name @ ("index.json" | "oci-layout")) => {
                contents.index |= name == "index.json";
                directory.join(name)
            }
            Some("manifest.json") => {
                contents.docker_manifest = true;
                continue;
            }
            Some(name) => {
                let hex = name.strip_prefix("blobs/sha256/").unwrap_or_default();
                match Digest::parse(&format!("sha256:{hex}")) {
                    Some(digest) => directory.join("blobs/sha256").join(digest.hex()),
                    None => continue,
                }
            }
            None => continue,
        };
        io::copy(&mut entry, &mut File::create(target)?)?;
    }
    Ok(contents)
}
