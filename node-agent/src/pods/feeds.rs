//! Watches of single ConfigMaps and Secrets: one for each object, however many pods show it, and only while one does.
//!
//! Nothing is kept of an object but its version; who is told of a change reads it. An object that can never change is not
//! watched any longer than it takes to see that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::future::select_all;
use futures::{FutureExt, TryStreamExt};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use weir_client::{Api, Backoff, Client, WatchEvent, WatchOptions};
use weir_proto::Resource;
use weir_proto::core::v1::{ConfigMap, Secret};

use super::sources::{Key, Needed, Versions};

/// What the API holds of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// Nobody has looked yet.
    Unknown,
    Absent,
    At(String),
}

#[derive(Debug)]
struct Feed {
    seen: watch::Receiver<Seen>,
    _task: AbortOnDropHandle<()>,
}

/// By namespace and object.
type ByObject = HashMap<(String, Key), Weak<Feed>>;

/// All that this node watches. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Feeds {
    feeds: Arc<Mutex<ByObject>>,
}

impl Feeds {
    fn follow(&self, client: &Client, namespace: &str, key: &Key) -> Arc<Feed> {
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        feeds.retain(|_, feed| feed.strong_count() > 0);
        let entry = (namespace.to_owned(), key.clone());
        if let Some(feed) = feeds.get(&entry).and_then(Weak::upgrade) {
            return feed;
        }
        let (sender, seen) = watch::channel(Seen::Unknown);
        let task = match key {
            Key::ConfigMap(name) => tokio::spawn(follow(
                client.namespaced::<ConfigMap>(namespace),
                name.clone(),
                |map| map.immutable == Some(true),
                sender,
            )),
            Key::Secret(name) => tokio::spawn(follow(
                client.namespaced::<Secret>(namespace),
                name.clone(),
                |secret| secret.immutable == Some(true),
                sender,
            )),
        };
        let feed = Arc::new(Feed { seen, _task: AbortOnDropHandle::new(task) });
        feeds.insert(entry, Arc::downgrade(&feed));
        feed
    }
}

/// The objects that one pod shows.
pub(super) struct Following {
    feeds: Vec<(Key, watch::Receiver<Seen>, Arc<Feed>)>,
}

impl Following {
    pub(super) fn start(feeds: &Feeds, client: &Client, namespace: &str, needed: &Needed) -> Self {
        let follow = |key: Key| {
            let feed = feeds.follow(client, namespace, &key);
            let mut seen = feed.seen.clone();
            seen.mark_changed();
            (key, seen, feed)
        };
        Self { feeds: needed.keys().map(follow).collect() }
    }

    /// Returns when one of the objects has another version than is `shown`. Each change counts once. Cancel safe.
    pub(super) async fn changed(&mut self, shown: &Versions) {
        loop {
            if self.feeds.is_empty() {
                return std::future::pending().await;
            }
            let changes = self.feeds.iter_mut().map(|(_, seen, _)| {
                async move {
                    if seen.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                .boxed()
            });
            let ((), index, _) = select_all(changes).await;
            let Some((key, seen, _)) = self.feeds.get_mut(index) else { continue };
            let differs = match &*seen.borrow_and_update() {
                Seen::Unknown => false,
                Seen::Absent => shown.contains_key(key),
                Seen::At(version) => shown.get(key) != Some(version),
            };
            if differs {
                return;
            }
        }
    }
}

/// Follows one object for as long as anybody wants to know.
async fn follow<R: Resource>(
    api: Api<R>,
    name: String,
    is_immutable: fn(&R) -> bool,
    seen: watch::Sender<Seen>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    loop {
        match watch_once(&api, &name, is_immutable, &seen).await {
            Ok(true) => {
                // Whoever holds the other end still reads the version.
                return std::future::pending().await;
            }
            Ok(false) => backoff.reset(),
            Err(error) => {
                tracing::debug!(kind = R::KIND.plural, name, %error, "the watch of an object broke");
            }
        }
        tokio::time::sleep(backoff.delay()).await;
    }
}

/// One watch from the present state on, until it ends; true once the object turned out never to change.
async fn watch_once<R: Resource>(
    api: &Api<R>,
    name: &str,
    is_immutable: fn(&R) -> bool,
    seen: &watch::Sender<Seen>,
) -> weir_client::Result<bool> {
    let options = WatchOptions { field_selector: format!("metadata.name={name}"), ..WatchOptions::default() };
    let mut events = api.watch(&options).await?;
    let tell = |now: Seen| {
        seen.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    };
    // The present state ends with the first bookmark.
    let mut present = Some(Seen::Absent);
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let now = Seen::At(object.meta().resource_version.clone());
                match &mut present {
                    Some(present) => *present = now,
                    None => tell(now),
                }
                if is_immutable(&object) {
                    present.take().into_iter().for_each(tell);
                    return Ok(true);
                }
            }
            WatchEvent::Deleted(_) => match &mut present {
                Some(present) => *present = Seen::Absent,
                None => tell(Seen::Absent),
            },
            WatchEvent::Bookmark(_) => present.take().into_iter().for_each(tell),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {

    use weir_client::Patch;
    use weir_client::fake::FakeServer;

    use super::*;

    fn needed(names: &[&str]) -> Needed {
        let config_maps = names.iter().map(|name| (*name).to_owned()).collect();
        Needed { config_maps, ..Needed::default() }
    }

    fn map(name: &str, immutable: bool) -> ConfigMap {
        let mut map = ConfigMap { immutable: Some(immutable), ..ConfigMap::default() };
        map.meta_mut().name = name.to_owned();
        map.meta_mut().namespace = "default".to_owned();
        map
    }

    async fn soon(future: impl Future<Output = ()>) {
        tokio::time::timeout(Duration::from_secs(30), future).await.expect("in time");
    }

    #[tokio::test]
    async fn each_change_of_an_object_is_told_once_and_what_is_shown_is_none() {
        let client = FakeServer::default().client();
        let api = client.namespaced::<ConfigMap>("default");
        let version = api.create(&map("a", false)).await.expect("made").meta().resource_version.clone();
        let feeds = Feeds::default();
        let secrets = ["later".to_owned()].into();
        let both = Needed { secrets, ..needed(&["a"]) };
        let mut following = Following::start(&feeds, &client, "default", &both);
        let mut shown = Versions::from([(Key::ConfigMap("a".into()), version)]);
        let idle = tokio::time::timeout(Duration::from_millis(300), following.changed(&shown)).await;
        assert!(idle.is_err(), "nothing has changed");

        let patch = Patch::Merge(serde_json::json!({"data": {"k": "v"}}));
        let version = api.patch("a", &patch).await.expect("changed").meta().resource_version.clone();
        soon(following.changed(&shown)).await;
        shown.insert(Key::ConfigMap("a".into()), version);
        let mut secret = Secret::default();
        secret.meta_mut().name = "later".to_owned();
        secret.meta_mut().namespace = "default".to_owned();
        client.namespaced::<Secret>("default").create(&secret).await.expect("made");
        soon(following.changed(&shown)).await;
        api.delete("a", &Default::default()).await.expect("deleted");
        soon(following.changed(&shown)).await;
    }

    #[tokio::test]
    async fn one_watch_serves_all_pods_and_ends_with_the_last() {
        let client = FakeServer::default().client();
        let feeds = Feeds::default();
        let one = Following::start(&feeds, &client, "default", &needed(&["a"]));
        let two = Following::start(&feeds, &client, "default", &needed(&["a"]));
        assert!(Arc::ptr_eq(&one.feeds[0].2, &two.feeds[0].2));
        let other = Following::start(&feeds, &client, "elsewhere", &needed(&["a"]));
        assert!(!Arc::ptr_eq(&one.feeds[0].2, &other.feeds[0].2));
        let feed = Arc::downgrade(&one.feeds[0].2);
        drop((one, two));
        assert!(feed.upgrade().is_none());
    }

    #[tokio::test]
    async fn an_immutable_object_is_not_watched_any_more() {
        let client = FakeServer::default().client();
        let api = client.namespaced::<ConfigMap>("default");
        api.create(&map("a", true)).await.expect("made");
        let (sender, seen) = watch::channel(Seen::Unknown);
        let over = watch_once(&api, "a", |map: &ConfigMap| map.immutable == Some(true), &sender).await;
        assert!(over.expect("watched"));
        assert!(matches!(&*seen.borrow(), Seen::At(_)));
    }
}
