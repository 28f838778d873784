//! One server's API: questions, the patience to repeat them, authentication, redirects.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::http::{Response, StatusCode, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::challenge::Challenge;
use super::hosts::{Host, expected_directory};
use super::keyring::Credentials;
use super::{RegistryError, RegistrySettings, token};
use crate::images::digest::Digest;
use crate::images::manifest::{DOCUMENT_LIMIT, Descriptor};
use crate::images::progress::Progress;
use crate::images::reference::Reference;

/// Everything a manifest may be. Schema 1 is not asked for; registries that have nothing else send it anyway.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";
const REDIRECTS: usize = 5;
/// Longest pause between two attempts, whatever the registry wishes: the pod's own back-off is for longer ones.
const LONGEST_DELAY: Duration = Duration::from_secs(20);
/// Of a body that explains an error.
const EXPLANATION_LIMIT: u64 = 16 << 10;

pub(super) struct Client<'a> {
    pub(super) host: Host,
    pub(super) settings: &'a RegistrySettings,
    pub(super) progress: &'a Progress,
    reference: &'a Reference,
    agent: Agent,
    credentials: Vec<Credentials>,
    access: Mutex<Access>,
}

/// What the server was shown last.
#[derive(Default)]
struct Access {
    header: Option<String>,
    /// It has opened a door: when it is refused later, it has expired.
    worked: bool,
    /// Of the credentials.
    tried: usize,
    challenge: Option<Challenge>,
}

/// A manifest as sent, with the digest that the server says it has.
pub(super) struct Manifest {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: Option<Digest>,
}

impl<'a> Client<'a> {
    pub(super) fn new(
        host: Host,
        reference: &'a Reference,
        credentials: Vec<Credentials>,
        settings: &'a RegistrySettings,
        progress: &'a Progress,
    ) -> Result<Self, RegistryError> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // Followed here, where it is known what may go along.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(settings.patience))
            .timeout_connect(Some(settings.patience))
            .timeout_recv_response(Some(settings.patience * 2))
            .timeout_per_read(Some(settings.patience))
            .tls_config(tls(&host)?);
        if host.is_loopback() {
            config = config.proxy(None);
        }
        let agent = Agent::new_with_config(config.build());
        Ok(Self { host, settings, progress, reference, agent, credentials, access: Mutex::default() })
    }

    pub(super) fn manifest(&self, version: &str) -> Result<Manifest, RegistryError> {
        let what = format!("{}:{version}", self.reference.name());
        self.persist(|| {
            let mut response = self.get(&format!("manifests/{version}"), &[("accept", MANIFESTS)], &what)?;
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            let digest = header("docker-content-digest").and_then(Digest::parse);
            let kind = header("content-type").unwrap_or("no content type").to_owned();
            let bytes = self.read_limited(response.body_mut(), &format!("manifest of {what}"))?;
            if kind.starts_with("text/html")
                || serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_err()
            {
                return Err(RegistryError::Malformed {
                    host: self.host.name.clone(),
                    what: format!("manifest of {what}"),
                    problem: format!("it is {kind} and no JSON; is there a registry at this address?"),
                });
            }
            Ok(Manifest { bytes, digest })
        })
    }

    /// A small blob, as it comes.
    pub(super) fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let what = format!("config {}", descriptor.digest);
        self.persist(|| {
            let mut response = self.get(&format!("blobs/{}", descriptor.digest), &[], &what)?;
            self.read_limited(response.body_mut(), &what)
        })
    }

    /// Repeats what may succeed a moment later. A mirror is left for the next server at once.
    fn persist<T>(&self, mut attempt: impl FnMut() -> Result<T, RegistryError>) -> Result<T, RegistryError> {
        let mut tries = 1;
        loop {
            match attempt() {
                Err(error) => self.pause(&mut tries, error)?,
                done => return done,
            }
        }
    }

    /// Waits before the next attempt, or gives the error back when there should be none.
    pub(super) fn pause(&self, tries: &mut u32, error: RegistryError) -> Result<(), RegistryError> {
        let attempts = if self.host.mirror { 1 } else { self.settings.attempts };
        if !error.is_transient() || *tries >= attempts {
            return Err(error);
        }
        let backoff = self.settings.first_delay.saturating_mul(1 << (*tries - 1).min(16));
        let delay = error.retry_after().unwrap_or(backoff);
        if error.retry_after().is_some_and(|wish| wish > LONGEST_DELAY) {
            return Err(error);
        }
        tracing::debug!(host = self.host.name, %error, tries, "asking again");
        *tries += 1;
        if self.progress.wait(delay.min(LONGEST_DELAY)) { Ok(()) } else { Err(RegistryError::Cancelled) }
    }

    /// `path` below the repository. Everything but success is an error.
    pub(super) fn get(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        what: &str,
    ) -> Result<Response<Body>, RegistryError> {
        loop {
            if self.progress.is_cancelled() {
                return Err(RegistryError::Cancelled);
            }
            let shown = self.access().header.clone();
            let response = self.follow(path, headers, shown.as_deref(), what)?;
            match response.status() {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.authenticate(shown, response)?,
                status if status.is_success() => {
                    self.access().worked = true;
                    return Ok(response);
                }
                _ => return Err(self.refusal(response, what)),
            }
        }
    }

    fn follow(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        authorization: Option<&str>,
        what: &str,
    ) -> Result<Response<Body>, RegistryError> {
        let redirect = |problem: String| RegistryError::Redirect {
            host: self.host.name.clone(),
            what: what.to_owned(),
            problem,
        };
        let mut url = format!("{}/{}/{path}", self.host.base, self.reference.repository());
        if self.host.mirror {
            url = format!("{url}?ns={}", self.reference.registry());
        }
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(&url);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(authorization) = authorization.filter(|_| origin(&url) == origin(&self.host.base)) {
                request = request.header("authorization", authorization);
            }
            let response = request.call().map_err(|error| self.failed(what, error))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| join(&url, location));
            let next = next.ok_or_else(|| redirect("to nowhere".to_owned()))?;
            if url.starts_with("https://") && !next.starts_with("https://") {
                return Err(redirect(format!("to plain HTTP ({})", origin(&next))));
            }
            url = next;
        }
        Err(redirect(format!("more than {REDIRECTS} times")))
    }

    /// After a refusal: gets something better to show, or says why there is nothing.
    fn authenticate(&self, shown: Option<String>, response: Response<Body>) -> Result<(), RegistryError> {
        // Held while a token is fetched: the other layers' threads want the same one.
        let mut access = self.access();
        if access.header != shown {
            return Ok(());
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            let headers = response.headers().get_all("www-authenticate");
            let challenges = headers.iter().filter_map(|value| value.to_str().ok());
            access.challenge = Some(Challenge::parse(&self.host.name, challenges)?);
        }
        let mut problem = explanation(response);
        let Some(challenge) = access.challenge.clone() else { return Err(self.denied(problem)) };
        loop {
            if access.worked {
                access.worked = false;
            } else {
                access.tried += 1;
            }
            let credentials = self.credentials.get(access.tried - 1);
            let anonymous = self.credentials.is_empty() && access.tried == 1;
            if credentials.is_none() && !anonymous {
                return Err(self.denied(problem));
            }
            let header = match (&challenge, credentials) {
                (Challenge::Basic, Some(Credentials::Password { user, password })) => {
                    Some(Credentials::basic(user, password))
                }
                (Challenge::Basic, _) => None,
                (Challenge::Bearer { realm, service, scope }, credentials) => {
                    let scope = scope.clone();
                    let scope =
                        scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference.repository()));
                    let wanted = token::Wanted { realm, service: service.as_deref(), scope: &scope };
                    token::fetch(self, &self.agent, &wanted, credentials)?
                }
            };
            if let Some(header) = header {
                access.header = Some(header);
                return Ok(());
            }
            problem = "the credentials were not accepted".to_owned();
        }
    }

    fn denied(&self, problem: String) -> RegistryError {
        let (host, repository) = (self.host.name.clone(), self.reference.repository().to_owned());
        if self.credentials.is_empty() {
            return RegistryError::NoCredentials { host, repository };
        }
        let problem = if problem.is_empty() { "401 Unauthorized".to_owned() } else { problem };
        RegistryError::Denied { host, repository, problem }
    }

    fn refusal(&self, response: Response<Body>, what: &str) -> RegistryError {
        let host = self.host.name.clone();
        let what = what.to_owned();
        match response.status() {
            StatusCode::NOT_FOUND => RegistryError::NotFound { host, what },
            StatusCode::TOO_MANY_REQUESTS => {
                let after = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
                let retry_after = after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
                RegistryError::TooManyRequests { host, retry_after }
            }
            status => {
                let detail = explanation(response);
                let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
                RegistryError::Status { host, what, status: status.as_u16(), detail }
            }
        }
    }

    /// The HTTP client's error in the registry's terms.
    pub(super) fn failed(&self, what: &str, error: ureq::Error) -> RegistryError {
        let host = self.host.name.clone();
        let directory = expected_directory(self.reference.registry(), self.settings.config_dir.as_deref());
        let directory = directory.display();
        let error = match error {
            ureq::Error::Io(error) => {
                match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                    Some(inner) => ureq::Error::Rustls(inner.clone()),
                    None => ureq::Error::Io(error),
                }
            }
            error => error,
        };
        match error {
            ureq::Error::Rustls(rustls::Error::InvalidCertificate(problem)) => RegistryError::Untrusted {
                host,
                advice: match problem {
                    rustls::CertificateError::UnknownIssuer => {
                        format!("put the certificate of its authority into {directory}/ca.crt")
                    }
                    _ => format!("its own must change, or {directory}/hosts.toml name another server"),
                },
                problem: problem.to_string(),
            },
            ureq::Error::Rustls(error @ rustls::Error::InvalidMessage(_)) => RegistryError::NoTls {
                advice: format!("write server = \"http://{host}\" into {directory}/hosts.toml"),
                problem: error.to_string(),
                host,
            },
            ureq::Error::Timeout(ureq::Timeout::RecvBody | ureq::Timeout::PerRead) => {
                let problem = format!("nothing came for {} s", self.settings.patience.as_secs());
                RegistryError::Stalled { host, what: what.to_owned(), problem }
            }
            ureq::Error::Timeout(stage) => {
                RegistryError::Unreachable { host, problem: format!("no answer in time ({stage})") }
            }
            ureq::Error::HostNotFound => {
                RegistryError::Unreachable { host, problem: "its name has no address".to_owned() }
            }
            ureq::Error::LargeResponseHeader(size, limit) => RegistryError::Malformed {
                host,
                what: what.to_owned(),
                problem: format!("headers of {size} bytes, at most {limit} are read"),
            },
            error => RegistryError::Unreachable { host, problem: error.to_string() },
        }
    }

    /// At most [`DOCUMENT_LIMIT`] bytes, in at most twice the patience.
    pub(super) fn read_limited(&self, body: &mut Body, what: &str) -> Result<Vec<u8>, RegistryError> {
        let (host, what) = (self.host.name.clone(), what.to_owned());
        let deadline = Instant::now() + self.settings.patience * 2;
        let mut reader = body.as_reader();
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 << 10];
        loop {
            let read = reader.read(&mut buffer).map_err(|error| self.failed(&what, ureq_error(error)))?;
            if read == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(&buffer[..read]);
            if bytes.len() as u64 > DOCUMENT_LIMIT {
                return Err(RegistryError::TooLarge { host, what, limit: DOCUMENT_LIMIT });
            }
            if Instant::now() > deadline {
                let problem =
                    format!("{} bytes in {} s", bytes.len(), (self.settings.patience * 2).as_secs());
                return Err(RegistryError::Stalled { host, what, problem });
            }
        }
    }

    fn access(&self) -> std::sync::MutexGuard<'_, Access> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client's own errors travel inside those of reading.
pub(super) fn ureq_error(error: std::io::Error) -> ureq::Error {
    match error.downcast::<ureq::Error>() {
        Ok(error) => error,
        Err(error) => ureq::Error::Io(error),
    }
}

/// The system's authorities and the host's own.
fn tls(host: &Host) -> Result<TlsConfig, RegistryError> {
    let mut roots = Vec::new();
    if !host.is_plain() && !host.skip_verify {
        // A system without any, or with a broken one, may still reach a registry with its own authority.
        let system = rustls_native_certs::load_native_certs().certs;
        roots.extend(system.iter().map(|certificate| Certificate::from_der(certificate).to_owned()));
    }
    for path in &host.authorities {
        let failed =
            |problem: String| RegistryError::Config { host: host.name.clone(), path: path.clone(), problem };
        let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        let before = roots.len();
        for item in parse_pem(&pem) {
            if let PemItem::Certificate(certificate) = item.map_err(|error| failed(error.to_string()))? {
                roots.push(certificate);
            }
        }
        if roots.len() == before {
            return Err(failed("it holds no certificate".to_owned()));
        }
    }
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .disable_verification(host.skip_verify)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

/// What a registry says in `errors[]`. Anything else is not repeated: a redirect may lead to what is not for users' eyes.
fn explanation(mut response: Response<Body>) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<Explained>,
    }
    #[derive(serde::Deserialize)]
    struct Explained {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut bytes = Vec::new();
    let _ = response.body_mut().as_reader().take(EXPLANATION_LIMIT).read_to_end(&mut bytes);
    let Ok(Errors { errors }) = serde_json::from_slice(&bytes) else { return String::new() };
    let texts = errors.iter().take(3).map(|error| match error.message.as_str() {
        "" => error.code.clone(),
        message => message.chars().take(200).collect(),
    });
    texts.collect::<Vec<_>>().join("; ")
}

/// Scheme, host and port.
fn origin(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    let parts = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)));
    parts.map_or_else(String::new, |(scheme, authority)| format!("{scheme}://{authority}"))
}

fn join(url: &str, location: &str) -> Option<String> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return Some(location.to_owned());
    }
    if let Some(rest) = location.strip_prefix("//") {
        return Some(format!("{}://{rest}", url.split_once("://")?.0));
    }
    location.starts_with('/').then(|| format!("{}{location}", origin(url)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_taken_in_every_form() {
        let at = |location| join("https://r:5000/v2/x?y", location);
        assert_eq!(at("https://cdn/blob?z").as_deref(), Some("https://cdn/blob?z"));
        assert_eq!(at("/blob").as_deref(), Some("https://r:5000/blob"));
        assert_eq!(at("//cdn/blob").as_deref(), Some("https://cdn/blob"));
        assert_eq!(at("file:///etc/shadow"), None);
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://r:5000/v2/x"), "https://r:5000");
        assert_ne!(origin("http://r/v2"), origin("https://r/v2"));
        assert_eq!(origin("nonsense"), "");
    }
}
