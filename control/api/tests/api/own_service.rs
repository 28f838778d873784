//! `default/kubernetes`: the address of the servers, for pods.

use std::sync::Arc;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use weir_api::{Config, Server, User};
use weir_proto::core::v1::Service;
use weir_proto::discovery::v1::EndpointSlice;
use weir_proto::weir::v1::resources_client::ResourcesClient;

use crate::fixture::{Api, Cluster, DEADLINE};

/// Waits until the slice lists these addresses.
async fn lists(api: &Api, expected: &[&str]) {
    let wait = async {
        loop {
            let slice = api.get::<EndpointSlice>("default", "kubernetes").await.ok();
            let found: Vec<String> =
                slice.iter().flat_map(|slice| &slice.endpoints).flat_map(|e| e.addresses.clone()).collect();
            if found == expected {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("the slice never listed {expected:?}"));
}

async fn service(api: &Api) -> Service {
    let wait = async {
        loop {
            if let Ok(service) = api.get::<Service>("default", "kubernetes").await {
                return service;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, wait).await.expect("the service is made")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_servers_of_a_store_are_in_it_and_one_that_leaves_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn weir_store::Store> =
        Arc::new(weir_store::embedded::open(dir.path().join("store")).unwrap());
    let at = |address: &str| {
        let mut config = Config::new(dir.path());
        config.address = Some(address.parse().unwrap());
        Server::new(store.clone(), config).unwrap()
    };
    let (one, two) = (at("10.9.0.1:6443"), at("10.9.0.2:6443"));
    let api = Api { client: ResourcesClient::new(one.in_process(User::system("test"))) };
    lists(&api, &["10.9.0.1", "10.9.0.2"]).await;
    let made = service(&api).await;
    assert_eq!(made.spec().cluster_ip, "10.96.0.1");
    let port = &made.spec().ports[0];
    assert_eq!((port.name.as_str(), port.port), ("https", 443));
    let slice = api.get::<EndpointSlice>("default", "kubernetes").await.unwrap();
    assert_eq!(slice.meta().labels["kubernetes.io/service-name"], "kubernetes");

    let stop = CancellationToken::new();
    stop.cancel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    timeout(DEADLINE, two.serve(vec![listener], stop)).await.expect("the server drains").unwrap();
    lists(&api, &["10.9.0.1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_made_again_when_somebody_deletes_it_and_has_no_endpoints_on_loopback() {
    let cluster =
        Cluster::start_with(|config| config.address = Some("127.0.0.1:6443".parse().unwrap())).await;
    let api = cluster.admin();
    let first = service(&api).await;
    api.delete::<Service>("default", "kubernetes", |_| {}).await.unwrap();
    assert_ne!(service(&api).await.meta().uid, first.meta().uid);
    assert!(api.get::<EndpointSlice>("default", "kubernetes").await.unwrap_err().is_not_found());
}
