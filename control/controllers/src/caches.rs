//! The live copies that the controllers share, and the indices they look things up by.

use weir_client::informer::Options;
use weir_client::{Client, Informer};
use weir_proto::Resource;
use weir_proto::apps::v1::{Deployment, ReplicaSet};
use weir_proto::coordination::v1::Lease;
use weir_proto::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use weir_proto::discovery::v1::EndpointSlice;
use weir_proto::net::v1alpha1::DataplaneNode;

use crate::{owners, pod_end};

/// By the uid of the controller.
pub(crate) const CONTROLLER: &str = "controller";
/// What no controller has, by namespace.
pub(crate) const ORPHANS: &str = "orphans";
pub(crate) const NAMESPACE: &str = "namespace";
/// Pods by the node they are on.
pub(crate) const NODE: &str = "node";
/// Pods that wait for the word that they take no new connections; all under one value, the empty one.
pub(crate) const ENDING: &str = "ending";
/// Endpoint slices by "namespace/service".
pub(crate) const SERVICE: &str = "service";

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const NODE_LEASES: &str = "kube-node-lease";

#[derive(Debug, Clone)]
pub(crate) struct Caches {
    pub(crate) deployments: Informer<Deployment>,
    pub(crate) replica_sets: Informer<ReplicaSet>,
    pub(crate) pods: Informer<Pod>,
    pub(crate) services: Informer<Service>,
    pub(crate) slices: Informer<EndpointSlice>,
    pub(crate) nodes: Informer<Node>,
    pub(crate) dataplanes: Informer<DataplaneNode>,
    pub(crate) node_leases: Informer<Lease>,
    pub(crate) namespaces: Informer<Namespace>,
    pub(crate) service_accounts: Informer<ServiceAccount>,
}

impl Caches {
    pub(crate) fn start(client: &Client) -> Caches {
        let pods = owned::<Pod>()
            .index(NAMESPACE, |pod| vec![pod.meta().namespace.clone()])
            .index(NODE, |pod| {
                Some(pod.spec().node_name.clone()).filter(|node| !node.is_empty()).into_iter().collect()
            })
            .index(ENDING, pod_end::ending);
        let slices = Options::default().index(SERVICE, |slice: &EndpointSlice| {
            let service = slice.meta().labels.get(SERVICE_NAME);
            service.map(|service| format!("{}/{service}", slice.meta().namespace)).into_iter().collect()
        });
        Caches {
            deployments: Informer::start(client.api(), by_namespace()),
            replica_sets: Informer::start(client.api(), owned()),
            pods: Informer::start(client.api(), pods),
            services: Informer::start(client.api(), by_namespace()),
            slices: Informer::start(client.api(), slices),
            nodes: Informer::start(client.api(), Options::default()),
            dataplanes: Informer::start(client.api(), Options::default()),
            node_leases: Informer::start(client.namespaced(NODE_LEASES), Options::default()),
            namespaces: Informer::start(client.api(), Options::default()),
            service_accounts: Informer::start(client.api(), Options::default()),
        }
    }

    pub(crate) async fn synced(&self) {
        tokio::join!(
            self.deployments.synced(),
            self.replica_sets.synced(),
            self.pods.synced(),
            self.services.synced(),
            self.slices.synced(),
            self.nodes.synced(),
            self.dataplanes.synced(),
            self.node_leases.synced(),
            self.namespaces.synced(),
            self.service_accounts.synced(),
        );
    }
}

fn by_namespace<R: Resource>() -> Options<R> {
    Options::default().index(NAMESPACE, |object: &R| vec![Resource::meta(object).namespace.clone()])
}

fn owned<R: Resource>() -> Options<R> {
    let controller =
        |object: &R| owners::controller_of(Resource::meta(object)).map(|owner| owner.uid.clone());
    Options::default().index(CONTROLLER, move |object: &R| controller(object).into_iter().collect()).index(
        ORPHANS,
        move |object: &R| match controller(object) {
            Some(_) => Vec::new(),
            None => vec![Resource::meta(object).namespace.clone()],
        },
    )
}
