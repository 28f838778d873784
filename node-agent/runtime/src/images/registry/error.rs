//! What may go wrong with a registry, in words that say what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("cannot reach registry {host}: {problem}")]
    Unreachable { host: String, problem: String },
    #[error("the certificate of registry {host} is not trusted: {problem}; {advice}")]
    Untrusted { host: String, problem: String, advice: String },
    #[error("registry {host} does not speak TLS: {problem}; where plain HTTP is meant, {advice}")]
    NoTls { host: String, problem: String, advice: String },
    #[error(
        "registry {host} lets nobody pull {repository} without credentials; name a Secret of type \
         kubernetes.io/dockerconfigjson that holds some for {host} in the pod's imagePullSecrets"
    )]
    NoCredentials { host: String, repository: String },
    #[error(
        "registry {host} refuses the credentials for {repository} ({problem}); check the Secrets in the pod's \
         imagePullSecrets"
    )]
    Denied { host: String, repository: String, problem: String },
    #[error("{what}: not found at registry {host}; check the name and the tag")]
    NotFound { host: String, what: String },
    #[error("registry {host} limits how often it is asked (429 Too Many Requests){}", again(*.retry_after))]
    TooManyRequests { host: String, retry_after: Option<Duration> },
    #[error("registry {host} answered {status} to {what}{detail}")]
    Status { host: String, what: String, status: u16, detail: String },
    #[error("registry {host} redirects {what} {problem}")]
    Redirect { host: String, what: String, problem: String },
    #[error("registry {host} asks for authentication that is not understood: {problem}")]
    Challenge { host: String, problem: String },
    #[error("registry {host} sent no {what}: {problem}")]
    Malformed { host: String, what: String, problem: String },
    #[error("{what} at registry {host} is larger than {limit} bytes")]
    TooLarge { host: String, what: String, limit: u64 },
    #[error("registry {host} sends {what} too slowly: {problem}")]
    Stalled { host: String, what: String, problem: String },
    #[error("registry {host} broke off {what} after {received} of {size} bytes: {problem}")]
    Truncated { host: String, what: String, received: u64, size: u64, problem: String },
    #[error("configuration of registry {host}, {path}: {problem}")]
    Config { host: String, path: PathBuf, problem: String },
    #[error("cannot {operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("the pull was cancelled")]
    Cancelled,
}

impl RegistryError {
    /// Whether the same question may be answered a moment later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TooManyRequests { .. }
            | Self::Stalled { .. }
            | Self::Truncated { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 408,
            _ => false,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyRequests { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

fn again(after: Option<Duration>) -> String {
    match after {
        Some(after) => format!("; it wants to be asked again after {} s", after.as_secs()),
        None => String::new(),
    }
}
