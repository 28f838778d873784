//! Health, check by check.

use std::time::Duration;

use crate::connections::{http1, secure};
use crate::fixture::{Cluster, DEADLINE};
use crate::tls::Listening;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn checks_are_listed_and_asked_for_one_by_one() {
    let cluster = Cluster::start().await;
    let text = |path: &'static str| {
        let cluster = &cluster;
        async move {
            let (code, body) = cluster.rest("GET", path, "").await;
            (code, body.as_str().unwrap_or_default().to_owned())
        }
    };
    assert_eq!(text("/readyz").await, (200, "ok".to_owned()));
    assert_eq!(text("/livez").await, (200, "ok".to_owned()));
    let (_, verbose) = text("/readyz?verbose").await;
    for check in ["ping", "etcd", "watch-cache", "poststarthook/namespaces", "shutdown"] {
        assert!(verbose.contains(&format!("[+]{check} ok\n")), "{verbose}");
    }
    assert!(verbose.ends_with("readyz check passed\n"), "{verbose}");
    assert_eq!(text("/readyz/etcd").await.0, 200);
    assert_eq!(text("/readyz/poststarthook/namespaces").await.0, 200);
    assert_eq!(text("/readyz/nothing").await.0, 404);
    assert_eq!(text("/livez/etcd").await.0, 404);
    assert!(text("/readyz?verbose&exclude=etcd").await.1.contains("[+]etcd excluded: ok"));
}

#[tokio::test]
async fn anybody_may_ask_and_nothing_else_is_told() {
    let cluster = Listening::start_with(|_| {}).await;
    let ask = |path: &'static str| {
        let cluster = &cluster;
        async move {
            let mut stream = secure(cluster, b"http/1.1", false).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer).await;
            answer
        }
    };
    for open in ["/livez", "/readyz?verbose", "/readyz/ping", "/healthz", "/version"] {
        assert!(ask(open).await.starts_with("HTTP/1.1 200"), "{open}");
    }
    for closed in ["/metrics", "/readyzzz", "/api/v1/pods", "/apis"] {
        assert!(ask(closed).await.starts_with("HTTP/1.1 401"), "{closed}");
    }
    assert!(ask("/readyz/../metrics").await.starts_with("HTTP/1.1 404"), "a path is what it says");
}

#[tokio::test]
async fn told_to_stop_a_server_is_not_ready_before_it_stops_serving() {
    let cluster = Listening::start_with(|config| config.shutdown_delay = Duration::from_secs(600)).await;
    let request = b"GET /readyz?verbose HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(http1(&cluster, request).await.starts_with("HTTP/1.1 200"));
    cluster.stop.cancel();
    let turns = async {
        loop {
            let answer = http1(&cluster, request).await;
            if answer.starts_with("HTTP/1.1 503") {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(DEADLINE, turns).await.expect("it is not ready any more");
    assert!(answer.contains("[-]shutdown failed: process is shutting down"), "{answer}");
    // New connections and requests are served as before, and it lives.
    cluster.admin().await.list(crate::tls::nodes()).await.unwrap();
    let livez = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(http1(&cluster, livez).await.starts_with("HTTP/1.1 200"));
}
