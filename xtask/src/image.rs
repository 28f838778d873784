//! An OCI image of one static program, written as an OCI image layout directory
//! (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>).
//!
//! The bytes are reproducible: the same program gives the same digests.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Writes the layout to `directory`: `program` becomes `/<name>` and the entrypoint of `reference`.
pub fn write(directory: &Path, reference: &str, program: &Path) -> Result<()> {
    let name = "echo";
    let bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let layer = tar_of(name, &bytes)?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut gzip, &layer)?;
    let compressed = gzip.finish()?;

    fs::create_dir_all(directory.join("blobs/sha256"))?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Entrypoint": [format!("/{name}")], "ExposedPorts": { "8080/tcp": {}, "8080/udp": {} }, "User": "65532:65532" },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    let config = blob(directory, "application/vnd.oci.image.config.v1+json", &serde_json::to_vec(&config)?)?;
    let layer = blob(directory, "application/vnd.oci.image.layer.v1.tar+gzip", &compressed)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
    });
    let mut manifest =
        blob(directory, "application/vnd.oci.image.manifest.v1+json", &serde_json::to_vec(&manifest)?)?;
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": reference });
    manifest["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    // Last, so that a reader never finds an index whose blobs are missing.
    let part = directory.join("index.json.part");
    fs::write(&part, serde_json::to_vec_pretty(&index)?)?;
    fs::rename(&part, directory.join("index.json"))?;
    Ok(())
}

/// A tar archive with one executable file, owned by root, without a time of its own.
fn tar_of(name: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, name, bytes)?;
    Ok(archive.into_inner()?)
}

/// Stores a blob under its digest and returns its descriptor.
fn blob(directory: &Path, media_type: &str, bytes: &[u8]) -> Result<Value> {
    let digest = digest(bytes);
    let file = directory.join("blobs").join(digest.replace(':', "/"));
    fs::write(&file, bytes).with_context(|| format!("write {}", file.display()))?;
    Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_program_gives_the_same_image() -> Result<()> {
        let scratch = std::env::temp_dir().join(format!("weir-image-{}", std::process::id()));
        let program = scratch.join("program");
        fs::create_dir_all(&scratch)?;
        fs::write(&program, b"#!/bin/true")?;
        write(&scratch.join("one"), "weir.dev/echo:0.1.0", &program)?;
        write(&scratch.join("two"), "weir.dev/echo:0.1.0", &program)?;
        let index = |name: &str| fs::read(scratch.join(name).join("index.json"));
        assert_eq!(index("one")?, index("two")?);
        fs::remove_dir_all(&scratch)?;
        Ok(())
    }
}
