//! Who the node is to the cluster: a key made here, and a certificate that the control plane gave for it.
//!
//! Both lie in one file, `pki/node.pem`, replaced whole: there is never a key without its certificate. A node joins
//! once, with a bootstrap token; later certificates are asked for with the one before.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair};
use thiserror::Error;
use weir_client::{Backoff, Client};
use weir_proto::weir::v1::JoinRequest;
use x509_parser::pem::parse_x509_pem;

use crate::config::Config;

/// Why the node has no certificate.
#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("cannot {operation} {}: {source}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("the node has no certificate yet, and --bootstrap-token-file is not given")]
    NoToken,
    #[error("cannot make a key and a signing request: {0}")]
    Key(#[from] rcgen::Error),
    #[error("the control plane does not let this node join: {0}")]
    Refused(weir_client::Error),
    #[error("the control plane's certificate for this node cannot be read: {0}")]
    Certificate(String),
    #[error(transparent)]
    Client(#[from] weir_client::Error),
}

/// Certificate and key, PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
    pub ca: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Identity {
    /// The identity that the node has, if it has one.
    pub fn present(config: &Config) -> Result<Option<Self>, IdentityError> {
        let ca = read(&config.ca)?;
        let Some(present) = load(&path(config), ca)? else { return Ok(None) };
        match validity(&present.certificate) {
            Ok((begins, ends)) if Timestamp::now().as_second() < ends => {
                tracing::debug!(begins, ends, "the node has its certificate");
                return Ok(Some(present));
            }
            Ok(_) => tracing::warn!("the node's certificate has ended; joining again"),
            Err(error) => tracing::error!(%error, "the node's certificate is damaged; joining again"),
        }
        Ok(None)
    }

    /// A new identity, by the bootstrap token. Waits for the control plane as long as it is away.
    pub async fn join(config: &Config) -> Result<Self, IdentityError> {
        let ca = read(&config.ca)?;
        let token_file = config.bootstrap_token_file.as_ref().ok_or(IdentityError::NoToken)?;
        let token = read(token_file)?.trim().to_owned();
        let to = stranger(config)?.token(token);
        join(config, &Client::new(&to)?, ca).await
    }

    /// How to reach the API as this node.
    pub fn client_config(&self, config: &Config) -> weir_client::Config {
        weir_client::Config { servers: config.server.clone(), ..Default::default() }
            .ca(&self.ca)
            .identity(&self.certificate, &self.key)
    }

    /// When two thirds of the certificate's life are over.
    pub fn renew_at(&self) -> Result<Timestamp, IdentityError> {
        let (begins, ends) = validity(&self.certificate)?;
        let at = ends - (ends - begins) / 3;
        Timestamp::from_second(at).map_err(|error| IdentityError::Certificate(error.to_string()))
    }

    /// A new key and certificate, asked for as the present identity.
    pub async fn renew(&self, config: &Config) -> Result<Self, IdentityError> {
        join(config, &Client::new(&self.client_config(config))?, self.ca.clone()).await
    }
}

/// How to reach the API as nobody in particular: what an agent has before it has joined.
pub fn stranger(config: &Config) -> Result<weir_client::Config, IdentityError> {
    Ok(weir_client::Config { servers: config.server.clone(), ..Default::default() }.ca(read(&config.ca)?))
}

fn path(config: &Config) -> PathBuf {
    config.state_dir.join("pki/node.pem")
}

async fn join(config: &Config, client: &Client, ca: String) -> Result<Identity, IdentityError> {
    let key = KeyPair::generate()?;
    let addresses = vec![config.node_ip.to_string()];
    let request = CertificateParams::new(addresses.clone())?.serialize_request(&key)?.pem()?;
    let request = JoinRequest { node_name: config.node_name.clone(), csr_pem: request, addresses };
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut told = false;
    let answer = loop {
        let status = match client.node_service().join(request.clone()).await {
            Ok(answer) => break answer.into_inner(),
            Err(status) => client.error("join", status),
        };
        if !status.is_transient() {
            return Err(IdentityError::Refused(status));
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(error = %status, "cannot join yet; trying on");
        }
        tokio::time::sleep(backoff.delay()).await;
    };
    let ca = if answer.ca_pem.is_empty() { ca } else { answer.ca_pem };
    let identity = Identity { certificate: answer.certificate_pem, key: key.serialize_pem(), ca };
    validity(&identity.certificate)?;
    save(&path(config), &identity)?;
    tracing::info!(node = config.node_name, "joined the cluster");
    Ok(identity)
}

/// Begin and end of a certificate's life, in seconds since the epoch.
fn validity(certificate: &str) -> Result<(i64, i64), IdentityError> {
    let unreadable = |error: String| IdentityError::Certificate(error);
    let (_, pem) = parse_x509_pem(certificate.as_bytes()).map_err(|error| unreadable(error.to_string()))?;
    let certificate = pem.parse_x509().map_err(|error| unreadable(error.to_string()))?;
    let validity = certificate.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

fn load(path: &Path, ca: String) -> Result<Option<Identity>, IdentityError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        // Or it is no text: damaged, and of no more use than none.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            return Ok(None);
        }
        Err(source) => return Err(failed("read", path)(source)),
    };
    // The key comes first, so that the rest may be a chain.
    const END: &str = "-----END PRIVATE KEY-----\n";
    let Some(cut) = text.find(END) else { return Ok(None) };
    let (key, certificate) = text.split_at(cut + END.len());
    Ok(Some(Identity { certificate: certificate.to_owned(), key: key.to_owned(), ca }))
}

fn save(path: &Path, identity: &Identity) -> Result<(), IdentityError> {
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir).map_err(failed("make", dir))?;
    let beside = path.with_extension("new");
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        let key = identity.key.replace("\r\n", "\n");
        file.write_all(key.as_bytes())?;
        file.write_all(identity.certificate.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(failed("write", path))
}

fn read(path: &Path) -> Result<String, IdentityError> {
    fs::read_to_string(path).map_err(failed("read", path))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    move |source| IdentityError::File { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_found_again_and_its_key_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pki/node.pem");
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec!["node".to_owned()]).expect("parameters");
        let certificate = certificate.self_signed(&key).expect("a certificate").pem();
        let identity = Identity { certificate, key: key.serialize_pem(), ca: "ca".to_owned() };
        save(&path, &identity).expect("saved");
        let found = load(&path, "ca".to_owned()).expect("read").expect("there");
        assert_eq!((&found.certificate, found.key.trim()), (&identity.certificate, identity.key.trim()));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let (begins, ends) = validity(&found.certificate).expect("a certificate");
        let renew = found.renew_at().expect("a time").as_second();
        assert!(begins < renew && renew < ends);
    }

    #[test]
    fn half_a_file_is_no_identity() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("node.pem");
        fs::write(&path, "-----BEGIN PRIVATE KEY-----\nMIG").expect("written");
        assert!(load(&path, String::new()).expect("read").is_none());
    }
}
