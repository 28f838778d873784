//! Images for tests of whole clusters: in an OCI layout, the one that the nodes of a test's cluster have for a source or one
//! of the test's own.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::Cluster;

/// Adds one that the cluster's nodes find without a registry.
pub fn add(cluster: &Cluster, reference: &str, config: &Value, root: &Path) -> Result<()> {
    add_to(&cluster.layout.images().join("echo"), reference, config, root)
}

/// A layout with nothing in it.
pub fn layout(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory.join("blobs/sha256"))?;
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(fs::write(directory.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#)?)
}

/// One layer of everything below `root`, as it is. `config` is what the image says about running it.
pub fn add_to(layout: &Path, reference: &str, config: &Value, root: &Path) -> Result<()> {
    let part = layout.join("blobs/layer.part");
    let mut archive = tar::Builder::new(BufWriter::new(File::create(&part)?));
    archive.follow_symlinks(false);
    archive.append_dir_all(".", root).with_context(|| format!("pack {}", root.display()))?;
    archive.into_inner()?.flush()?;
    let digest = digest_of(&mut File::open(&part)?)?;
    let size = fs::metadata(&part)?.len();
    fs::rename(&part, layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:")))?;

    let layer =
        json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size });
    let config = json!({ "architecture": "amd64", "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": [digest] } });
    let config = blob(layout, "application/vnd.oci.image.config.v1+json", &config)?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer] });
    let mut manifest = blob(layout, kind, &manifest)?;
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": reference });
    manifest["platform"] = json!({ "architecture": "amd64", "os": "linux" });

    let path = layout.join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path)?)?;
    index["manifests"].as_array_mut().context("the layout's index has no manifests")?.push(manifest);
    let part = layout.join("index.json.part");
    fs::write(&part, serde_json::to_vec(&index)?)?;
    Ok(fs::rename(&part, path)?)
}

fn blob(layout: &Path, kind: &str, content: &Value) -> Result<Value> {
    let bytes = serde_json::to_vec(content)?;
    let digest = digest_of(&mut bytes.as_slice())?;
    fs::write(layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:")), &bytes)?;
    Ok(json!({ "mediaType": kind, "digest": digest, "size": bytes.len() }))
}

fn digest_of(from: &mut impl std::io::Read) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    let hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}

/// `weir.test/busybox:1`: busybox under the names of its programs, and the files of a small system.
pub fn add_busybox(cluster: &Cluster) -> Result<()> {
    let root = tempfile::tempdir()?;
    let at = |path: &str| root.path().join(path);
    for directory in ["bin", "etc", "tmp", "root"] {
        fs::create_dir(at(directory))?;
    }
    fs::copy("/usr/bin/busybox", at("bin/busybox")).context("busybox-static is installed")?;
    let programs = "sh cat echo sleep ps kill ls id env grep touch test head wc tty stty true false date sync nc \
                    readlink sed tr seq mkdir rm httpd wget dd";
    for program in programs.split_whitespace() {
        std::os::unix::fs::symlink("busybox", at("bin").join(program))?;
    }
    fs::write(at("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/tmp:/bin/sh\n")?;
    fs::write(at("etc/group"), "root:x:0:\nweb:x:102:\nlog:x:4:web\n")?;
    add(cluster, "weir.test/busybox:1", &json!({ "Cmd": ["sh"] }), root.path())
}
