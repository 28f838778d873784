//! The client over TLS, against the real API server: certificates, a second server, one that comes back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_api::{Config as ServerConfig, Rate, Server};
use weir_client::{Client, Config, Error, Informer, ListOptions, ObjectKey, informer};
use weir_proto::core::v1::{ConfigMap, Namespace};
use weir_store::Store;

const SOON: Duration = Duration::from_secs(30);

/// One store and its keys, and the servers over it.
struct Cluster {
    store: Arc<dyn Store>,
    /// Has the same keys as all the others.
    server: Server,
    dir: TempDir,
}

struct Listening {
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Cluster {
    fn start() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(weir_store::embedded::open(dir.path().join("store")).unwrap());
        let server = Server::new(store.clone(), ServerConfig::new(dir.path())).unwrap();
        Cluster { store, server, dir }
    }

    async fn listen(&self, address: &str) -> Listening {
        self.listen_with(address, |_| {}).await
    }

    async fn listen_with(&self, address: &str, configure: impl FnOnce(&mut ServerConfig)) -> Listening {
        let listener = TcpListener::bind(address).await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let mut config = ServerConfig::new(self.dir.path());
        configure(&mut config);
        let server = Server::new(self.store.clone(), config).unwrap();
        let shutdown = stop.clone();
        let serving = tokio::spawn(async move { server.serve(vec![listener], shutdown).await.unwrap() });
        Listening { address, stop, serving }
    }

    fn config(&self, servers: &[SocketAddr]) -> Config {
        let pki = self.server.pki();
        Config {
            servers: servers.iter().map(|address| format!("https://{address}")).collect(),
            server_name: Some("localhost".to_owned()),
            ..Config::default()
        }
        .ca(pki.authority.certificate_pem())
        .identity(&pki.admin.certificate_pem, &pki.admin.key_pem)
    }
}

impl Listening {
    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.serving).await.expect("the server does not stop").unwrap();
    }
}

/// Once the server has made its namespaces.
async fn ready(client: &Client) {
    let namespaces = Informer::start(client.api::<Namespace>(), informer::Options::default());
    let there = |namespace: Option<&Namespace>| namespace.is_some();
    namespaces.wait_for(&ObjectKey::new("", "default"), SOON, there).await.unwrap();
}

fn config_map(name: &str) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.meta_mut().name = name.to_owned();
    object
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_certificate_we_are_let_in_and_without_one_we_are_told_so() {
    let cluster = Cluster::start();
    let listening = cluster.listen("127.0.0.1:0").await;
    let config = cluster.config(&[listening.address]);
    let client = Client::connect(config.clone()).await.unwrap();
    ready(&client).await;
    client.namespaced("default").create(&config_map("a")).await.unwrap();

    let stranger = Client::new(&Config { cert_pem: None, key_pem: None, ..config.clone() }).unwrap();
    let error = stranger.api::<ConfigMap>().list(&ListOptions::default()).await.unwrap_err();
    assert_eq!(error.api().map(|error| error.code()), Some(401), "{error:?}");

    let other = Cluster::start();
    let foreign = Config { ca_pem: other.config(&[]).ca_pem, ..config };
    let error =
        Client::new(&foreign).unwrap().api::<ConfigMap>().list(&ListOptions::default()).await.unwrap_err();
    assert!(matches!(&error, Error::Transport { sent: false, .. }), "{error:?}");
    assert!(error.to_string().contains("certificate"), "{error}");
    listening.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_server_goes_the_next_one_answers_and_watches_go_on() {
    let cluster = Cluster::start();
    let first = cluster.listen("127.0.0.1:0").await;
    let second = cluster.listen("127.0.0.1:0").await;
    let client = Client::new(&cluster.config(&[first.address, second.address])).unwrap();
    ready(&client).await;
    let informer = Informer::start(client.api::<ConfigMap>(), informer::Options::default());
    informer.synced().await;

    first.stop().await;
    let api = client.namespaced::<ConfigMap>("default");
    api.list(&ListOptions::default()).await.unwrap();
    let created = api.create(&config_map("b")).await.unwrap();
    informer.reached(&created.meta().resource_version, SOON).await.unwrap();
    assert!(informer.get("default", "b").is_some());
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_informer_goes_on_when_its_only_server_comes_back() {
    let cluster = Cluster::start();
    let listening = cluster.listen("127.0.0.1:0").await;
    let address = listening.address;
    let client = Client::new(&cluster.config(&[address])).unwrap();
    ready(&client).await;
    let informer = Informer::start(client.api::<ConfigMap>(), informer::Options::default());
    informer.synced().await;
    listening.stop().await;
    let error = client.namespaced("default").create(&config_map("c")).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");

    let listening = cluster.listen(&address.to_string()).await;
    client.namespaced("default").create(&config_map("c")).await.unwrap();
    informer.wait_for(&ObjectKey::new("default", "c"), SOON, |object| object.is_some()).await.unwrap();
    listening.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_too_fast_waits_as_it_is_told_and_loses_nothing() {
    let cluster = Cluster::start();
    let slow = Rate { per_second: 4, burst: 4 };
    let listening = cluster.listen_with("127.0.0.1:0", |config| config.limits.client_rate = slow).await;
    let client = Client::new(&cluster.config(&[listening.address])).unwrap();
    ready(&client).await;
    let writes = (0..12).map(|index| {
        let client = client.clone();
        async move { client.namespaced("default").create(&config_map(&format!("m{index}"))).await }
    });
    for written in futures::future::join_all(writes).await {
        written.unwrap();
    }
    listening.stop().await;
}
