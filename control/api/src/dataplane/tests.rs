//! The service over a real store and real caches, without sockets.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Request, Status, Streaming};
use weir_proto::core::v1::{Node, Service};
use weir_proto::discovery::v1::EndpointSlice;
use weir_proto::net::v1alpha1::{DataplaneNode, DataplaneNodeStatus};
use weir_proto::weir::v1::dataplane_report::Report;
use weir_proto::weir::v1::dataplane_service_client::DataplaneServiceClient;
use weir_proto::weir::v1::dataplane_service_server::DataplaneServiceServer;
use weir_proto::weir::v1::{DataplaneAck, DataplaneBatch, DataplaneHello, DataplaneReport};
use weir_proto::{Object, Resource};
use weir_store::{Store, Txn, embedded};

use super::{Caches, Dataplane, Hub};
use crate::allocate::Ranges;
use crate::auth::User;
use crate::cache::{Filter, WatchEvent};
use crate::registry::Registry;

const SOON: Duration = Duration::from_secs(20);

struct Control {
    store: Arc<dyn Store>,
    registry: Registry,
    hub: Arc<Hub>,
    draining: CancellationToken,
    _stop: DropGuard,
    _folder: TempDir,
}

impl Control {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(embedded::open(folder.path().join("store")).unwrap());
        let registry = Registry::new(store.clone(), Ranges::default(), Duration::from_secs(3600));
        let stop = CancellationToken::new();
        registry.start(&stop);
        let hub = Hub::new();
        tokio::spawn(hub.clone().run(Caches::of(&registry).unwrap(), stop.clone()));
        Self { store, registry, hub, draining: stop.child_token(), _stop: stop.drop_guard(), _folder: folder }
    }

    /// Stores an object as it is; answers with the revision.
    async fn put<R: Resource>(&self, value: Value) -> i64 {
        let object = R::KIND.from_json(&value, &mut Vec::new()).unwrap();
        let key = R::KIND.key(&object.meta().namespace, &object.meta().name);
        self.store.txn(Txn::new().put(key, object.encode())).await.unwrap().revision
    }

    async fn put_service(&self, name: &str) -> i64 {
        let spec = json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]});
        self.put::<Service>(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec})).await
    }

    async fn put_slice(&self, service: &str, addresses: &[&str]) -> i64 {
        let labels = json!({"kubernetes.io/service-name": service});
        let endpoints: Vec<_> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
        let metadata = json!({"name": format!("{service}-x"), "namespace": "shop", "labels": labels});
        self.put::<EndpointSlice>(
            json!({"metadata": metadata, "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints}),
        )
        .await
    }

    async fn put_node(&self, name: &str) -> i64 {
        let status = json!({"addresses": [{"type": "InternalIP", "address": "10.31.0.11"}]});
        let metadata = json!({"name": name, "uid": "the-uid"});
        self.put::<Node>(json!({"metadata": metadata, "spec": {"podCIDR": "10.32.1.0/24"}, "status": status}))
            .await
    }

    async fn connect(&self, user: User, node_name: &str) -> Connection {
        let service = Dataplane::new(self.hub.clone(), self.registry.clone(), self.draining.clone());
        let server = DataplaneServiceServer::with_interceptor(service, move |mut request: Request<()>| {
            request.extensions_mut().insert(user.clone());
            Ok(request)
        });
        let (reports, stream) = mpsc::channel(16);
        let mut client = DataplaneServiceClient::new(server);
        let batches = client.sync(ReceiverStream::new(stream)).await.unwrap().into_inner();
        let connection = Connection { reports, batches };
        connection.report(Report::Hello(DataplaneHello { node_name: node_name.to_owned() })).await;
        connection
    }

    /// The status of a node's dataplane, once it is as wanted.
    async fn acknowledged(&self, wanted: impl Fn(&DataplaneNode) -> bool) -> DataplaneNode {
        let mut watcher = self.registry.follow::<DataplaneNode>(Filter::default()).await.unwrap();
        let wait = async {
            loop {
                if let WatchEvent::Change { object, .. } = watcher.next().await.unwrap().unwrap()
                    && let Some(node) = object.typed::<DataplaneNode>().filter(|node| wanted(node))
                {
                    return node.clone();
                }
            }
        };
        timeout(SOON, wait).await.expect("it was never written")
    }
}

struct Connection {
    reports: mpsc::Sender<DataplaneReport>,
    batches: Streaming<DataplaneBatch>,
}

impl Connection {
    async fn report(&self, report: Report) {
        self.reports.send(DataplaneReport { report: Some(report) }).await.unwrap();
    }

    async fn ack(&self, revision: i64, error: &str) {
        let ack = DataplaneAck { revision, error: error.to_owned(), services: 1, backends: 2 };
        self.report(Report::Ack(ack)).await;
    }

    async fn next(&mut self) -> Result<DataplaneBatch, Status> {
        timeout(SOON, self.batches.next()).await.expect("no batch came").expect("the stream ended")
    }

    /// Batches up to the first that reaches a revision; revisions never fall.
    async fn until(&mut self, revision: i64) -> Vec<DataplaneBatch> {
        let mut batches: Vec<DataplaneBatch> = Vec::new();
        while batches.last().is_none_or(|last| last.revision < revision) {
            let batch = self.next().await.unwrap();
            assert!(batches.last().is_none_or(|last| last.revision <= batch.revision), "{batches:?}");
            batches.push(batch);
        }
        batches
    }
}

fn upserts(batches: &[DataplaneBatch]) -> Vec<(&str, usize)> {
    let ports = batches.iter().flat_map(|batch| &batch.upserts);
    ports.map(|port| (&*port.key.as_ref().unwrap().name, port.backends.len())).collect()
}

#[tokio::test]
async fn a_node_gets_a_snapshot_then_what_changes_up_to_each_revision() {
    let control = Control::start().await;
    control.put_node("n1").await;
    control.put_service("web").await;
    let revision = control.put_slice("web", &["10.32.1.2", "10.32.1.3"]).await;
    let mut node = control.connect(User::node("n1"), "n1").await;
    let batches = node.until(revision).await;
    assert!(batches[0].snapshot && batches[1..].iter().all(|batch| !batch.snapshot));
    assert_eq!(upserts(&batches).last(), Some(&("web", 2)));
    assert_eq!(batches.iter().rev().find_map(|batch| batch.routes.as_ref()).unwrap().routes.len(), 1);

    let revision = control.put_slice("web", &["10.32.1.2"]).await;
    assert_eq!(upserts(&node.until(revision).await), [("web", 1)]);

    let key = Service::KIND.key("shop", "web");
    let revision = control.store.txn(Txn::new().delete(key)).await.unwrap().revision;
    let batches = node.until(revision).await;
    assert_eq!(batches.iter().map(|batch| batch.deletes.len()).sum::<usize>(), 1);
}

#[tokio::test]
async fn a_write_that_changes_nothing_for_the_kernel_is_still_reached() {
    let control = Control::start().await;
    control.put_service("web").await;
    let revision = control.put_slice("web", &["10.32.1.2"]).await;
    let mut node = control.connect(User::node("n1"), "n1").await;
    node.until(revision).await;
    let revision = control.put_slice("web", &["10.32.1.2"]).await;
    assert_eq!(upserts(&node.until(revision).await), []);
}

#[tokio::test]
async fn acknowledgements_are_written_to_the_nodes_object() {
    let control = Control::start().await;
    control.put_node("n1").await;
    let revision = control.put_service("web").await;
    let mut node = control.connect(User::node("n1"), "n1").await;
    node.until(revision).await;
    node.ack(revision, "").await;
    let status = |object: &DataplaneNode| object.status.clone().unwrap_or_default();
    let written = control.acknowledged(|object| status(object).revision == revision).await;
    assert_eq!(written.meta().name, "n1");
    assert_eq!(written.meta().owner_references[0].uid, "the-uid");
    let DataplaneNodeStatus { services, backends, error, applied_at, .. } = status(&written);
    assert_eq!((services, backends, &*error), (1, 2, ""));
    assert!(applied_at.is_some());

    node.ack(revision, "map SLOTS is full").await;
    let failed = control.acknowledged(|object| !status(object).error.is_empty()).await;
    assert_eq!((status(&failed).revision, &*status(&failed).error), (revision, "map SLOTS is full"));
}

#[tokio::test]
async fn a_node_speaks_for_itself_only() {
    let control = Control::start().await;
    for (user, node_name, code) in [
        (User::node("n2"), "n1", Code::PermissionDenied),
        (User::new("system:node:n1", &[]), "n1", Code::PermissionDenied),
        (User::node("n1"), "", Code::InvalidArgument),
    ] {
        let status = control.connect(user, node_name).await.next().await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
    }
    control.connect(User::system("admin"), "n1").await.next().await.unwrap();
}

#[tokio::test]
async fn the_first_report_must_be_a_hello() {
    let control = Control::start().await;
    let mut node = control.connect(User::node("n1"), "n1").await;
    node.report(Report::Hello(DataplaneHello { node_name: "n1".to_owned() })).await;
    let status = loop {
        if let Err(status) = node.next().await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn sessions_end_when_the_server_drains() {
    let control = Control::start().await;
    let mut node = control.connect(User::node("n1"), "n1").await;
    assert!(node.next().await.unwrap().snapshot);
    control.draining.cancel();
    assert_eq!(node.next().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_node_that_falls_behind_the_ring_starts_over_with_a_snapshot() {
    let control = Control::start().await;
    control.put_service("web").await;
    let mut slow = control.hub.subscribe(0).await;
    assert!(slow.next().await.snapshot);
    let mut quick = control.hub.subscribe(0).await;
    quick.next().await;
    let mut seen = 0;
    let mut revision = 0;
    while seen <= super::hub::RING {
        revision =
            control.put_slice("web", &[&format!("10.32.{}.{}", revision / 250 % 250, revision % 250)]).await;
        while timeout(SOON, quick.next()).await.expect("no batch").revision < revision {
            seen += 1;
        }
        seen += 1;
    }
    let batch = slow.next().await;
    assert!(batch.snapshot && batch.revision >= revision);
    assert_eq!(batch.upserts[0].backends.len(), 1);
}

#[tokio::test]
async fn a_session_begins_with_all_that_the_store_held_when_it_began() {
    let control = Control::start().await;
    control.put_service("web").await;
    // Nobody waits for this one, and it is nothing to the dataplane.
    let settings = json!({"metadata": {"name": "settings", "namespace": "shop"}});
    let newest = control.put::<weir_proto::core::v1::ConfigMap>(settings).await;
    let mut node = control.connect(User::node("n1"), "n1").await;
    let snapshot = node.next().await.unwrap();
    assert!(snapshot.snapshot && snapshot.revision >= newest, "{} < {newest}", snapshot.revision);
}

#[tokio::test]
async fn word_of_less_than_a_node_was_seen_to_hold_is_not_written() {
    let control = Control::start().await;
    control.put_node("n1").await;
    let told = DataplaneNodeStatus { revision: 70, services: 2, ..DataplaneNodeStatus::default() };
    let mut object = DataplaneNode { status: Some(told.clone()), ..DataplaneNode::default() };
    object.meta_mut().name = "n1".to_owned();
    control.put::<DataplaneNode>(object.to_json()).await;
    let mut less = object.clone();
    less.status_mut().revision = 69;
    assert!(control.registry.write_status(less).await.unwrap_err().is_invalid());
    object.status_mut().error = "the maps are full".to_owned();
    control.registry.write_status(object).await.unwrap();
    let seen = control.acknowledged(|node| !node.status().error.is_empty()).await;
    assert_eq!(seen.status().revision, told.revision);
}
