//! Events: those heard of again count and stay; others go by themselves, out of every cache.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use weir_proto::core::v1::Event;
use weir_proto::weir::v1::patch_request::Type;
use weir_proto::weir::v1::watch_event::Type::{Added, Bookmark, Deleted};
use weir_store::Store;

use crate::etcd::EtcdServer;
use crate::fixture::{Cluster, yaml};

/// Long enough for a slow machine to patch in time.
const TTL: Duration = Duration::from_secs(6);

fn event(name: &str) -> Event {
    yaml(&format!(
        "{{metadata: {{name: {name}, namespace: default}}, involvedObject: {{kind: Pod, name: p, namespace: default}}, \
         reason: BackOff, message: again, type: Warning, count: 1}}"
    ))
}

async fn what_is_heard_of_again_stays(store: Arc<dyn Store>) {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::over(store, dir, |config| config.event_ttl = TTL).await;
    let admin = cluster.admin();
    let mut events = admin.watch::<Event>("default", |_| {}).await.unwrap();
    while events.next().await.unwrap().r#type() != Bookmark {}
    admin.create(&event("once")).await.unwrap();
    admin.create(&event("often")).await.unwrap();
    assert_eq!(events.next_named::<Event>().await, (Added, "once".to_owned()));
    assert_eq!(events.next_named::<Event>().await, (Added, "often".to_owned()));
    // Patched all the time until the other has gone.
    let mut count = 1;
    let last = loop {
        count += 1;
        let patch = json!({"count": count});
        let patched: Event = admin.patch("default", "often", Type::Merge, patch).await.unwrap();
        assert_eq!(patched.count, count);
        if admin.get::<Event>("default", "once").await.is_err_and(|error| error.is_not_found()) {
            break count;
        }
        tokio::time::sleep(TTL / 20).await;
    };
    assert!(last > 3, "{last}");
    let often =
        admin.get::<Event>("default", "often").await.expect("what was heard of a moment ago is there");
    assert_eq!(often.count, last);
    let mut gone = Vec::new();
    while gone.len() < 2 {
        let (change, name) = events.next_named::<Event>().await;
        if change == Deleted {
            gone.push(name);
        }
    }
    assert_eq!(gone, ["once", "often"], "both go by themselves, the one later");
    let (left, _) = admin.list::<Event>("default", |_| {}).await.unwrap();
    assert_eq!(left, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_expire_from_the_embedded_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = weir_store::embedded::open(dir.path().join("store")).unwrap();
    what_is_heard_of_again_stays(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_expire_from_etcd() {
    let Some(etcd) = EtcdServer::start() else { return };
    what_is_heard_of_again_stays(etcd.store().await).await;
}
