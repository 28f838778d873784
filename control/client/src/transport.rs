//! What carries requests: TLS channels to the API servers, one in use at a time, or a service in this process.
//!
//! A channel connects when it is first used and again after it broke. A server that cannot be reached, or is of no
//! use now, makes the next one current, for this client and all its clones; whoever called decides whether to call again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, HeaderValue};
use tonic::body::Body;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

use crate::config::{Config, ConfigError};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Local = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, BoxError>;

/// A server that answers nothing for this long, not even a ping, is gone.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// gRPC's code, as it stands in the headers of an answer that is nothing but an error.
const UNAVAILABLE: &str = "14";

/// Cheap to clone; all clones agree on the server in use.
#[derive(Clone)]
pub struct Transport {
    route: Route,
    token: Option<HeaderValue>,
}

#[derive(Clone)]
enum Route {
    Remote(Arc<Servers>),
    Local(Local),
}

struct Servers {
    channels: Vec<(String, Channel)>,
    current: AtomicUsize,
}

impl Transport {
    /// Checks what is configured; reaches for no server yet.
    pub(crate) fn remote(config: &Config) -> Result<Transport, ConfigError> {
        if config.servers.is_empty() {
            return Err(ConfigError::NoServer);
        }
        let channels = config
            .servers
            .iter()
            .map(|server| Ok((server.clone(), endpoint(server, config)?.connect_lazy())))
            .collect::<Result<_, ConfigError>>()?;
        let token = config.token.as_ref().map(|token| bearer(token)).transpose()?;
        let servers = Servers { channels, current: AtomicUsize::new(0) };
        Ok(Transport { route: Route::Remote(Arc::new(servers)), token })
    }

    pub(crate) fn local<S, B>(service: S) -> Transport
    where
        S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: tonic::codegen::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let service = service.map_response(|response| response.map(Body::new)).map_err(Into::into);
        Transport { route: Route::Local(BoxCloneSyncService::new(service)), token: None }
    }

    /// How many servers there are to try.
    pub(crate) fn servers(&self) -> usize {
        match &self.route {
            Route::Remote(servers) => servers.channels.len(),
            Route::Local(_) => 1,
        }
    }

    /// The server in use, for messages.
    pub(crate) fn server(&self) -> &str {
        match &self.route {
            Route::Remote(servers) => &servers.current().1.0,
            Route::Local(_) => "the API server in this process",
        }
    }
}

impl Servers {
    fn current(&self) -> (usize, &(String, Channel)) {
        let index = self.current.load(Ordering::Relaxed);
        (index, &self.channels[index])
    }

    /// Of several callers that met the same dead server, one moves on and the others follow.
    fn away(&self, index: usize) {
        let next = (index + 1) % self.channels.len();
        let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Service<http::Request<Body>> for Transport {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Readiness is awaited in `call`, so that a channel that fails there counts as away.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        match &self.route {
            Route::Local(service) => Box::pin(service.clone().oneshot(request)),
            Route::Remote(servers) => {
                let servers = servers.clone();
                Box::pin(async move {
                    let (index, (_, channel)) = servers.current();
                    let answer = channel.clone().oneshot(request).await;
                    // A server that has lost its store says so; another may have it.
                    let useless = |response: &http::Response<Body>| {
                        response.headers().get("grpc-status").is_some_and(|status| status == UNAVAILABLE)
                    };
                    if answer.as_ref().map_or(true, useless) {
                        servers.away(index);
                    }
                    answer.map_err(Into::into)
                })
            }
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Transport").field(&self.server()).finish()
    }
}

fn endpoint(server: &str, config: &Config) -> Result<Endpoint, ConfigError> {
    let unusable = |reason: String| ConfigError::Server { server: server.to_owned(), reason };
    let endpoint = Endpoint::from_shared(server.to_owned()).map_err(|e| unusable(chain(&e)))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    match endpoint.uri().scheme_str() {
        Some("https") => {
            let tls = tls(server, config)?;
            let broken = |e: tonic::transport::Error| ConfigError::Tls {
                server: server.to_owned(),
                reason: chain(&e),
            };
            endpoint.tls_config(tls).map_err(broken)
        }
        Some("http") if config.token.is_some() => {
            Err(ConfigError::TokenInClear { server: server.to_owned() })
        }
        Some("http") => Ok(endpoint),
        _ => Err(unusable("the scheme is missing".to_owned())),
    }
}

fn tls(server: &str, config: &Config) -> Result<ClientTlsConfig, ConfigError> {
    let ca = config.ca_pem.as_ref().ok_or_else(|| ConfigError::NoAuthority { server: server.to_owned() })?;
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    if let Some(name) = &config.server_name {
        tls = tls.domain_name(name.clone());
    }
    match (&config.cert_pem, &config.key_pem) {
        (Some(cert), Some(key)) => Ok(tls.identity(Identity::from_pem(cert, key))),
        (None, None) => Ok(tls),
        (Some(_), None) => Err(ConfigError::HalfIdentity { missing: "key" }),
        (None, Some(_)) => Err(ConfigError::HalfIdentity { missing: "certificate" }),
    }
}

fn bearer(token: &str) -> Result<HeaderValue, ConfigError> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| ConfigError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

/// An error with its causes; transports say little in their outermost words.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: Config) -> String {
        Transport::remote(&config).unwrap_err().to_string()
    }

    #[tokio::test]
    async fn what_cannot_work_is_refused_before_connecting() {
        assert!(refused(Config::default()).contains("no API server"));
        assert!(refused(Config::new("https://127.0.0.1:1")).contains("certificate authority"));
        assert!(refused(Config::new("127.0.0.1:1")).contains("https://host:port"));
        assert!(refused(Config::new("http://127.0.0.1:1").token("t")).contains("unencrypted"));
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let config = Config::new("https://h:1").token("hunter2").identity("CERT", "KEY");
        let text = format!("{config:?}");
        assert!(!text.contains("hunter2") && !text.contains("KEY"), "{text}");
    }
}
