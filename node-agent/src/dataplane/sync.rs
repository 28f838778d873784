//! The stream that feeds the dataplane and cluster DNS: batches from the control plane, acknowledged once the kernel holds
//! them and names are answered by them.
//!
//! While the control plane is away, everything stays as it is. A stream that breaks, or a batch that cannot be
//! applied, leads to a new stream, whose first batch names everything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use weir_client::{Backoff, Client};
use weir_dataplane::{Applied, Backend, Batch, Protocol, ServiceKey, ServicePort};
use weir_network::{Network, Route};
use weir_proto::weir::v1::{
    DataplaneAck, DataplaneBackend, DataplaneBatch, DataplaneHello, DataplaneProtocol, DataplaneReport,
    DataplaneRoutes, DataplaneServiceKey, DataplaneServicePort, dataplane_report,
};

use super::{DataplaneError, Handle};
use crate::dns::{self, ClusterDns};
use crate::node::Readiness;

/// Acknowledgements that wait to be sent.
const QUEUE: usize = 16;

#[derive(Debug, Error)]
enum SyncError {
    #[error(transparent)]
    Client(#[from] weir_client::Error),
    #[error("the control plane ended the stream")]
    Ended,
    #[error("batch {revision} cannot be applied: {reason}")]
    Apply { revision: i64, reason: String },
}

/// A batch that makes no sense.
#[derive(Debug, Error)]
enum BatchError {
    #[error("{what} has an address of {length} bytes")]
    Address { what: String, length: usize },
    #[error("{what} has port {port}")]
    Port { what: String, port: u32 },
    #[error("{what} has no known protocol")]
    Protocol { what: String },
    #[error("route to node {node}: {reason}")]
    Route { node: String, reason: String },
}

/// Who follows the control plane, and what it is for.
#[derive(Debug)]
pub struct Sync {
    pub client: Client,
    pub node: String,
    pub dataplane: Handle,
    pub network: Arc<Network>,
    pub dns: Option<ClusterDns>,
    /// Told once the kernel holds the cluster's services: before that, a pod's connections to them would be refused.
    pub ready: watch::Sender<Readiness>,
}

impl Sync {
    /// Follows the control plane until told to stop.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut failing = false;
        loop {
            let mut progressed = false;
            tokio::select! {
                () = shutdown.cancelled() => return,
                error = self.follow(&mut progressed) => {
                    // Once for each break, however long the control plane is away.
                    if progressed || !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "dataplane stream; trying on");
                    }
                }
            }
            if progressed {
                failing = false;
                backoff.reset();
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.delay()) => {}
            }
        }
    }

    async fn follow(&self, progressed: &mut bool) -> SyncError {
        match self.try_follow(progressed).await {
            Ok(()) => SyncError::Ended,
            Err(error) => error,
        }
    }

    async fn try_follow(&self, progressed: &mut bool) -> Result<(), SyncError> {
        let (reports, queue) = mpsc::channel(QUEUE);
        let hello = dataplane_report::Report::Hello(DataplaneHello { node_name: self.node.clone() });
        let said = |report| DataplaneReport { report: Some(report) };
        // The queue is new and has room.
        let _ = reports.try_send(said(hello));
        let status = |status| SyncError::Client(self.client.error("sync the dataplane", status));
        let mut batches =
            self.client.dataplane().sync(ReceiverStream::new(queue)).await.map_err(status)?.into_inner();
        let mut holds = 0;
        while let Some(mut batch) = batches.message().await.map_err(status)? {
            let revision = batch.revision;
            let names = dns::Change::of(&mut batch);
            let outcome = self.apply(batch).await;
            // A name leads to an address only once the kernel knows what to do with that. But a batch that the kernel cannot
            // hold is no reason to answer with old addresses.
            if let Some(dns) = &self.dns {
                dns.apply(names);
            }
            let ack = match &outcome {
                Ok(applied) => {
                    holds = revision;
                    *progressed = true;
                    self.say_ready();
                    let count = |number: u64| number.cast_signed();
                    DataplaneAck {
                        revision,
                        error: String::new(),
                        services: count(applied.services),
                        backends: count(applied.backends),
                    }
                }
                Err(reason) => {
                    DataplaneAck { revision: holds, error: reason.clone(), ..DataplaneAck::default() }
                }
            };
            if reports.send(said(dataplane_report::Report::Ack(ack))).await.is_err() {
                return Err(SyncError::Ended);
            }
            // Later batches are changes to one that is missing: begin again.
            outcome.map_err(|reason| SyncError::Apply { revision, reason })?;
        }
        Ok(())
    }

    fn say_ready(&self) {
        let first = self.ready.send_if_modified(|readiness| {
            let first = *readiness == Readiness::Starting;
            if first {
                *readiness = Readiness::Ready;
            }
            first
        });
        if first {
            tracing::info!(node = self.node, "the node is ready");
        }
    }

    /// Routes come first: a backend is told to programs only when packets find the way to it.
    async fn apply(&self, batch: DataplaneBatch) -> Result<Applied, String> {
        let (batch, routes) = translate(batch, &self.node).map_err(|error| error.to_string())?;
        let routed = match &routes {
            Some(routes) => self.network.set_routes(routes).await.map_err(|error| error.to_string()),
            None => Ok(()),
        };
        let (revision, snapshot) = (batch.revision, batch.snapshot);
        // A route that cannot be set is no reason to keep services from the other nodes.
        let applied = self.dataplane.call(move |dataplane| dataplane.apply(&batch)).await;
        let applied = applied.map_err(|error: DataplaneError| error.to_string())?;
        routed?;
        tracing::debug!(
            revision,
            snapshot,
            services = applied.services,
            backends = applied.backends,
            "applied"
        );
        Ok(applied)
    }
}

fn translate(batch: DataplaneBatch, node: &str) -> Result<(Batch, Option<Vec<Route>>), BatchError> {
    let routes = batch.routes.map(|routes| translate_routes(routes, node)).transpose()?;
    let upserts = batch.upserts.into_iter().map(service_port).collect::<Result<_, _>>()?;
    let deletes = batch.deletes.into_iter().map(service_key).collect();
    Ok((Batch { revision: batch.revision, snapshot: batch.snapshot, upserts, deletes }, routes))
}

fn service_key(key: DataplaneServiceKey) -> ServiceKey {
    ServiceKey { namespace: key.namespace, name: key.name, port_name: key.port_name }
}

fn service_port(port: DataplaneServicePort) -> Result<ServicePort, BatchError> {
    let protocol = port.protocol();
    let key = service_key(port.key.unwrap_or_default());
    let what = || format!("service {key}");
    let protocol = match protocol {
        DataplaneProtocol::Tcp => Protocol::Tcp,
        DataplaneProtocol::Udp => Protocol::Udp,
        DataplaneProtocol::Unspecified => return Err(BatchError::Protocol { what: what() }),
    };
    let cluster_ips = port.cluster_ips.iter().map(|bytes| address(bytes, &what)).collect::<Result<_, _>>()?;
    let node_port = (port.node_port != 0).then(|| number(port.node_port, &what)).transpose()?;
    let backends = port.backends.into_iter().map(backend).collect::<Result<_, _>>()?;
    Ok(ServicePort { protocol, cluster_ips, port: number(port.port, &what)?, node_port, backends, key })
}

fn backend(backend: DataplaneBackend) -> Result<Backend, BatchError> {
    let what = || format!("backend {}", backend.pod);
    Ok(Backend {
        address: address(&backend.address, &what)?,
        port: number(backend.port, &what)?,
        ready: backend.ready,
        terminating: backend.terminating,
        node_name: backend.node_name,
        pod: backend.pod,
    })
}

fn translate_routes(routes: DataplaneRoutes, node: &str) -> Result<Vec<Route>, BatchError> {
    let mut all = Vec::new();
    for route in routes.routes.into_iter().filter(|route| route.node_name != node) {
        let what = || format!("node {}", route.node_name);
        let via = address(&route.node_address, &what)?;
        for cidr in &route.pod_cidrs {
            let cidr = cidr.parse().map_err(|error: weir_network::CidrError| BatchError::Route {
                node: route.node_name.clone(),
                reason: error.to_string(),
            })?;
            all.push(Route { cidr, via });
        }
    }
    Ok(all)
}

fn address(bytes: &[u8], what: &dyn Fn() -> String) -> Result<IpAddr, BatchError> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(octets).into());
    }
    if let Ok(octets) = <[u8; 16]>::try_from(bytes) {
        return Ok(Ipv6Addr::from(octets).into());
    }
    Err(BatchError::Address { what: what(), length: bytes.len() })
}

fn number(port: u32, what: &dyn Fn() -> String) -> Result<u16, BatchError> {
    match u16::try_from(port) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(BatchError::Port { what: what(), port }),
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::weir::v1::DataplaneRoute;

    use super::*;

    fn route(node: &str, address: &[u8], cidr: &str) -> DataplaneRoute {
        DataplaneRoute {
            node_name: node.to_owned(),
            node_address: address.to_vec(),
            pod_cidrs: vec![cidr.to_owned()],
        }
    }

    fn port() -> DataplaneServicePort {
        DataplaneServicePort {
            key: Some(DataplaneServiceKey {
                namespace: "default".to_owned(),
                name: "echo".to_owned(),
                ..Default::default()
            }),
            protocol: DataplaneProtocol::Tcp.into(),
            cluster_ips: vec![vec![10, 96, 0, 1]],
            port: 80,
            node_port: 0,
            backends: vec![DataplaneBackend {
                address: vec![10, 32, 1, 2],
                port: 8080,
                ready: true,
                ..Default::default()
            }],
        }
    }

    #[test]
    fn a_batch_becomes_services_and_the_routes_to_the_others() {
        let routes = vec![
            route("me", &[10, 31, 0, 11], "10.32.1.0/24"),
            route("you", &[10, 31, 0, 12], "10.32.2.0/24"),
        ];
        let batch = DataplaneBatch {
            revision: 7,
            snapshot: true,
            upserts: vec![port()],
            routes: Some(DataplaneRoutes { routes }),
            ..Default::default()
        };
        let (batch, routes) = translate(batch, "me").expect("a good batch");
        assert_eq!((batch.revision, batch.snapshot), (7, true));
        assert_eq!(batch.upserts[0].cluster_ips, [IpAddr::from([10, 96, 0, 1])]);
        assert_eq!(batch.upserts[0].node_port, None);
        let routes = routes.expect("routes");
        assert_eq!(routes.len(), 1);
        assert_eq!(
            (routes[0].cidr.to_string().as_str(), routes[0].via),
            ("10.32.2.0/24", IpAddr::from([10, 31, 0, 12]))
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let with = |change: fn(&mut DataplaneServicePort)| {
            let mut port = port();
            change(&mut port);
            let batch = DataplaneBatch { upserts: vec![port], ..Default::default() };
            translate(batch, "me").expect_err("refused").to_string()
        };
        assert_eq!(
            with(|port| port.cluster_ips[0] = vec![1, 2]),
            "service default/echo has an address of 2 bytes"
        );
        assert_eq!(with(|port| port.port = 70_000), "service default/echo has port 70000");
        assert_eq!(with(|port| port.protocol = 0), "service default/echo has no known protocol");
        assert_eq!(with(|port| port.backends[0].port = 0), "backend  has port 0");
        let routes = DataplaneRoutes { routes: vec![route("you", &[10, 31, 0, 12], "10.32.2.1/24")] };
        let batch = DataplaneBatch { routes: Some(routes), ..Default::default() };
        let error = translate(batch, "me").expect_err("refused").to_string();
        assert!(error.starts_with("route to node you: \"10.32.2.1/24\" has bits set"), "{error}");
    }
}
