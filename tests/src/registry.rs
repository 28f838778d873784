//! Debian's docker-registry, on the loopback or beside a cluster's control plane: TLS by an authority made here, and one
//! user.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use xtask::cluster::{HUB_ADDRESS, Namespace};

use crate::cluster::Cluster;
use crate::{require, wait};

pub const USER: &str = "weir";
pub const PASSWORD: &str = "open sesame";
/// `htpasswd -Bbn -C 4 weir 'open sesame'`: docker-registry takes bcrypt alone.
const HTPASSWD: &str = "weir:$2y$04$a90Ksf8QFYsRv8fRo3uk7e6qL9AjmZCySuXED/y4i1HNEDCt2zIFm";
const PROGRAM: &str = "/usr/bin/docker-registry";

/// Whether there is one on this machine, and root to do something with it.
pub fn available() -> bool {
    require::root_and(
        (!Path::new(PROGRAM).exists())
            .then(|| "docker-registry (apt-get install docker-registry)".to_owned()),
    )
}

/// A running registry; dropping it kills it.
#[derive(Debug)]
pub struct Registry {
    /// As references begin.
    pub name: String,
    /// The certificate to trust.
    pub authority: PathBuf,
    /// Where it is reached from; none for here.
    namespace: Option<PathBuf>,
    agent: ureq::Agent,
    child: Child,
    _directory: tempfile::TempDir,
}

impl Registry {
    pub fn on_loopback() -> Self {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let name = format!("localhost:{port}");
        Self::start(name, format!("127.0.0.1:{port}"), Command::new(PROGRAM), None)
    }

    /// In a cluster's hub, whose nodes trust it from now on.
    pub fn beside(cluster: &Cluster) -> Self {
        let name = format!("{HUB_ADDRESS}:5000");
        let command = cluster.command_in("hub", Path::new(PROGRAM)).expect("a place in the hub");
        let namespace = Namespace::named(cluster.layout.hub()).path();
        let registry = Self::start(name.clone(), name, command, Some(namespace));
        let settings = cluster.layout.directory.join("certs.d").join(&registry.name);
        fs::create_dir_all(&settings).expect("a directory");
        fs::write(settings.join("hosts.toml"), format!("ca = '{}'\n", registry.authority.display()))
            .expect("a file");
        registry
    }

    fn start(name: String, address: String, mut command: Command, namespace: Option<PathBuf>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let authority = certificates(directory.path(), name.split(':').next().unwrap_or_default());
        fs::write(path("htpasswd"), HTPASSWD).expect("a file");
        let config = serde_json::json!({
            "version": 0.1, "log": { "level": "error" },
            "storage": { "filesystem": { "rootdirectory": path("data") } },
            "auth": { "htpasswd": { "realm": "weir", "path": path("htpasswd") } },
            "http": { "addr": address, "secret": "s",
                "tls": { "certificate": path("server.crt"), "key": path("server.key") } },
        });
        // JSON is YAML too.
        fs::write(path("config.yml"), config.to_string()).expect("a file");
        let child = command
            .arg("serve")
            .arg(path("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(path("log")).expect("a log"))
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
        let registry = Self { name, authority, namespace, agent, child, _directory: directory };
        registry
            .inside(|| {
                wait::until("docker-registry answers", Duration::from_secs(60), || {
                    Ok(registry.agent.get(format!("https://{}/v2/", registry.name)).call()?)
                })
            })
            .expect("docker-registry");
        registry
    }

    /// Does something on a thread where the registry is reached.
    fn inside<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                if let Some(path) = &self.namespace {
                    let namespace = File::open(path).expect("the namespace");
                    setns(namespace, CloneFlags::CLONE_NEWNET).expect("entered");
                }
                action()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Uploads the image that an OCI layout has under its first name; returns the reference.
    pub fn push(&self, layout: &Path, repository: &str, tag: &str) -> String {
        let index: serde_json::Value =
            serde_json::from_slice(&fs::read(layout.join("index.json")).expect("an index")).expect("JSON");
        let digest = index["manifests"][0]["digest"].as_str().expect("a digest");
        self.inside(|| self.push_manifest(layout, repository, tag, digest));
        format!("{}/{repository}:{tag}", self.name)
    }

    fn push_manifest(&self, layout: &Path, repository: &str, version: &str, digest: &str) {
        let bytes = fs::read(path_of(layout, digest)).expect("a manifest");
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

    fn push_blob(&self, layout: &Path, repository: &str, digest: &str) {
        let begin = self.agent.post(self.url(&format!("{repository}/blobs/uploads/")));
        let answer = begin.header("authorization", basic()).send_empty().expect("an answer");
        let place = answer.headers()["location"].to_str().expect("a location").to_owned();
        let place = if place.starts_with('/') { format!("https://{}{place}", self.name) } else { place };
        let put = self.agent.put(place).query("digest", digest).header("authorization", basic());
        let file = File::open(path_of(layout, digest)).expect("a blob");
        let answer = put.content_type("application/octet-stream").send(file);
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

fn path_of(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
}

/// Writes `server.crt` and `server.key` for this host; returns their authority's certificate.
fn certificates(directory: &Path, host: &str) -> PathBuf {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("a certificate");
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![host.to_owned()]).expect("parameters");
    let certificate = params.signed_by(&own, &issuer).expect("a certificate");
    fs::write(directory.join("server.crt"), certificate.pem()).expect("a file");
    fs::write(directory.join("server.key"), own.serialize_pem()).expect("a file");
    let path = directory.join("authority.crt");
    fs::write(&path, authority.pem()).expect("a file");
    path
}
