//! The Service `kube-system/kube-dns`: where pods ask for names.
//!
//! Each node's agent answers there by itself, at an address of the node's own. So the Service has no endpoints, and says by
//! a label that it is not the dataplane that serves it. It holds the address, that no other Service gets it, shows it where
//! people look for it, and gives it a name. One that is there already is left as it is.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use weir_proto::IntOrString;
use weir_proto::core::v1::{Service, ServicePort};
use weir_proto::status::ApiError;

use crate::dataplane::PROXY_NAME;
use crate::registry::Registry;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
const PORT: i32 = 53;
const EVERY: Duration = Duration::from_secs(5);
/// After a failure: its namespace may be about to be made, and nodes wait to hear of the address.
const SOON: Duration = Duration::from_millis(250);

/// Keeps the Service until `stop`.
pub(super) async fn keep(registry: Registry, address: Ipv4Addr, stop: CancellationToken) {
    let mut told = false;
    loop {
        let made = make(&registry, address).await;
        let pause = if made.is_ok() { EVERY } else { SOON };
        match made {
            // Somebody has the address: they are to know why pods will not find names.
            Err(error) if error.is_invalid() && !told => {
                tracing::warn!(%error, "cannot reserve {address} for cluster DNS");
                told = true;
            }
            Err(error) => tracing::debug!(%error, "cannot make the service kube-system/kube-dns yet"),
            Ok(()) => told = false,
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn make(registry: &Registry, address: Ipv4Addr) -> Result<(), ApiError> {
    if registry.peek::<Service>(NAMESPACE, NAME).is_some() {
        return Ok(());
    }
    match registry.create_own(service(address)).await {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}

fn service(address: Ipv4Addr) -> Service {
    let mut service = Service::default();
    let meta = service.meta_mut();
    (meta.namespace, meta.name) = (NAMESPACE.to_owned(), NAME.to_owned());
    let labels = [("k8s-app", NAME), ("kubernetes.io/name", "WeirDNS"), (PROXY_NAME, "weir-agent")];
    meta.labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let spec = service.spec_mut();
    spec.cluster_ip = address.to_string();
    let port = |name: &str, protocol: &str| ServicePort {
        name: name.to_owned(),
        protocol: protocol.to_owned(),
        port: PORT,
        target_port: Some(IntOrString::Int(PORT)),
        ..ServicePort::default()
    };
    spec.ports = vec![port("dns", "UDP"), port("dns-tcp", "TCP")];
    service
}
