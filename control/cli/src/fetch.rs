//! `-f https://…`: manifests from the web, bounded in size and time.
//!
//! Whom to trust is the machine's to say (its certificate store); proxies come from the environment, as for other tools.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Error};

/// Larger than all manifests that people publish.
const LARGEST: u64 = 16 << 20;
const LONGEST: Duration = Duration::from_secs(60);
/// A server may be in trouble for a moment.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) fn is_url(name: &str) -> bool {
    name.starts_with("http://") || name.starts_with("https://")
}

pub(crate) fn get(url: &str) -> Result<Vec<u8>> {
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let agent: Agent = Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(LONGEST))
        .http_status_as_error(false)
        .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    let mut attempt = 1;
    loop {
        let mut response = agent.get(url).call().map_err(|error| failure(url, error))?;
        let status = response.status();
        if status.is_success() {
            let body = response.body_mut().with_config().limit(LARGEST).read_to_vec();
            return body.map_err(|error| failure(url, error));
        }
        if !status.is_server_error() || attempt == ATTEMPTS {
            bail!("unable to read URL {url:?}, server reported {status}, status code={}", status.as_u16());
        }
        attempt += 1;
        std::thread::sleep(PAUSE);
    }
}

fn failure(url: &str, error: Error) -> anyhow::Error {
    match error {
        Error::BodyExceedsLimit(limit) => {
            anyhow!("unable to read URL {url:?}: it has more than {limit} bytes")
        }
        error => anyhow!("unable to read URL {url:?}: {error}"),
    }
}
