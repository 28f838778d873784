//! `kube-system/kube-dns`: the address of cluster DNS, for everybody.

use tokio::time::timeout;
use weir_proto::core::v1::Service;

use crate::fixture::{Api, Cluster, DEADLINE, yaml};

async fn service(api: &Api) -> Service {
    let wait = async {
        loop {
            if let Ok(service) = api.get::<Service>("kube-system", "kube-dns").await {
                return service;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, wait).await.expect("the service is made")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_address_of_cluster_dns_is_a_service_that_the_dataplane_leaves_alone() {
    let cluster = Cluster::start().await;
    let made = service(&cluster.admin()).await;
    assert_eq!(made.spec().cluster_ip, "10.96.0.10");
    let ports: Vec<_> =
        made.spec().ports.iter().map(|port| (&*port.name, &*port.protocol, port.port)).collect();
    assert_eq!(ports, [("dns", "UDP", 53), ("dns-tcp", "TCP", 53)]);
    assert_eq!(made.meta().labels["service.kubernetes.io/service-proxy-name"], "weir-agent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_service_gets_the_address_of_cluster_dns() {
    let cluster = Cluster::start().await;
    let api = cluster.admin();
    service(&api).await;
    let thief: Service = yaml(
        "{metadata: {name: thief, namespace: default}, spec: {clusterIP: 10.96.0.10, ports: [{port: 53}]}}",
    );
    let error = api.create(&thief).await.unwrap_err();
    assert!(error.to_string().contains("provided IP is already allocated"), "{error}");
}
