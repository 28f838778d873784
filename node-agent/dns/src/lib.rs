//! Cluster DNS of a node: the names of services and pods, answered on the node itself.
//!
//! - [`Zone`] holds the services and answers about them: [Kubernetes' DNS specification][spec] 1.1.0, computed from the
//!   question, so that a change of a service costs what that service costs;
//! - `upstream` asks others about everything else, with a cache;
//! - `responder` makes an answer from both; `wire` is what is on the wire; `server` has the sockets.
//!
//! [`Dns`] puts these together. It knows nothing of the control plane: somebody tells it of services.
//!
//! **Invariant:** whatever is sent to the sockets, memory is bounded and nothing panics: one question is read at a time per
//! socket, cluster names are answered before the next is read, and questions that wait for others have places.
//!
//! Left out: zone transfers, DNSSEC (answers from upstream come without signatures), wildcard and ANY questions. Not built on
//! hickory-server: that spawns a task for each datagram and takes any number of connections.
//!
//! [spec]: https://github.com/kubernetes/dns/blob/master/docs/specification.md

mod metrics;
mod order;
mod responder;
mod server;
mod service;
mod upstream;
mod wire;
mod zone;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket};

use responder::Responder;
pub use service::{Endpoint, Endpoints, Port, Service, Target};
pub use zone::{Zone, ZoneError};

/// A socket that cannot be served any more.
#[derive(Debug, Error)]
#[error("cannot receive on {protocol} socket {address}: {source}")]
pub struct ServeError {
    protocol: &'static str,
    address: SocketAddr,
    source: std::io::Error,
}

/// Cluster DNS of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dns {
    zone: Arc<RwLock<Zone>>,
    responder: Arc<Responder>,
}

impl Dns {
    /// `domain` is the cluster's, such as `cluster.local`; `addresses` are those it is served at.
    pub fn new(domain: &str, addresses: &[IpAddr]) -> Result<Self, ZoneError> {
        let zone = Arc::new(RwLock::new(Zone::new(domain, addresses)?));
        let responder = Arc::new(Responder::new(Arc::clone(&zone)));
        Ok(Self { zone, responder })
    }

    /// Changes what is answered, all at once.
    pub fn update<T>(&self, change: impl FnOnce(&mut Zone) -> T) -> T {
        change(&mut self.zone.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn read<T>(&self, read: impl FnOnce(&Zone) -> T) -> T {
        read(&self.zone.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who is asked about names outside the cluster; with nobody, such questions fail.
    pub fn set_upstreams(&self, servers: &[SocketAddr]) {
        self.responder.upstream().set_servers(servers);
    }

    /// Answers on these sockets until cancelled.
    pub async fn serve(&self, udp: UdpSocket, tcp: TcpListener) -> Result<(), ServeError> {
        server::serve(Arc::clone(&self.responder), udp, tcp).await
    }
}
