//! The API server in this process: its store, its sockets, its life.

use std::fs::DirBuilder;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_api::{Config as ApiConfig, Server, ServerError, pki};
use weir_store::{Store, embedded};

use crate::config::{Config, StoreKind, host_of};
use crate::{kubeconfig, sockets};

/// A server that answers.
pub(crate) struct Running {
    pub(crate) server: Arc<Server>,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), ServerError>>,
}

/// Takes the sockets first: a port in use is found out before anything is written.
pub(crate) async fn start(config: &Config, inherited: Vec<StdListener>) -> Result<Running> {
    let addresses = config.addresses(inherited.len());
    let listeners = sockets::open(inherited, &addresses).await?;
    let addresses: Vec<SocketAddr> =
        listeners.iter().map(|listener| listener.local_addr()).collect::<Result<_, _>>()?;
    let mut advertised = config.advertise.clone();
    if advertised.is_empty() {
        let first = *addresses.first().ok_or_else(|| anyhow!("nothing to listen on"))?;
        advertised.push(format!("https://{}", reachable(first)));
    }

    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data_dir)
        .with_context(|| format!("create the data directory {}", config.data_dir.display()))?;
    let store = open_store(config).await?;
    pki::share(store.as_ref(), &config.data_dir).await.context("agree on the cluster's authority")?;
    let mut server_names: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    server_names.extend(advertised.iter().filter_map(|url| host_of(url)));
    let mut api = ApiConfig::new(&config.data_dir);
    api.server_names = server_names;
    api.ranges = config.ranges()?;
    api.address = for_pods(advertised.first().map_or("", String::as_str), &addresses);
    api.limits = config.limits.limits();
    api.event_ttl = config.event_ttl;
    api.shutdown_delay = config.shutdown_delay_duration;
    let server = Arc::new(Server::new(store, api).context("start the API server")?);
    if let Some(path) = &config.kubeconfig {
        kubeconfig::write(path, &advertised, server.pki())?;
    }
    tracing::info!(?addresses, ?advertised, "serving the API");
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (server, stop) = (server.clone(), stop.clone());
        async move { server.serve(listeners, stop).await }
    });
    Ok(Running { server, stop, serving })
}

impl Running {
    /// Ends when the server does, which it should not.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        (&mut self.serving).await.context("the API server broke down")?.context("serve the API")?;
        Err(anyhow!("the API server ended"))
    }

    pub(crate) async fn drain(self) -> Result<()> {
        self.stop.cancel();
        if self.serving.is_finished() {
            return Ok(());
        }
        self.serving.await.context("the API server broke down")?.context("serve the API")
    }
}

/// Where a client on this machine finds a server that listens everywhere.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Where pods reach the server: by what is advertised, if that is an address, else by the first address listened on. The
/// loopback interface of a pod is its own.
fn for_pods(advertised: &str, addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let advertised = advertised.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'));
    let advertised = advertised.and_then(|address| address.parse::<SocketAddr>().ok());
    let serves = |address: &SocketAddr| !address.ip().is_loopback() && !address.ip().is_unspecified();
    advertised.into_iter().chain(addresses.iter().copied()).find(serves)
}

async fn open_store(config: &Config) -> Result<Arc<dyn Store>> {
    match config.store {
        StoreKind::Embedded => {
            let path = config.data_dir.join("store");
            let opened = tokio::task::spawn_blocking(move || embedded::open(path)).await?;
            Ok(Arc::new(opened.context("open the embedded store")?))
        }
        StoreKind::Etcd => Ok(Arc::new(config.etcd.connect().await?)),
    }
}
