//! Cluster DNS of this node: `weir_dns` at the cluster's DNS addresses, fed by the dataplane's stream.
//!
//! It needs nothing but the node itself: what it knows is kept in the state directory and answered from the first moment
//! of the next agent, whether there is a control plane or not.
//!
//! Where it is served, the control plane says by the Service `kube-system/kube-dns`, unless `--cluster-dns` does. An address
//! that was learned is served as long as the agent lives: pods that were told of it ask there.
//!
//! - [`names`] turns what the stream says into services;
//! - [`snapshot`] keeps them over the agent's end;
//! - [`address`] holds the addresses and the sockets;
//! - [`resolv_conf`] reads whom the node itself asks, which is who is asked for other names.

mod address;
mod names;
pub(crate) mod resolv_conf;
mod snapshot;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use weir_client::{Recorder, Severity};
use weir_dns::{Dns, Target};
use weir_proto::Resource as _;
use weir_proto::core::v1::{Node, ObjectReference};

pub use names::Change;

use crate::config::Config;
use address::Troubles;
use resolv_conf::ResolvConf;

/// How soon a changed resolv.conf is noticed.
const LOOK: Duration = Duration::from_secs(2);
/// As in a resolv.conf, further ones are not asked.
const MOST_UPSTREAMS: usize = 3;
const PORT: u16 = 53;
/// The Service that holds the address, made by the control plane.
const SERVICE: (&str, &str) = ("kube-system", "kube-dns");

/// Where pods ask for names; `None` as long as the control plane has yet to say it.
pub type Addresses = watch::Receiver<Option<Vec<IpAddr>>>;

/// Cluster DNS of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClusterDns {
    dns: Dns,
    changed: Arc<Notify>,
    troubles: watch::Receiver<Troubles>,
    addresses: Arc<watch::Sender<Option<Vec<IpAddr>>>>,
    /// By flag: the control plane is not asked.
    given: bool,
}

/// Answers from now on, with what an earlier agent knew. `None`: cluster DNS is somebody else's.
pub fn start(
    config: &Config,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<ClusterDns>> {
    if config.external_cluster_dns {
        return Ok(None);
    }
    let dns = Dns::new(&config.cluster_domain, &config.cluster_dns).context("--cluster-domain")?;
    let file = snapshot::File::in_directory(&config.state_dir.join("dns"));
    match file.read() {
        Ok(services) => {
            tracing::debug!(services = services.len(), "cluster DNS begins with what it knew");
            dns.update(|zone| zone.replace(services));
        }
        // It is written anew with the control plane's next word.
        Err(error) => tracing::warn!(%error, "cluster DNS begins without what it knew"),
    }
    let changed = Arc::new(Notify::new());
    let (told, troubles) = watch::channel(Troubles::default());
    let given = !config.cluster_dns.is_empty();
    let known = if given { Some(config.cluster_dns.clone()) } else { learned(&dns) };
    let (addresses, served) = watch::channel(known);
    tasks.spawn(until(shutdown, serve(dns.clone(), served, Arc::new(told))));
    tasks.spawn(until(shutdown, snapshot::keep(file, dns.clone(), Arc::clone(&changed))));
    let upstreams = follow_upstreams(dns.clone(), config.dns_upstream.clone(), config.resolv_conf.clone());
    tasks.spawn(until(shutdown, upstreams));
    Ok(Some(ClusterDns { dns, changed, troubles, addresses: Arc::new(addresses), given }))
}

/// Serves every address that is heard of.
async fn serve(dns: Dns, mut addresses: Addresses, troubles: Arc<watch::Sender<Troubles>>) {
    let mut serving = BTreeMap::new();
    loop {
        let wanted = addresses.borrow_and_update().clone().unwrap_or_default();
        dns.update(|zone| zone.set_addresses(wanted.clone()));
        for address in wanted {
            serving.entry(address).or_insert_with(|| {
                let socket = SocketAddr::new(address, PORT);
                AbortOnDropHandle::new(tokio::spawn(address::serve(
                    dns.clone(),
                    socket,
                    Arc::clone(&troubles),
                )))
            });
        }
        if addresses.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// What the services that are known say.
fn learned(dns: &Dns) -> Option<Vec<IpAddr>> {
    let (namespace, name) = SERVICE;
    dns.read(|zone| match &zone.service(namespace, name)?.target {
        Target::Cluster { addresses, .. } => Some(addresses.clone()),
        _ => None,
    })
}

impl ClusterDns {
    /// Takes what the control plane says.
    pub fn apply(&self, change: Change) {
        if change.is_empty() {
            return;
        }
        self.dns.update(|zone| change.apply(zone));
        if !self.given
            && let Some(learned) = learned(&self.dns)
        {
            self.addresses.send_if_modified(|known| known.replace(learned) != *known);
        }
        self.changed.notify_one();
    }

    pub fn addresses(&self) -> Addresses {
        self.addresses.subscribe()
    }

    /// Tells the cluster of troubles with the addresses, as events of the Node.
    pub async fn report(mut self, recorder: Recorder, node: String) {
        // As the kubelet refers to its node: by name in the place of the uid.
        let about = ObjectReference {
            api_version: Node::KIND.api_version(),
            kind: Node::KIND.kind.to_owned(),
            name: node.clone(),
            uid: node,
            ..ObjectReference::default()
        };
        loop {
            let troubles: Vec<String> = self.troubles.borrow_and_update().values().cloned().collect();
            for trouble in troubles {
                recorder.tell(about.clone(), Severity::Warning, "ClusterDNSFailed", trouble);
            }
            if self.troubles.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Asks `given`, or without any the name servers of the node's resolv.conf, as it is at the moment.
async fn follow_upstreams(dns: Dns, given: Vec<SocketAddr>, path: PathBuf) {
    if !given.is_empty() {
        dns.set_upstreams(&given);
        return std::future::pending().await;
    }
    let mut before = None;
    loop {
        let own = dns.read(|zone| zone.addresses().to_vec());
        let text = tokio::fs::read_to_string(&path).await.unwrap_or_default();
        let servers: Vec<SocketAddr> = ResolvConf::read(&text)
            .nameservers
            .iter()
            .filter_map(|server| server.parse().ok())
            // Asking oneself would go round.
            .filter(|server| !own.contains(server))
            .map(|server| SocketAddr::new(server, PORT))
            .take(MOST_UPSTREAMS)
            .collect();
        if before.as_ref() != Some(&servers) {
            tracing::info!(?servers, "name servers for names outside the cluster");
            dns.set_upstreams(&servers);
            before = Some(servers);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Runs `task` until told to stop.
fn until(
    shutdown: &CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = anyhow::Result<()>> + Send + 'static {
    let shutdown = shutdown.clone();
    async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = task => {}
        }
        Ok(())
    }
}
