//! What the agent answers, to the API server alone: logs of its containers, and live views of its dataplane.
//!
//! Mutual TLS by the cluster's authority; a caller must belong to `system:masters`.

mod inspect;
mod logs;

use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Identity as TlsIdentity, Server, ServerTlsConfig};
use tonic::{Request, Status};
use weir_client::Informer;
use weir_proto::core::v1::Pod;
use weir_proto::status::ApiError;
use weir_proto::weir::v1::inspect_server::InspectServer;
use weir_proto::weir::v1::streams_server::StreamsServer;
use weir_runtime::Runtime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::dataplane;
use crate::identity::Identity;

const MASTERS: &str = "system:masters";

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
}

/// Serves until told to stop. Whenever the identity changes, new connections get the new certificate.
pub async fn serve(
    address: SocketAddr,
    mut identity: watch::Receiver<Identity>,
    sources: Sources,
    shutdown: CancellationToken,
) -> Result<(), ServerError> {
    let listen = |source| ServerError::Listen { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(listen)?;
    listener.set_nonblocking(true).map_err(listen)?;
    tracing::info!(%address, "listening");
    loop {
        let present = identity.borrow_and_update().clone();
        let tls = ServerTlsConfig::new()
            .identity(TlsIdentity::from_pem(&present.certificate, &present.key))
            .client_ca_root(Certificate::from_pem(&present.ca));
        let accepting = listener.try_clone().and_then(tokio::net::TcpListener::from_std).map_err(listen)?;
        let router = Server::builder()
            .tls_config(tls)?
            .add_service(StreamsServer::with_interceptor(logs::Service::new(sources.clone()), authorize))
            .add_service(InspectServer::with_interceptor(inspect::Service::new(sources.clone()), authorize));
        let renewed = CancellationToken::new();
        let serving = router.serve_with_incoming_shutdown(
            TcpListenerStream::new(accepting),
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

/// The certificate's organisations are its groups.
fn authorize(request: Request<()>) -> Result<Request<()>, Status> {
    let certificates = request.peer_certs();
    let first = certificates.as_ref().and_then(|certificates| certificates.first());
    let allowed = first.is_some_and(|der| {
        X509Certificate::from_der(der).is_ok_and(|(_, certificate)| {
            let mut groups = certificate.subject().iter_organization();
            groups.any(|group| group.as_str() == Ok(MASTERS))
        })
    });
    if allowed {
        Ok(request)
    } else {
        Err(ApiError::forbidden(format!("only {MASTERS} may ask an agent")).into())
    }
}
