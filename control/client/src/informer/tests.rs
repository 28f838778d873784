//! The informer against the API server in memory.

use super::*;
use crate::DeleteOptions;
use crate::fake::FakeServer;
use weir_proto::core::v1::ConfigMap;

const SOON: Duration = Duration::from_secs(10);

fn object(name: &str) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.meta_mut().name = name.to_owned();
    object.meta_mut().namespace = "default".to_owned();
    object
}

fn start(server: &FakeServer) -> Informer<ConfigMap> {
    Informer::start(server.client().api(), Options::default())
}

#[tokio::test]
async fn the_present_state_is_there_once_synced_and_changes_follow() {
    let server = FakeServer::default();
    let api = server.client().namespaced::<ConfigMap>("default");
    api.create(&object("a")).await.unwrap();

    let informer = start(&server);
    let mut subscription = informer.subscribe();
    informer.synced().await;
    assert!(informer.get("default", "a").is_some());
    assert!(matches!(subscription.next().await, Some(Notice::Resync)));

    let created = api.create(&object("b")).await.unwrap();
    informer.reached(&created.meta().resource_version, SOON).await.unwrap();
    assert_eq!(informer.len(), 2);

    api.delete("a", &DeleteOptions::default()).await.unwrap();
    informer.wait_for(&ObjectKey::new("default", "a"), SOON, |object| object.is_none()).await.unwrap();
    assert_eq!(informer.len(), 1);
}

#[tokio::test]
async fn a_broken_watch_goes_on_where_it_was() {
    let server = FakeServer::default();
    let api = server.client().namespaced::<ConfigMap>("default");
    let informer = start(&server);
    informer.synced().await;
    server.break_watches();
    let created = api.create(&object("b")).await.unwrap();
    informer.reached(&created.meta().resource_version, SOON).await.unwrap();
    assert!(informer.get("default", "b").is_some());
}

#[tokio::test]
async fn a_watch_that_is_too_old_begins_anew_and_forgets_what_is_gone() {
    let server = FakeServer::default();
    let api = server.client().namespaced::<ConfigMap>("default");
    api.create(&object("a")).await.unwrap();
    let informer = start(&server);
    informer.synced().await;

    server.pause_watches();
    server.break_watches();
    api.delete("a", &DeleteOptions::default()).await.unwrap();
    let created = api.create(&object("b")).await.unwrap();
    server.compact();
    server.resume_watches();

    informer.reached(&created.meta().resource_version, SOON).await.unwrap();
    assert!(informer.get("default", "a").is_none());
    assert!(informer.get("default", "b").is_some());
}

#[tokio::test]
async fn a_subscriber_that_falls_behind_is_told_to_resync() {
    let server = FakeServer::default();
    let informer = start(&server);
    let mut subscription = informer.subscribe();
    assert!(matches!(subscription.next().await, Some(Notice::Resync)));
    let api = server.client().namespaced::<ConfigMap>("default");
    let mut last = String::new();
    for index in 0..BUFFERED_CHANGES + 1 {
        last = api.create(&object(&format!("c{index}"))).await.unwrap().meta().resource_version.clone();
    }
    informer.reached(&last, SOON).await.unwrap();
    assert!(matches!(subscription.next().await, Some(Notice::Resync)));
    assert!(matches!(subscription.next().await, Some(Notice::Changed(_))));
}

#[tokio::test]
async fn waiting_for_what_does_not_come_ends_with_an_error() {
    let server = FakeServer::default();
    let informer = start(&server);
    informer.synced().await;
    let error = informer.reached("1000000", Duration::from_millis(20)).await.unwrap_err();
    assert!(error.to_string().contains("configmaps"), "{error}");
}
