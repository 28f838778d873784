//! Services as environment variables: `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT` and Docker's links, of the services of the
//! pod's namespace that exist when a container starts; of `default/kubernetes` always.
//!
//! They are listed when a container starts. Starts that come together share a list. While the API server is away the last
//! one counts; pods that need no API server start without.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use weir_client::{Client, ListOptions};
use weir_proto::core::v1::{Pod, Service};

use super::mirror;

/// How long a start waits for the list.
const PATIENCE: Duration = Duration::from_secs(5);
/// The API server's own service keeps its address: this old it may be.
const SETTLED: Duration = Duration::from_secs(60);
/// The namespace and name of the API server's own service.
const OWN: (&str, &str) = ("default", "kubernetes");

#[derive(Debug, Error)]
#[error("services have not yet been read at least once, cannot construct envvars: {0}")]
pub(super) struct ServicesError(String);

type Variables = Vec<(String, String)>;

type Slot = Arc<tokio::sync::Mutex<Option<Listed>>>;

/// What was listed last, by namespace and selector. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Services {
    lists: Arc<Mutex<HashMap<(String, String), Slot>>>,
}

#[derive(Debug)]
struct Listed {
    /// When the list was asked for: it holds all that was there then.
    at: Instant,
    services: Arc<Vec<Service>>,
}

impl Services {
    /// The variables of a container of `pod` that starts now.
    pub(super) async fn variables(&self, client: &Client, pod: &Pod) -> Result<Variables, ServicesError> {
        // It waits for no API that may be out of reach, unless its file asks for services.
        if mirror::is_static(pod) && pod.spec().enable_service_links == Some(false) {
            return Ok(Variables::new());
        }
        match self.listed(client, pod).await {
            Err(error) if mirror::is_static(pod) => {
                tracing::warn!(pod = pod.meta().name, %error, "a static pod starts without variables for services");
                Ok(Variables::new())
            }
            variables => variables,
        }
    }

    async fn listed(&self, client: &Client, pod: &Pod) -> Result<Variables, ServicesError> {
        let namespace = &pod.meta().namespace;
        let linked = pod.spec().enable_service_links != Some(false);
        let selector = format!("metadata.name={}", OWN.1);
        let own = self.list(client, OWN.0, &selector, SETTLED).await?;
        let others =
            if linked { self.list(client, namespace, "", Duration::ZERO).await? } else { Arc::default() };
        let is_own =
            |service: &&Service| (service.meta().namespace.as_str(), service.meta().name.as_str()) == OWN;
        let own = own.iter().filter(is_own);
        Ok(own.chain(others.iter().filter(|service| !is_own(service))).flat_map(of_service).collect())
    }

    /// A list that was asked for at most `age` before now.
    async fn list(
        &self,
        client: &Client,
        namespace: &str,
        selector: &str,
        age: Duration,
    ) -> Result<Arc<Vec<Service>>, ServicesError> {
        let asked = Instant::now();
        let slot = {
            let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(lists.entry((namespace.to_owned(), selector.to_owned())).or_default())
        };
        let mut slot = slot.lock().await;
        let serves = |listed: &&Listed| {
            // What was not there yet may be by now.
            let age = if listed.services.is_empty() { Duration::ZERO } else { age };
            listed.at + age >= asked
        };
        if let Some(listed) = slot.as_ref().filter(serves) {
            return Ok(Arc::clone(&listed.services));
        }
        let at = Instant::now();
        let (api, all) = (client.namespaced::<Service>(namespace), ListOptions::fields(selector));
        let list = tokio::time::timeout(PATIENCE, api.list(&all)).await;
        let list = list.map_err(|_| "the API server does not answer".to_owned());
        match list.and_then(|list| list.map_err(|error| error.to_string())) {
            Ok(list) => {
                let services = Arc::new(list.items.into_iter().map(needed).collect::<Vec<_>>());
                *slot = Some(Listed { at, services: Arc::clone(&services) });
                Ok(services)
            }
            Err(error) => match slot.as_ref() {
                Some(listed) => {
                    tracing::debug!(namespace, error, "services are those that were listed last");
                    Ok(Arc::clone(&listed.services))
                }
                None => Err(ServicesError(error)),
            },
        }
    }
}

/// What variables are made from, and nothing else: this is kept.
fn needed(service: Service) -> Service {
    let mut kept = Service::default();
    kept.meta_mut().name.clone_from(&service.meta().name);
    kept.meta_mut().namespace.clone_from(&service.meta().namespace);
    if let Some(spec) = service.spec {
        let own = kept.spec.get_or_insert_default();
        (own.cluster_ip, own.ports) = (spec.cluster_ip, spec.ports);
    }
    kept
}

/// The variables of one service; none of one without an address.
fn of_service(service: &Service) -> Variables {
    let Some(spec) = &service.spec else { return Vec::new() };
    let (Ok(address), [first, ..]) = (spec.cluster_ip.parse::<IpAddr>(), &spec.ports[..]) else {
        return Vec::new();
    };
    let name = variable_name(&service.meta().name);
    let mut variables = vec![
        (format!("{name}_SERVICE_HOST"), address.to_string()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in spec.ports.iter().filter(|port| !port.name.is_empty()) {
        variables.push((format!("{name}_SERVICE_PORT_{}", variable_name(&port.name)), port.port.to_string()));
    }
    let host = match address {
        IpAddr::V4(_) => address.to_string(),
        IpAddr::V6(_) => format!("[{address}]"),
    };
    for (index, port) in spec.ports.iter().enumerate() {
        let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
        let (upper, lower) = (protocol.to_ascii_uppercase(), protocol.to_ascii_lowercase());
        let url = format!("{lower}://{host}:{}", port.port);
        if index == 0 {
            variables.push((format!("{name}_PORT"), url.clone()));
        }
        let link = format!("{name}_PORT_{}_{upper}", port.port);
        variables.push((link.clone(), url));
        variables.push((format!("{link}_PROTO"), lower));
        variables.push((format!("{link}_PORT"), port.port.to_string()));
        variables.push((format!("{link}_ADDR"), address.to_string()));
    }
    variables
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use weir_client::fake::FakeServer;
    use weir_proto::core::v1::{ServicePort, ServiceSpec};

    use super::*;

    fn service(namespace: &str, name: &str, address: &str, ports: &[(&str, &str, i32)]) -> Service {
        let port = |(name, protocol, port): &(&str, &str, i32)| ServicePort {
            name: (*name).to_owned(),
            protocol: (*protocol).to_owned(),
            port: *port,
            ..ServicePort::default()
        };
        let spec = ServiceSpec {
            cluster_ip: address.to_owned(),
            ports: ports.iter().map(port).collect(),
            ..ServiceSpec::default()
        };
        let mut service = Service { spec: Some(spec), ..Service::default() };
        service.meta_mut().namespace = namespace.to_owned();
        service.meta_mut().name = name.to_owned();
        service
    }

    #[test]
    fn variables_are_named_as_kubernetes_and_docker_do() {
        let redis = service("d", "redis-master", "10.0.0.11", &[("", "TCP", 6379), ("p-q", "UDP", 8080)]);
        let expected = [
            ("REDIS_MASTER_SERVICE_HOST", "10.0.0.11"),
            ("REDIS_MASTER_SERVICE_PORT", "6379"),
            ("REDIS_MASTER_SERVICE_PORT_P_Q", "8080"),
            ("REDIS_MASTER_PORT", "tcp://10.0.0.11:6379"),
            ("REDIS_MASTER_PORT_6379_TCP", "tcp://10.0.0.11:6379"),
            ("REDIS_MASTER_PORT_6379_TCP_PROTO", "tcp"),
            ("REDIS_MASTER_PORT_6379_TCP_PORT", "6379"),
            ("REDIS_MASTER_PORT_6379_TCP_ADDR", "10.0.0.11"),
            ("REDIS_MASTER_PORT_8080_UDP", "udp://10.0.0.11:8080"),
            ("REDIS_MASTER_PORT_8080_UDP_PROTO", "udp"),
            ("REDIS_MASTER_PORT_8080_UDP_PORT", "8080"),
            ("REDIS_MASTER_PORT_8080_UDP_ADDR", "10.0.0.11"),
        ];
        assert_eq!(of_service(&redis), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for address in ["None", ""] {
            assert_eq!(of_service(&service("d", "headless", address, &[("", "TCP", 1)])), []);
        }
        let six = of_service(&service("d", "six", "2001:db8::1", &[("", "", 80)]));
        assert!(six.contains(&("SIX_PORT".to_owned(), "tcp://[2001:db8::1]:80".to_owned())), "{six:?}");
    }

    #[tokio::test]
    async fn a_pod_is_told_of_its_namespace_and_always_of_the_api_server() {
        let client = FakeServer::default().client();
        for service in [
            service("default", "kubernetes", "10.96.0.1", &[("https", "TCP", 443)]),
            service("default", "other", "10.96.0.2", &[("", "TCP", 80)]),
            service("shop", "web", "10.96.0.3", &[("", "TCP", 80)]),
        ] {
            client.namespaced::<Service>(&service.meta().namespace).create(&service).await.expect("made");
        }
        let services = Services::default();
        let hosts = async |namespace: &str, links: Option<bool>| {
            let mut pod = Pod::default();
            pod.meta_mut().namespace = namespace.to_owned();
            pod.spec_mut().enable_service_links = links;
            let all = services.variables(&client, &pod).await.expect("listed");
            let names = all.into_iter().map(|(name, _)| name);
            names.filter_map(|name| name.strip_suffix("_SERVICE_HOST").map(str::to_owned)).collect::<Vec<_>>()
        };
        assert_eq!(hosts("shop", None).await, ["KUBERNETES", "WEB"]);
        assert_eq!(hosts("shop", Some(false)).await, ["KUBERNETES"]);
        assert_eq!(hosts("default", Some(true)).await, ["KUBERNETES", "OTHER"]);
        assert_eq!(hosts("default", Some(false)).await, ["KUBERNETES"]);
    }
}
