//! Where the API server is and who we are: what it takes to connect.

use std::fmt;
use std::path::PathBuf;

/// How to reach the API server, and the identity to show it: a client certificate, a bearer token, or neither (then
/// only health and joining are open to us).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `https://host:port`; when one is away, the next is tried.
    pub servers: Vec<String>,
    /// Certificates that the server's must chain to, PEM. Without them an `https` server cannot be trusted.
    pub ca_pem: Option<String>,
    pub cert_pem: Option<String>,
    pub key_pem: Option<String>,
    pub token: Option<String>,
    /// The name that the server's certificate must carry, where it is not the host of its URL.
    pub server_name: Option<String>,
    /// The namespace to use where none is given (a kubeconfig context may name one).
    pub namespace: Option<String>,
}

impl Config {
    pub fn new(server: impl Into<String>) -> Config {
        Config { servers: vec![server.into()], ..Config::default() }
    }

    pub fn ca(mut self, pem: impl Into<String>) -> Config {
        self.ca_pem = Some(pem.into());
        self
    }

    pub fn identity(mut self, cert_pem: impl Into<String>, key_pem: impl Into<String>) -> Config {
        self.cert_pem = Some(cert_pem.into());
        self.key_pem = Some(key_pem.into());
        self
    }

    pub fn token(mut self, token: impl Into<String>) -> Config {
        self.token = Some(token.into());
        self
    }
}

/// Keys and tokens stay out of logs.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("servers", &self.servers)
            .field("certificate", &self.cert_pem.is_some())
            .field("token", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("no API server is named")]
    NoServer,
    #[error("server {server:?} is not a URL of the form https://host:port: {reason}")]
    Server { server: String, reason: String },
    #[error("server {server}: a certificate authority is needed to trust an https server")]
    NoAuthority { server: String },
    #[error("server {server}: a token would travel unencrypted; use https")]
    TokenInClear { server: String },
    #[error("server {server}: the certificates or the key cannot be used: {reason}")]
    Tls { server: String, reason: String },
    #[error("a client certificate and its key go together: the {missing} is missing")]
    HalfIdentity { missing: &'static str },
    #[error("the bearer token holds characters that a header cannot")]
    Token,
    #[error("kubeconfig {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("kubeconfig {path}: {reason}", path = path.display())]
    Parse { path: PathBuf, reason: String },
    #[error("kubeconfig {path}: no {what} is named {name:?}{known}", path = path.display())]
    Missing { path: PathBuf, what: &'static str, name: String, known: String },
    #[error("kubeconfig {path}: {field} is not supported; use a client certificate or a token", path = path.display())]
    Unsupported { path: PathBuf, field: &'static str },
    #[error("kubeconfig {path}: {field}: {reason}", path = path.display())]
    Field { path: PathBuf, field: &'static str, reason: String },
}
