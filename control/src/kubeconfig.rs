//! Writes a kubeconfig with everything in it, for `weir` and `kubectl`. Further servers stand in an extension, which
//! kubectl passes over.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use weir_api::pki::Pki;

const NAME: &str = "weir";

/// Replaces `path`, readable by its owner alone: it holds an administrator's key.
pub(crate) fn write(path: &Path, servers: &[String], pki: &Pki) -> Result<()> {
    let encoded = |pem: &str| STANDARD.encode(pem);
    let mut document = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": NAME,
            "cluster": {
                "server": servers.first(),
                "certificate-authority-data": encoded(pki.authority.certificate_pem()),
            },
        }],
        "users": [{
            "name": "weir-admin",
            "user": {
                "client-certificate-data": encoded(&pki.admin.certificate_pem),
                "client-key-data": encoded(&pki.admin.key_pem),
            },
        }],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": "weir-admin", "namespace": "default"}}],
        "current-context": NAME,
    });
    if servers.len() > 1 {
        document["clusters"][0]["cluster"]["extensions"] =
            json!([{"name": NAME, "extension": {"servers": servers}}]);
    }
    replace(path, weir_proto::yaml::to_string(&document).as_bytes())
        .with_context(|| format!("write the kubeconfig {}", path.display()))
}

fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}
