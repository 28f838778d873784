//! An API server, the controllers, and a stand-in for scheduler and agents: it binds pods in turn, calls them ready
//! at once, and confirms their end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_api::{Server, User};
use weir_client::{Client, DeleteOptions, Informer, Notice, informer};
use weir_controllers::CidrError;
use weir_proto::Resource;
use weir_proto::apps::v1::Deployment;
use weir_proto::core::v1::{
    Binding, Namespace, Node, NodeCondition, ObjectReference, Pod, PodCondition, PodIp, ServiceAccount,
};
use weir_proto::discovery::v1::EndpointSlice;
use weir_proto::meta::v1::Time;

pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    server: Server,
    pub(crate) deployments: Informer<Deployment>,
    pub(crate) pods: Informer<Pod>,
    pub(crate) slices: Informer<EndpointSlice>,
    pub(crate) nodes: Informer<Node>,
    pub(crate) namespaces: Informer<Namespace>,
    pub(crate) accounts: Informer<ServiceAccount>,
    cancel: CancellationToken,
    running: JoinHandle<Result<(), CidrError>>,
    _dir: TempDir,
}

impl Cluster {
    /// With the nodes node-1 and node-2.
    pub(crate) async fn start() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let store = weir_store::embedded::open(dir.path().join("store")).unwrap();
        let server = Server::new(Arc::new(store), weir_api::Config::new(dir.path())).unwrap();
        let client = Client::in_process(server.in_process(User::system("test")));
        for name in ["node-1", "node-2"] {
            add_node(&client, name).await;
        }
        let cancel = CancellationToken::new();
        let config = weir_controllers::Config {
            election: Some(weir_client::election::Config::new("weir-controllers", "test")),
            ..Default::default()
        };
        let running = tokio::spawn(weir_controllers::run(client.clone(), config, cancel.clone()));
        let pods = follow::<Pod>(&client).await;
        tokio::spawn(tend(client.clone(), pods.clone(), cancel.clone()));
        Cluster {
            deployments: follow(&client).await,
            slices: follow(&client).await,
            nodes: follow(&client).await,
            namespaces: follow(&client).await,
            accounts: follow(&client).await,
            pods,
            server,
            cancel,
            running,
            _dir: dir,
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::in_process(self.server.in_process(User::system("test")))
    }

    /// Waits until `holds` is true of all objects of a kind.
    pub(crate) async fn until<R: Resource>(&self, informer: &Informer<R>, holds: impl Fn(&[R]) -> bool) {
        let mut changes = informer.subscribe();
        let wait = async {
            loop {
                let now: Vec<R> = informer.list().iter().map(|object| object.as_ref().clone()).collect();
                if holds(&now) {
                    return;
                }
                changes.next().await;
            }
        };
        let waited = tokio::time::timeout(SOON, wait).await;
        waited.unwrap_or_else(|_| panic!("{} never were as expected: {:?}", R::KIND.plural, informer.list()));
    }

    /// The controllers stop when they are told to.
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        let ended = tokio::time::timeout(SOON, self.running).await;
        ended.expect("the controllers do not stop").unwrap().unwrap();
    }
}

pub(crate) fn yaml<R: Resource>(text: &str) -> R {
    let documents = weir_proto::yaml::documents(text).unwrap();
    let object = R::KIND.from_json(&documents[0].value, &mut Vec::new()).unwrap();
    object.downcast_ref::<R>().unwrap().clone()
}

async fn follow<R: Resource>(client: &Client) -> Informer<R> {
    let informer = Informer::start(client.api::<R>(), informer::Options::default());
    informer.synced().await;
    informer
}

async fn add_node(client: &Client, name: &str) {
    let mut node = Node::default();
    node.meta_mut().name = name.to_owned();
    let mut node = client.api::<Node>().create(&node).await.unwrap();
    let ready = NodeCondition { r#type: "Ready".to_owned(), status: "True".to_owned(), ..Default::default() };
    node.status_mut().conditions = vec![ready];
    client.api::<Node>().update_status(&node).await.unwrap();
}

async fn tend(client: Client, pods: Informer<Pod>, cancel: CancellationToken) {
    let count = AtomicUsize::new(0);
    let mut changes = pods.subscribe();
    while let Some(notice) = cancel.run_until_cancelled(changes.next()).await.flatten() {
        let concerned: Vec<Arc<Pod>> = match notice {
            Notice::Changed(change) => change.new.into_iter().collect(),
            Notice::Resync => pods.list(),
        };
        for pod in concerned {
            // A conflict means that the pod has changed: that change comes here too.
            let _ = tend_one(&client, &pod, count.fetch_add(1, Ordering::Relaxed)).await;
        }
    }
}

async fn tend_one(client: &Client, pod: &Pod, number: usize) -> weir_client::Result<()> {
    let api = client.namespaced::<Pod>(&pod.meta().namespace);
    let name = &pod.meta().name;
    if pod.meta().deletion_timestamp.is_some() {
        return api.delete(name, &DeleteOptions::now(&pod.meta().uid)).await.map(drop);
    }
    if pod.spec().node_name.is_empty() {
        let node = format!("node-{}", number % 2 + 1);
        let mut binding = Binding {
            target: Some(ObjectReference { kind: "Node".to_owned(), name: node, ..Default::default() }),
            ..Default::default()
        };
        binding.meta_mut().name = name.clone();
        binding.meta_mut().namespace = pod.meta().namespace.clone();
        return api.bind(name, &binding).await;
    }
    if pod.status().pod_ip.is_empty() {
        let mut pod = pod.clone();
        let status = pod.status_mut();
        status.phase = "Running".to_owned();
        status.pod_ip = format!("10.32.{}.{}", number / 250 % 250, number % 250 + 1);
        status.pod_ips = vec![PodIp { ip: status.pod_ip.clone() }];
        status.conditions.retain(|condition| condition.r#type != "Ready");
        status.conditions.push(PodCondition {
            r#type: "Ready".to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(Time::now()),
            ..Default::default()
        });
        api.update_status(&pod).await?;
    }
    Ok(())
}
