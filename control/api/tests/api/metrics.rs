//! What is counted, as Prometheus reads it.

use serde_json::json;
use tower::ServiceExt;
use weir_api::User;
use weir_proto::core::v1::{ConfigMap, Node, Pod};

use crate::fixture::{Cluster, config_map, pod};

async fn scrape(cluster: &Cluster) -> String {
    let (code, text) = cluster.rest("GET", "/metrics", "").await;
    assert_eq!(code, 200);
    text.as_str().unwrap().to_owned()
}

/// The value of the one series that has all these labels. (Other tests of this process may add others.)
fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let mut lines = text.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label.as_str()))
    });
    lines.next()?.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn requests_of_both_faces_are_counted_by_what_they_are_about() {
    let cluster = Cluster::start().await;
    cluster.admin().create(&config_map("a")).await.unwrap();
    cluster.admin().create(&config_map("a")).await.unwrap_err();
    let _ = cluster.admin().get::<ConfigMap>("default", "nothing").await;
    cluster
        .rest("POST", "/api/v1/namespaces/default/configmaps?dryRun=All", r#"{"metadata":{"name":"b"}}"#)
        .await;
    cluster.rest("GET", "/apis/apps/v1/deployments?limit=1", "").await;
    cluster.rest("POST", "/api/v1/namespaces/default/pods", "{").await;
    let text = scrape(&cluster).await;
    let requests = |labels: &[(&str, &str)]| value(&text, "apiserver_request_total", labels).unwrap_or(0.0);
    let maps = ("resource", "configmaps");
    assert!(requests(&[("verb", "POST"), maps, ("code", "200"), ("scope", "resource")]) >= 1.0);
    assert!(requests(&[("verb", "POST"), maps, ("code", "409")]) >= 1.0);
    assert!(requests(&[("verb", "GET"), maps, ("code", "404"), ("scope", "resource")]) >= 1.0);
    assert!(requests(&[("verb", "POST"), maps, ("code", "201"), ("dry_run", "All")]) >= 1.0);
    assert!(
        requests(&[("verb", "LIST"), ("group", "apps"), ("resource", "deployments"), ("scope", "cluster")])
            >= 1.0
    );
    assert!(requests(&[("verb", "POST"), ("resource", "pods"), ("code", "400")]) >= 1.0);
    for name in [
        "apiserver_request_duration_seconds_count",
        "apiserver_response_sizes_count",
        "apiserver_current_inflight_requests",
        "etcd_request_duration_seconds_bucket",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        assert!(value(&text, name, &[]).is_some(), "{name} is missing");
    }
    assert!(
        value(
            &text,
            "etcd_request_duration_seconds_count",
            &[("operation", "create"), ("type", "configmaps")]
        ) >= Some(1.0)
    );
}

#[tokio::test]
async fn objects_and_events_of_watches_are_counted() {
    let cluster = Cluster::start().await;
    let mut events = cluster.admin().watch::<Pod>("", |_| {}).await.unwrap();
    events.next().await.unwrap();
    let open = [("verb", "WATCH"), ("resource", "pods"), ("scope", "cluster")];
    assert!(value(&scrape(&cluster).await, "apiserver_longrunning_requests", &open) >= Some(1.0));
    cluster.admin().create(&pod("a")).await.unwrap();
    events.next().await.unwrap();
    let text = scrape(&cluster).await;
    assert!(value(&text, "apiserver_watch_events_total", &[("kind", "Pod")]) >= Some(1.0));
    assert!(
        value(&text, "apiserver_watch_cache_events_dispatched_total", &[("resource", "pods")]) >= Some(1.0)
    );
    assert!(value(&text, "apiserver_storage_objects", &[("resource", "namespaces")]).is_some());
    assert!(value(&text, "apiserver_watch_cache_capacity", &[("resource", "pods")]).is_some());
}

#[tokio::test]
async fn whatever_is_asked_for_the_number_of_series_is_bounded() {
    let cluster = Cluster::start().await;
    let ask = |index: usize| {
        let cluster = &cluster;
        async move {
            cluster.rest("GET", &format!("/apis/group-{index}/v1/things-{index}"), "").await;
            cluster.rest("GET", &format!("/api/v1/namespaces/ns-{index}/pods/p-{index}"), "").await;
            cluster.rest("GET", &format!("/api/v1/namespaces/a/pods/p/made-up-{index}"), "").await;
            cluster.rest("GET", &format!("/readyz/check-{index}"), "").await;
            cluster.rest(&format!("VERB{index}"), "/api/v1/pods", "").await;
        }
    };
    ask(0).await;
    let series = |text: &str| text.lines().filter(|line| line.contains("apiserver_request_total")).count();
    let before = series(&scrape(&cluster).await);
    for index in 1..50 {
        ask(index).await;
    }
    let text = scrape(&cluster).await;
    // Other tests of this process count as well, but not by the hundred.
    assert!(series(&text) < before + 100, "{before} series became {}", series(&text));
    assert!(!text.contains("made-up") && !text.contains("group-1") && !text.contains("VERB"));
}

#[tokio::test]
async fn metrics_are_for_administrators() {
    let cluster = Cluster::start().await;
    for user in [User::node("n1"), User::new("jane", &[])] {
        let request = http::Request::get("/metrics").body(axum::body::Body::empty()).unwrap();
        let answer = cluster.server.in_process(user).oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 403);
    }
    let _ = cluster.admin().list::<Node>("", |_| {}).await;
    let (_, version) = cluster.rest("GET", "/version", "").await;
    assert_eq!(version["compiler"], json!("rustc"));
}
