//! Debian's docker-registry on the loopback: TLS by an authority made here, and one user.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use weir_tests::{require, wait};

use crate::fixture::Layout;

pub(crate) const USER: &str = "weir";
pub(crate) const PASSWORD: &str = "open sesame";
/// `htpasswd -Bbn -C 4 weir 'open sesame'`: docker-registry takes bcrypt alone.
const HTPASSWD: &str = "weir:$2y$04$a90Ksf8QFYsRv8fRo3uk7e6qL9AjmZCySuXED/y4i1HNEDCt2zIFm";
const PROGRAM: &str = "/usr/bin/docker-registry";

pub(crate) fn available() -> bool {
    require::root_and(
        (!Path::new(PROGRAM).exists())
            .then(|| "docker-registry (apt-get install docker-registry)".to_owned()),
    )
}

pub(crate) struct Registry {
    pub(crate) name: String,
    pub(crate) authority: PathBuf,
    agent: ureq::Agent,
    child: Child,
    _directory: tempfile::TempDir,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let authority = certificates(directory.path());
        fs::write(path("htpasswd"), HTPASSWD).expect("a file");
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let name = format!("localhost:{port}");
        let config = serde_json::json!({
            "version": 0.1, "log": { "level": "error" },
            "storage": { "filesystem": { "rootdirectory": path("data") } },
            "auth": { "htpasswd": { "realm": "weir", "path": path("htpasswd") } },
            "http": { "addr": format!("127.0.0.1:{port}"), "secret": "s",
                "tls": { "certificate": path("server.crt"), "key": path("server.key") } },
        });
        // JSON is YAML too.
        fs::write(path("config.yml"), config.to_string()).expect("a file");
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg(path("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(path("log")).expect("a log"))
            .spawn()
            .expect("docker-registry");
        let pem = fs::read(&authority).expect("a certificate");
        let roots = Arc::new(vec![Certificate::from_pem(&pem).expect("a certificate")]);
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(roots))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let config =
            ureq::Agent::config_builder().proxy(None).http_status_as_error(false).tls_config(tls.build());
        let agent = ureq::Agent::new_with_config(config.build());
        let registry = Self { name, authority, agent, child, _directory: directory };
        wait::until("docker-registry answers", Duration::from_secs(60), || {
            Ok(registry.agent.get(format!("https://{}/v2/", registry.name)).call()?)
        })
        .expect("docker-registry");
        registry
    }

    /// Uploads the image that the layout has under its first name; returns the reference.
    pub(crate) fn push(&self, layout: &Layout, repository: &str, tag: &str) -> String {
        let index: serde_json::Value =
            serde_json::from_slice(&fs::read(layout.0.join("index.json")).expect("an index")).expect("JSON");
        self.push_manifest(
            layout,
            repository,
            tag,
            index["manifests"][0]["digest"].as_str().expect("a digest"),
        );
        format!("{}/{repository}:{tag}", self.name)
    }

    fn push_manifest(&self, layout: &Layout, repository: &str, version: &str, digest: &str) {
        let bytes = blob(layout, digest);
        let manifest: serde_json::Value = serde_json::from_slice(&bytes).expect("a manifest");
        let parts = manifest["layers"].as_array().cloned().unwrap_or_default();
        for part in parts.iter().chain(manifest.get("config")) {
            self.push_blob(layout, repository, part["digest"].as_str().expect("a digest"));
        }
        let variants = manifest["manifests"].as_array().cloned().unwrap_or_default();
        for variant in &variants {
            let digest = variant["digest"].as_str().expect("a digest");
            self.push_manifest(layout, repository, digest, digest);
        }
        let kind = if variants.is_empty() {
            "application/vnd.oci.image.manifest.v1+json"
        } else {
            "application/vnd.oci.image.index.v1+json"
        };
        let request = self.agent.put(self.url(&format!("{repository}/manifests/{version}")));
        let answer = request.header("authorization", basic()).content_type(kind).send(&bytes[..]);
        let mut answer = answer.expect("an answer");
        assert!(answer.status().is_success(), "{:?}", answer.body_mut().read_to_string());
    }

    fn push_blob(&self, layout: &Layout, repository: &str, digest: &str) {
        let begin = self.agent.post(self.url(&format!("{repository}/blobs/uploads/")));
        let answer = begin.header("authorization", basic()).send_empty().expect("an answer");
        let place = answer.headers()["location"].to_str().expect("a location").to_owned();
        let place = if place.starts_with('/') { format!("https://{}{place}", self.name) } else { place };
        let put = self.agent.put(place).query("digest", digest).header("authorization", basic());
        let answer = put.content_type("application/octet-stream").send(&blob(layout, digest)[..]);
        assert!(answer.expect("an answer").status().is_success());
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}/v2/{path}", self.name)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn basic() -> String {
    use base64::Engine;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}")))
}

fn blob(layout: &Layout, digest: &str) -> Vec<u8> {
    fs::read(layout.0.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))).expect("a blob")
}

/// Writes `server.crt` and `server.key`; returns their authority's certificate.
fn certificates(directory: &Path) -> PathBuf {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("a certificate");
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let certificate = params.signed_by(&own, &issuer).expect("a certificate");
    fs::write(directory.join("server.crt"), certificate.pem()).expect("a file");
    fs::write(directory.join("server.key"), own.serialize_pem()).expect("a file");
    let path = directory.join("authority.crt");
    fs::write(&path, authority.pem()).expect("a file");
    path
}
