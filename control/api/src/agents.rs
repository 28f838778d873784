//! Calls to the nodes' agents, by mutual TLS: this server shows its client certificate, the agent one for the
//! node's name, whatever its address.
//!
//! A connection is kept for the calls that follow, [`IDLE`] long: a handshake costs more than most calls. While it is
//! kept it is pinged, so that one whose machine is gone without a word is not taken for good; one that the agent has
//! closed is opened anew by the next call.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use weir_proto::core::v1::Node;
use weir_proto::status::ApiError;

use crate::pki::Pki;
use crate::registry::Registry;

const CONNECT: Duration = Duration::from_secs(5);
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_ANSWER: Duration = Duration::from_secs(5);
/// How long a connection stays that nobody asks for. Who is using it then goes on.
const IDLE: Duration = Duration::from_secs(30);
/// Where agents listen that do not say.
const PORT: i32 = 10250;

/// Why agents cannot be called at all.
#[derive(Debug, thiserror::Error)]
#[error("use this server's certificates to call agents: {0}")]
pub struct AgentsError(String);

/// Opens connections to agents.
#[derive(Clone)]
pub(crate) struct Agents {
    registry: Registry,
    tls: Arc<ClientConfig>,
    kept: Arc<Mutex<HashMap<String, Kept>>>,
}

/// A connection to one node's agent.
struct Kept {
    address: String,
    channel: Channel,
    until: Instant,
}

impl std::fmt::Debug for Agents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Agents")
    }
}

impl Agents {
    pub(crate) fn new(registry: Registry, pki: &Pki) -> Result<Self, AgentsError> {
        let broken = |error: &dyn std::fmt::Display| AgentsError(error.to_string());
        let mut roots = RootCertStore::empty();
        let ca =
            rustls::pki_types::CertificateDer::from_pem_slice(pki.authority.certificate_pem().as_bytes())
                .map_err(|error| broken(&error))?;
        roots.add(ca).map_err(|error| broken(&error))?;
        let (chain, key) = crate::server::tls::identity(&pki.agent_client).map_err(|error| broken(&error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_root_certificates(roots).with_client_auth_cert(chain, key))
            .map_err(|error| broken(&error))?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Agents { registry, tls: Arc::new(tls), kept: Arc::default() })
    }

    /// A connection to the agent of a node.
    pub(crate) async fn connect(&self, node_name: &str) -> Result<Channel, ApiError> {
        let address = self.address(node_name)?;
        if let Some(channel) = self.kept(node_name, &address) {
            return Ok(channel);
        }
        let channel = self.open(node_name, &address).await?;
        self.keep(node_name, address, channel.clone());
        Ok(channel)
    }

    fn kept(&self, node_name: &str, address: &str) -> Option<Channel> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.get_mut(node_name).filter(|kept| kept.address == address)?;
        found.until = Instant::now() + IDLE;
        Some(found.channel.clone())
    }

    /// The one of two that were opened at the same time goes when its calls are over.
    fn keep(&self, node_name: &str, address: String, channel: Channel) {
        let until = Instant::now() + IDLE;
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if all.insert(node_name.to_owned(), Kept { address, channel, until }).is_none() {
            tokio::spawn(forget(Arc::downgrade(&self.kept), node_name.to_owned(), until));
        }
    }

    async fn open(&self, node_name: &str, address: &str) -> Result<Channel, ApiError> {
        let name = ServerName::try_from(node_name.to_owned())
            .map_err(|_| ApiError::bad_request(format!("{node_name:?} is not the name of a node")))?;
        let tls = TlsConnector::from(self.tls.clone());
        let target = address.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let (tls, name, address) = (tls.clone(), name.clone(), target.clone());
            async move {
                let connect = async {
                    let tcp = TcpStream::connect(address).await?;
                    tcp.set_nodelay(true)?;
                    tls.connect(name, tcp).await
                };
                // Here, because it is also how a connection that was lost is opened anew.
                let late =
                    |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CONNECT:?}"));
                timeout(CONNECT, connect).await.map_err(late)?.map(TokioIo::new)
            }
        });
        // The URI only fills the :authority header; the connector above decides where to.
        let endpoint = Endpoint::from_static("http://agent.invalid")
            // Streams end when the node is gone without a word.
            .keep_alive_while_idle(true)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER);
        let unreachable = |reason: String| {
            ApiError::unavailable(format!(
                "the agent of node {node_name:?} at {address} cannot be reached: {reason}"
            ))
        };
        endpoint.connect_with_connector(connector).await.map_err(|error| unreachable(causes(&error)))
    }

    fn address(&self, node_name: &str) -> Result<String, ApiError> {
        let cached = self.registry.peek::<Node>("", node_name);
        let node = cached.as_ref().and_then(|cached| cached.typed::<Node>());
        let status = node.and_then(|node| node.status.as_ref()).ok_or_else(|| {
            ApiError::unavailable(format!("node {node_name:?} is not registered, or has not reported yet"))
        })?;
        let internal = status.addresses.iter().find(|address| address.r#type == "InternalIP");
        let ip: std::net::IpAddr = internal
            .and_then(|address| address.address.parse().ok())
            .ok_or_else(|| ApiError::unavailable(format!("node {node_name:?} has no InternalIP")))?;
        let endpoint =
            status.daemon_endpoints.as_ref().and_then(|endpoints| endpoints.kubelet_endpoint.as_ref());
        let port = endpoint.map_or(PORT, |endpoint| endpoint.port);
        let port = u16::try_from(port)
            .map_err(|_| ApiError::unavailable(format!("node {node_name:?} reports port {port}")))?;
        Ok(std::net::SocketAddr::new(ip, port).to_string())
    }
}

/// Lets go of a node's connection once nobody has asked for it for long enough.
async fn forget(kept: Weak<Mutex<HashMap<String, Kept>>>, node_name: String, mut until: Instant) {
    loop {
        sleep_until(until).await;
        let Some(kept) = kept.upgrade() else { return };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.get(&node_name) {
            Some(found) if found.until > Instant::now() => until = found.until,
            _ => {
                kept.remove(&node_name);
                return;
            }
        }
    }
}

/// The error and what led to it.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
