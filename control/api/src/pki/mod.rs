//! The cluster's own certificate authority: made at the first start, kept in the store ([`share`]) and under
//! `<data-dir>/pki/`, and the signer of every certificate that the cluster's members present to each other.
//!
//! - `ca.crt`, `ca.key`: the authority, ten years.
//! - `server.crt`, `server.key`: what this API server presents; reissued at each start, so that it always names
//!   the addresses in use.
//! - `admin.crt`, `admin.key`: `system:masters`, for the kubeconfig.
//! - `apiserver-client.crt`, `apiserver-client.key`: how this server calls the agents.
//!
//! Names are the server's to give: of a certificate signing request only the public key is used. Private keys are
//! readable by their owner alone. Left out: revocation (nodes' certificates end by themselves).

mod authority;
mod files;
mod names;
mod shared;

pub use authority::{Authority, KeyedCertificate, PkiError, Subject};
pub(crate) use names::{seconds_left, subject_names};
pub use shared::share;

use std::net::IpAddr;
use std::path::Path;

/// Everything this server presents to others, and the authority it trusts.
#[derive(Debug)]
pub struct Pki {
    pub authority: Authority,
    pub server: KeyedCertificate,
    pub admin: KeyedCertificate,
    pub agent_client: KeyedCertificate,
    /// DNS names and addresses of this server; no node may be given one of them.
    pub server_names: Vec<String>,
}

impl Pki {
    /// Reads the authority below `dir`, makes it if there is none, and issues this server's certificates.
    pub fn open(dir: &Path, server_names: &[String]) -> Result<Self, PkiError> {
        files::make_private_dir(dir)?;
        let authority = Authority::open(dir)?;
        let mut names: Vec<String> = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ]
        .map(str::to_owned)
        .to_vec();
        names.extend(["127.0.0.1", "::1"].map(str::to_owned));
        names.extend(server_names.iter().filter(|name| !unspecified(name)).cloned());
        names.sort();
        names.dedup();

        let server = authority.issue(&Subject::server("weir-apiserver", names.clone()))?;
        let admin = authority.issue(&Subject::client("weir-admin", "system:masters"))?;
        let agent_client = authority.issue(&Subject::client("weir-apiserver", "system:masters"))?;
        server.write(dir, "server")?;
        admin.write(dir, "admin")?;
        agent_client.write(dir, "apiserver-client")?;
        Ok(Pki { authority, server, admin, agent_client, server_names: names })
    }
}

fn unspecified(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

/// The join token below `path`: read, or made (0600) if there is none.
pub fn bootstrap_token(path: &Path) -> Result<String, PkiError> {
    if let Some(token) = read_token(path)? {
        return Ok(token);
    }
    let token = crate::random::hex(16)?;
    files::write_private(path, token.as_bytes())?;
    Ok(token)
}

fn read_token(path: &Path) -> Result<Option<String>, PkiError> {
    let Some(token) = files::read_optional(path)? else { return Ok(None) };
    let token = token.trim().to_owned();
    if token.len() < 16 {
        return Err(PkiError::ShortToken { path: path.to_owned() });
    }
    Ok(Some(token))
}
