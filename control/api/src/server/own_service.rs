//! The Service `default/kubernetes`: how pods find the API servers.
//!
//! Each server keeps an entry in the store under a lease that ends soon after the server does. What is found there is
//! what the Service's EndpointSlices say; every server sees to that, and whoever writes first is right, for all write the
//! same. A server that is told to stop takes its entry away first.
//!
//! Left out: addresses of the loopback interface. Pods have one of their own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use weir_proto::core::v1::{Service, ServicePort};
use weir_proto::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use weir_proto::status::ApiError;
use weir_proto::{IntOrString, Resource};
use weir_store::{LeaseId, ListOptions, Store, Txn};

use crate::cache::Filter;
use crate::registry::{Context, DeleteOptions, Registry, Target};
use crate::store_error;

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
const PORT_NAME: &str = "https";
const PORT: i32 = 443;
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// One key a server: its address, with the port as the value.
const ENTRIES: &str = "/registry/masterleases/";
/// How long the entry of a server outlives it, when it ends without a word.
const ENTRY_STAYS: Duration = Duration::from_secs(15);
const EVERY: Duration = Duration::from_secs(5);
/// After a round that failed: pods wait for this Service.
const AGAIN: Duration = Duration::from_millis(200);
/// How long taking the entry away may take.
const FAREWELL: Duration = Duration::from_secs(3);

pub(super) struct OwnService {
    pub(super) registry: Registry,
    pub(super) store: Arc<dyn Store>,
    /// What the Service should have.
    pub(super) cluster_ip: Ipv4Addr,
    /// Where pods reach this server, if they do.
    pub(super) address: Option<SocketAddr>,
}

impl OwnService {
    /// Keeps the Service until `leaving`, and returns when this server is no longer in it.
    pub(super) async fn keep(self, leaving: CancellationToken) {
        let mut lease = None;
        loop {
            let pause = match self.round(&mut lease).await {
                Ok(()) => EVERY,
                Err(error) => {
                    tracing::debug!(%error, "cannot bring the service default/kubernetes up to date yet");
                    AGAIN
                }
            };
            tokio::select! {
                () = leaving.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        if let Some(lease) = lease {
            let farewell = async {
                let _ = self.store.revoke(lease).await;
                self.write_slices().await
            };
            match timeout(FAREWELL, farewell).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "left the service default/kubernetes as it was"),
                Err(_) => tracing::warn!("left the service default/kubernetes as it was: the store is slow"),
            }
        }
    }

    async fn round(&self, lease: &mut Option<LeaseId>) -> Result<(), ApiError> {
        if let Some(address) = self.address {
            self.register(address, lease).await?;
        }
        self.make_service().await?;
        self.write_slices().await
    }

    async fn register(&self, address: SocketAddr, lease: &mut Option<LeaseId>) -> Result<(), ApiError> {
        if let Some(held) = *lease {
            match self.store.keep_alive(held).await {
                Ok(()) => return Ok(()),
                Err(weir_store::Error::LeaseNotFound(_)) => *lease = None,
                Err(error) => return Err(store_error::during("write")(error)),
            }
        }
        let granted = self.store.grant_lease(ENTRY_STAYS).await.map_err(store_error::during("write"))?;
        let key = format!("{ENTRIES}{}", address.ip());
        let entry = Txn::new().put_leased(key, address.port().to_string(), granted);
        self.store.txn(entry).await.map_err(store_error::during("write"))?;
        *lease = Some(granted);
        Ok(())
    }

    async fn make_service(&self) -> Result<(), ApiError> {
        if self.registry.peek::<Service>(NAMESPACE, NAME).is_some() {
            return Ok(());
        }
        let target_port = self.address.map_or(PORT, |address| i32::from(address.port()));
        let mut wanted = service(target_port, Some(self.cluster_ip));
        let mut made = self.registry.create_own(wanted).await;
        if made.as_ref().is_err_and(ApiError::is_invalid) {
            // Somebody has the address. The Service is found by its name as well.
            wanted = service(target_port, None);
            made = self.registry.create_own(wanted).await;
        }
        match made {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => Ok(()),
        }
    }

    async fn write_slices(&self) -> Result<(), ApiError> {
        let found = self.store.list(ENTRIES, ListOptions::default()).await;
        let found = found.map_err(store_error::during("list"))?;
        let servers = found.items.iter().filter_map(|entry| {
            let address: IpAddr = entry.key.strip_prefix(ENTRIES)?.parse().ok()?;
            let port: u16 = std::str::from_utf8(&entry.value).ok()?.parse().ok()?;
            Some(SocketAddr::new(address, port))
        });
        let wanted = slices(servers);
        let filter = Filter::namespace(NAMESPACE);
        let cached = self.registry.peek_all::<EndpointSlice>(&filter);
        let present: BTreeMap<&str, &EndpointSlice> = cached
            .iter()
            .filter_map(|slice| slice.typed::<EndpointSlice>())
            .filter(|slice| is_ours(slice))
            .map(|slice| (slice.meta().name.as_str(), slice))
            .collect();
        for (name, slice) in &wanted {
            match present.get(name.as_str()) {
                Some(there) if says_the_same(there, slice) => {}
                Some(_) => {
                    let target = Target::new(EndpointSlice::KIND, NAMESPACE, name);
                    self.registry.update(&Context::system(), &target, Box::new(slice.clone())).await?;
                }
                None => match self.registry.create_own(slice.clone()).await {
                    Err(error) if !error.is_already_exists() => return Err(error),
                    _ => {}
                },
            }
        }
        for name in present.keys().filter(|name| !wanted.contains_key(**name)) {
            let target = Target::new(EndpointSlice::KIND, NAMESPACE, name);
            match self.registry.delete(&Context::system(), &target, &DeleteOptions::default()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn service(target_port: i32, cluster_ip: Option<Ipv4Addr>) -> Service {
    let mut service = Service::default();
    let meta = service.meta_mut();
    (meta.namespace, meta.name) = (NAMESPACE.to_owned(), NAME.to_owned());
    meta.labels = labels([("component", "apiserver"), ("provider", "kubernetes")]);
    let spec = service.spec_mut();
    spec.cluster_ip = cluster_ip.map(|address| address.to_string()).unwrap_or_default();
    spec.ports = vec![ServicePort {
        name: PORT_NAME.to_owned(),
        protocol: "TCP".to_owned(),
        port: PORT,
        target_port: Some(IntOrString::Int(target_port)),
        ..ServicePort::default()
    }];
    service
}

/// A slice for every port and family that servers have; the first bears the Service's own name, as in Kubernetes.
fn slices(servers: impl Iterator<Item = SocketAddr>) -> BTreeMap<String, EndpointSlice> {
    let mut groups: BTreeMap<(bool, u16), Vec<IpAddr>> = BTreeMap::new();
    for server in servers {
        groups.entry((server.is_ipv6(), server.port())).or_default().push(server.ip());
    }
    let mut made = BTreeMap::new();
    for (index, ((ipv6, port), mut addresses)) in groups.into_iter().enumerate() {
        addresses.sort_unstable();
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        let name = match index {
            0 => NAME.to_owned(),
            _ => format!("{NAME}-{}-{port}", family.to_lowercase()),
        };
        let mut slice = EndpointSlice { address_type: family.to_owned(), ..EndpointSlice::default() };
        let meta = slice.meta_mut();
        (meta.namespace, meta.name) = (NAMESPACE.to_owned(), name.clone());
        meta.labels = labels([(SERVICE_NAME, NAME)]);
        slice.ports = vec![EndpointPort {
            name: Some(PORT_NAME.to_owned()),
            protocol: Some("TCP".to_owned()),
            port: Some(i32::from(port)),
            ..EndpointPort::default()
        }];
        let ready = EndpointConditions { ready: Some(true), ..EndpointConditions::default() };
        slice.endpoints = addresses
            .into_iter()
            .map(|address| Endpoint {
                addresses: vec![address.to_string()],
                conditions: Some(ready),
                ..Endpoint::default()
            })
            .collect();
        made.insert(name, slice);
    }
    made
}

fn labels<const N: usize>(labels: [(&str, &str); N]) -> BTreeMap<String, String> {
    labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn is_ours(slice: &EndpointSlice) -> bool {
    let meta = slice.meta();
    meta.labels.get(SERVICE_NAME).is_some_and(|name| name == NAME)
        && (meta.name == NAME || meta.name.starts_with("kubernetes-ipv"))
}

fn says_the_same(one: &EndpointSlice, other: &EndpointSlice) -> bool {
    (&one.endpoints, &one.ports, &one.address_type) == (&other.endpoints, &other.ports, &other.address_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(servers: &[&str]) -> Vec<(String, Vec<String>, Option<i32>)> {
        let slices = slices(servers.iter().map(|server| server.parse().unwrap()));
        slices
            .into_values()
            .map(|slice| {
                let addresses = slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone());
                (slice.meta().name.clone(), addresses.collect(), slice.ports[0].port)
            })
            .collect()
    }

    #[test]
    fn servers_share_a_slice_where_they_share_a_port() {
        assert_eq!(made(&[]), []);
        let (one, two) = ("10.0.0.1".to_owned(), "10.0.0.2".to_owned());
        assert_eq!(
            made(&["10.0.0.2:6443", "10.0.0.1:6443"]),
            [("kubernetes".to_owned(), vec![one.clone(), two.clone()], Some(6443))]
        );
        let apart = made(&["10.0.0.2:7443", "10.0.0.1:6443"]);
        assert_eq!(apart[0], ("kubernetes".to_owned(), vec![one], Some(6443)));
        assert_eq!(apart[1], ("kubernetes-ipv4-7443".to_owned(), vec![two], Some(7443)));
    }
}
