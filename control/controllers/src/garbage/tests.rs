//! The collector against the API server in memory.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use weir_client::fake::FakeServer;
use weir_client::{DeleteOptions, Informer, ObjectKey, Propagation, informer};
use weir_proto::Resource;
use weir_proto::apps::v1::{Deployment, ReplicaSet};
use weir_proto::core::v1::ConfigMap;
use weir_proto::meta::v1::OwnerReference;

use crate::owners;

const SOON: Duration = Duration::from_secs(20);

struct Scene {
    server: FakeServer,
    configs: Informer<ConfigMap>,
    sets: Informer<ReplicaSet>,
    cancel: CancellationToken,
}

impl Scene {
    /// A deployment that owns a set that owns a config map, and the collector at work.
    async fn start() -> Scene {
        let server = FakeServer::default();
        let client = server.client();
        let deployment = client.api::<Deployment>().create(&named("d", None)).await.unwrap();
        let owner = owners::controller_reference(&deployment);
        let set = client.api::<ReplicaSet>().create(&named("s", Some(owner))).await.unwrap();
        let owner = owners::controller_reference(&set);
        client.api::<ConfigMap>().create(&named("c", Some(owner))).await.unwrap();
        let configs = Informer::start(client.api(), informer::Options::default());
        let sets = Informer::start(client.api(), informer::Options::default());
        configs.synced().await;
        sets.synced().await;
        let cancel = CancellationToken::new();
        tokio::spawn(super::runner(&client, 2).run(cancel.clone()));
        Scene { server, configs, sets, cancel }
    }

    async fn delete(&self, propagation: Propagation) {
        let options = DeleteOptions { propagation, ..DeleteOptions::default() };
        self.server.client().namespaced::<Deployment>("ns").delete("d", &options).await.unwrap();
    }

    async fn config(&self, holds: impl Fn(Option<&ConfigMap>) -> bool) {
        self.configs.wait_for(&ObjectKey::new("ns", "c"), SOON, holds).await.unwrap();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn named<R: Resource>(name: &str, owner: Option<OwnerReference>) -> R {
    let mut object = R::default();
    let meta = Resource::meta_mut(&mut object);
    meta.name = name.to_owned();
    meta.namespace = "ns".to_owned();
    meta.owner_references = owner.into_iter().collect();
    object
}

#[tokio::test]
async fn in_the_background_dependents_follow_their_owner() {
    let scene = Scene::start().await;
    scene.delete(Propagation::Background).await;
    scene.config(|config| config.is_none()).await;
    assert!(scene.server.list::<ReplicaSet>().is_empty());
}

#[tokio::test]
async fn in_the_foreground_the_owner_goes_last() {
    let scene = Scene::start().await;
    let deployments =
        Informer::start(scene.server.client().api::<Deployment>(), informer::Options::default());
    deployments.synced().await;
    scene.delete(Propagation::Foreground).await;
    assert!(scene.server.get::<Deployment>("ns", "d").is_some(), "it did not wait");
    deployments.wait_for(&ObjectKey::new("ns", "d"), SOON, |deployment| deployment.is_none()).await.unwrap();
    assert!(scene.server.list::<ReplicaSet>().is_empty());
    assert!(scene.server.list::<ConfigMap>().is_empty());
}

#[tokio::test]
async fn orphans_stay_without_an_owner() {
    let scene = Scene::start().await;
    scene.delete(Propagation::Orphan).await;
    let loose = |set: Option<&ReplicaSet>| set.is_some_and(|set| set.meta().owner_references.is_empty());
    scene.sets.wait_for(&ObjectKey::new("ns", "s"), SOON, loose).await.unwrap();
    assert!(scene.server.get::<ConfigMap>("ns", "c").is_some());
}

#[tokio::test]
async fn an_owner_of_an_unknown_kind_or_another_life_is_told_apart() {
    let scene = Scene::start().await;
    let owner = |kind: &str, name: &str, uid: &str| OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    };
    let client = scene.server.client();
    let unknown = named("unknown", Some(owner("Gadget", "d", "g-1")));
    client.api::<ConfigMap>().create(&unknown).await.unwrap();
    // A deployment of the name exists, but it is not the one that owned this.
    let stale = named("stale", Some(owner("Deployment", "d", "another")));
    client.api::<ConfigMap>().create(&stale).await.unwrap();
    scene.configs.wait_for(&ObjectKey::new("ns", "stale"), SOON, |config| config.is_none()).await.unwrap();
    assert!(scene.server.get::<ConfigMap>("ns", "unknown").is_some());
    assert!(scene.server.get::<ConfigMap>("ns", "c").is_some());
}
