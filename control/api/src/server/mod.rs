//! The server: everything put together, on TLS ports and inside the process.
//!
//! One port speaks HTTP/1.1 and HTTP/2; `/weir.v1.*` is gRPC, everything else Kubernetes' REST. The client's
//! certificate, if it shows one that our authority signed, says who it is; the [gate](gate) lets nobody else
//! further than health and joining. [`Server::in_process`] enters behind the TLS, with an identity of the caller's
//! choice, through the same router.

mod budgets;
mod connection;
mod dns_service;
mod gate;
mod health;
mod in_process;
mod limits;
mod namespaces;
mod own_service;
mod peers;
mod prepare;
mod scrape;
pub(crate) mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use weir_proto::status::ApiError;
use weir_proto::weir::v1::inspect_server::InspectServer;
use weir_proto::weir::v1::maintenance_server::MaintenanceServer;
use weir_proto::weir::v1::node_service_server::NodeServiceServer;
use weir_proto::weir::v1::resources_server::ResourcesServer;
use weir_proto::weir::v1::streams_server::StreamsServer;
use weir_store::Store;

use health::Health;
pub use in_process::InProcess;
pub use limits::{Limits, Rate};
use namespaces::Furnisher;
pub(crate) use namespaces::{ROOT_CA, ROOT_CA_KEY};
use own_service::OwnService;

use crate::agents::{Agents, AgentsError};
use crate::allocate::Ranges;
use crate::auth::User;
use crate::dataplane::{Caches, Dataplane, Hub};
use crate::grpc::{
    LARGEST_REQUEST, inspect::InspectFace, maintenance::MaintenanceFace, nodes::NodesFace,
    resources::ResourcesFace, streams::StreamsFace,
};
use crate::metrics;
use crate::pki::{self, Pki, PkiError};
use crate::registry::Registry;
use crate::rest;
use crate::tokens::openid;

/// What a server needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Holds `pki/` and `bootstrap-token`.
    pub data_dir: PathBuf,
    /// DNS names and addresses by which clients reach this server.
    pub server_names: Vec<String>,
    /// From where services get addresses and node ports.
    pub ranges: Ranges,
    /// Where pods reach this server; none where they do not.
    pub address: Option<SocketAddr>,
    pub limits: Limits,
    /// How long an Event stays after it was last heard of.
    pub event_ttl: Duration,
    /// Whether this server gives every namespace its account and the authority's certificate.
    pub furnish_namespaces: bool,
    /// How long requests are still taken after the server was told to stop and is not ready any more: so long others
    /// may need to notice.
    pub shutdown_delay: Duration,
}

impl Config {
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Config {
            data_dir: data_dir.into(),
            server_names: Vec::new(),
            ranges: Ranges::default(),
            address: None,
            limits: Limits::default(),
            event_ttl: Duration::from_secs(3600),
            furnish_namespaces: true,
            shutdown_delay: Duration::ZERO,
        }
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Agents(#[from] AgentsError),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error("follow what nodes are to be told: {0}")]
    Dataplane(#[from] ApiError),
}

/// The API server. Its tasks end when it is dropped.
#[derive(Debug)]
pub struct Server {
    registry: Registry,
    pki: Arc<Pki>,
    bootstrap_token: Arc<str>,
    router: Router,
    limits: Limits,
    shutdown_delay: Duration,
    prepared: watch::Receiver<bool>,
    /// From now on not ready.
    leaving: CancellationToken,
    /// Ends when pods are not told of this server any more.
    withdrawn: Mutex<Option<JoinHandle<()>>>,
    /// Ends watches and other streams when the server drains.
    draining: CancellationToken,
    _stop: DropGuard,
}

impl Server {
    /// Reads or makes the keys, and starts to follow the store. Runs inside a tokio runtime.
    pub fn new(store: Arc<dyn Store>, config: Config) -> Result<Self, ServerError> {
        let (cluster_ip, dns_ip) = (config.ranges.cluster_ips.first(), config.ranges.cluster_ips.dns());
        let mut names = config.server_names;
        names.push(cluster_ip.to_string());
        let pki = Arc::new(Pki::open(&config.data_dir.join("pki"), &names)?);
        let bootstrap_token: Arc<str> =
            pki::bootstrap_token(&config.data_dir.join("bootstrap-token"))?.into();
        let store = metrics::Measured::over(store);
        let registry = Registry::new(store.clone(), config.ranges, config.event_ttl);
        let stop = CancellationToken::new();
        let leaving = stop.child_token();
        let draining = stop.child_token();
        registry.start(&stop);
        let furnisher =
            Furnisher { registry: registry.clone(), authority_pem: pki.authority.certificate_pem().into() };
        let furnisher = config.furnish_namespaces.then_some(furnisher);
        let prepared = prepare::start(registry.clone(), furnisher, stop.clone());
        crate::compaction::start(store.clone(), stop.clone());
        let agents = Agents::new(registry.clone(), &pki)?;
        let hub = Hub::new();
        tokio::spawn(hub.clone().run(Caches::of(&registry)?, stop.clone()));
        let own_service = OwnService {
            registry: registry.clone(),
            store: store.clone(),
            cluster_ip,
            address: config.address.filter(|address| !address.ip().is_loopback()),
        };
        let withdrawn = tokio::spawn(own_service.keep(leaving.clone()));
        tokio::spawn(dns_service::keep(registry.clone(), dns_ip, leaving.clone()));
        let health = Health::new(registry.clone(), store, prepared.clone(), leaving.clone());
        let gate = gate::Gate::new(&config.limits, registry.clone());
        let router = router(&registry, &pki, &bootstrap_token, &agents, hub, health, &draining)
            .layer(axum::middleware::from_fn_with_state(gate, gate::pass));
        Ok(Server {
            registry,
            pki,
            bootstrap_token,
            router,
            limits: config.limits,
            shutdown_delay: config.shutdown_delay,
            prepared,
            leaving,
            withdrawn: Mutex::new(Some(withdrawn)),
            draining,
            _stop: stop.drop_guard(),
        })
    }

    /// Serves until `shutdown`, is then not ready any more, lets requests finish and ends streams.
    pub async fn serve(
        &self,
        listeners: Vec<TcpListener>,
        shutdown: CancellationToken,
    ) -> Result<(), ServerError> {
        let tls = tls::server(&self.pki)?;
        let stop = connection::Stop { shutdown: CancellationToken::new(), draining: self.draining.clone() };
        let accepting = stop.shutdown.clone();
        let serving = connection::serve(listeners, tls, self.router.clone(), &self.limits, stop);
        let leave = async {
            shutdown.cancelled().await;
            self.leaving.cancel();
            if let Some(withdrawn) = self.withdrawn.lock().await.take() {
                // It has a time limit of its own.
                let _ = withdrawn.await;
            }
            tokio::time::sleep(self.shutdown_delay).await;
            accepting.cancel();
        };
        tokio::join!(serving, leave);
        Ok(())
    }

    /// The same handlers without a socket, as `user`.
    pub fn in_process(&self, user: User) -> InProcess {
        InProcess::new(self.router.clone(), Some(user))
    }

    /// The same, as whoever the request's token names.
    pub fn anonymous(&self) -> InProcess {
        InProcess::new(self.router.clone(), None)
    }

    /// Waits until the store has answered, and what every cluster has is there.
    pub async fn ready(&self) {
        // The sender goes only when this server does.
        let _ = self.prepared.clone().wait_for(|prepared| *prepared).await;
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    pub fn bootstrap_token(&self) -> &str {
        &self.bootstrap_token
    }
}

fn router(
    registry: &Registry,
    pki: &Arc<Pki>,
    bootstrap_token: &Arc<str>,
    agents: &Agents,
    hub: Arc<Hub>,
    health: Health,
    draining: &CancellationToken,
) -> Router {
    let (registry, agents, draining) = (registry.clone(), agents.clone(), draining.clone());
    let resources =
        ResourcesServer::new(ResourcesFace { registry: registry.clone(), draining: draining.clone() })
            .max_decoding_message_size(LARGEST_REQUEST);
    let nodes =
        NodeServiceServer::new(NodesFace { pki: pki.clone(), bootstrap_token: bootstrap_token.clone() })
            .max_decoding_message_size(64 * 1024);
    let streams = StreamsServer::new(StreamsFace {
        registry: registry.clone(),
        agents: agents.clone(),
        draining: draining.clone(),
    });
    let inspect = InspectServer::new(InspectFace { registry: registry.clone(), agents: agents.clone() });
    let maintenance =
        MaintenanceServer::new(MaintenanceFace { registry: registry.clone(), draining: draining.clone() });
    let dataplane = Dataplane::new(hub, registry.clone(), draining.clone()).into_server();
    Router::new()
        .route_service("/weir.v1.Resources/{method}", resources)
        .route_service("/weir.v1.NodeService/{method}", nodes)
        .route_service("/weir.v1.Streams/{method}", streams)
        .route_service("/weir.v1.Inspect/{method}", inspect)
        .route_service("/weir.v1.Maintenance/{method}", maintenance)
        .route_service("/weir.v1.DataplaneService/{method}", dataplane)
        .merge(health::routes(health))
        .merge(scrape::routes(registry.clone()))
        .merge(openid::routes(registry.clone()))
        .fallback_service(rest::service(registry, agents, draining))
}
