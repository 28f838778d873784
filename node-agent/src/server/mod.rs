//! What the agent answers, to the API server alone: logs of its containers, commands in them, and live views of its
//! dataplane.
//!
//! Mutual TLS by the cluster's authority; a caller must belong to `system:masters`.

mod attach;
mod ends;
mod exec;
mod forward;
mod inspect;
mod logs;
mod pages;
mod streams;
mod target;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity as TlsIdentity, Server, ServerTlsConfig};
use tonic::{Request, Status};
use weir_client::Informer;
use weir_proto::core::v1::Pod;
use weir_proto::status::ApiError;
use weir_proto::weir::v1::NodeStats;
use weir_proto::weir::v1::inspect_server::InspectServer;
use weir_proto::weir::v1::streams_server::StreamsServer;
use weir_runtime::Runtime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::dataplane;
use crate::identity::Identity;
use crate::stats::Stats;

const MASTERS: &str = "system:masters";
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_ANSWER: Duration = Duration::from_secs(15);

#[derive(Debug, Error)]
pub enum ServerError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot serve: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// What the answers are made from.
#[derive(Clone, Debug)]
pub struct Sources {
    pub node_name: String,
    pub runtime: Arc<Runtime>,
    pub pods: Informer<Pod>,
    pub dataplane: dataplane::Handle,
    pub stats: Arc<Stats>,
}

impl Sources {
    async fn measure(&self) -> Result<NodeStats, ApiError> {
        let stats = Arc::clone(&self.stats);
        let measured = tokio::task::spawn_blocking(move || stats.measure()).await;
        measured.map_err(|_| ApiError::internal("interrupted"))
    }
}

/// Serves until told to stop. Whenever the identity changes, new connections get the new certificate.
pub async fn serve(
    address: SocketAddr,
    mut identity: watch::Receiver<Option<Identity>>,
    sources: Sources,
    shutdown: CancellationToken,
) -> Result<(), ServerError> {
    let listen = |source| ServerError::Listen { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(listen)?;
    listener.set_nonblocking(true).map_err(listen)?;
    tracing::info!(%address, "listening");
    loop {
        // A node that has yet to join has nothing to show, and nobody to answer.
        let Ok(present) = identity.wait_for(Option::is_some).await.map(|present| (*present).clone()) else {
            return Ok(());
        };
        let Some(present) = present else { continue };
        let tls = ServerTlsConfig::new()
            .identity(TlsIdentity::from_pem(&present.certificate, &present.key))
            .client_ca_root(Certificate::from_pem(&present.ca));
        let accepting = listener.try_clone().and_then(tokio::net::TcpListener::from_std).map_err(listen)?;
        let router = Server::builder()
            // Sessions end when the API server's machine is gone without a word.
            .http2_keepalive_interval(Some(PING_EVERY))
            .http2_keepalive_timeout(Some(PING_ANSWER))
            .tls_config(tls)?
            .add_routes(routes(&sources));
        let renewed = CancellationToken::new();
        let serving = router.serve_with_incoming_shutdown(
            TcpIncoming::from(accepting).with_nodelay(Some(true)),
            renewed.clone().cancelled_owned(),
        );
        let mut serving = tokio::spawn(serving);
        tokio::select! {
            () = shutdown.cancelled() => {
                serving.abort();
                return Ok(());
            }
            ended = &mut serving => return Ok(ended.unwrap_or(Ok(()))?),
            // The old server's connections go on until they end by themselves.
            changed = identity.changed() => {
                renewed.cancel();
                if changed.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

fn routes(sources: &Sources) -> Routes {
    let streams = StreamsServer::with_interceptor(streams::Service::new(sources.clone()), authorize);
    let inspect = InspectServer::with_interceptor(inspect::Service::new(sources.clone()), authorize);
    let services = Routes::new(streams).add_service(inspect).into_axum_router();
    services.merge(pages::router(sources.clone())).into()
}

fn authorize(request: Request<()>) -> Result<Request<()>, Status> {
    allow(request.peer_certs().as_deref().map(Vec::as_slice))?;
    Ok(request)
}

/// The certificate's organisations are its groups.
fn allow(certificates: Option<&[CertificateDer<'static>]>) -> Result<(), ApiError> {
    let first = certificates.and_then(|certificates| certificates.first());
    let allowed = first.is_some_and(|der| {
        X509Certificate::from_der(der).is_ok_and(|(_, certificate)| {
            let mut groups = certificate.subject().iter_organization();
            groups.any(|group| group.as_str() == Ok(MASTERS))
        })
    });
    if allowed { Ok(()) } else { Err(ApiError::forbidden(format!("only {MASTERS} may ask an agent"))) }
}
