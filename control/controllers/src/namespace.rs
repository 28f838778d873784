//! Namespaces: each that stays has a `default` ServiceAccount; one that is deleted is emptied of every kind, and then
//! let go by taking the `kubernetes` finalizer off it.

use std::time::Duration;

use weir_client::{Client, DeleteOptions, ListOptions, ObjectKey};
use weir_proto::Kind;
use weir_proto::core::v1::{Namespace, NamespaceCondition, ServiceAccount};
use weir_proto::meta::v1::Time;

use crate::Error;
use crate::caches::Caches;
use crate::runner::{Controller, Next, Runner};

const FINALIZER: &str = "kubernetes";
const DEFAULT_ACCOUNT: &str = "default";
/// How soon to look again whether what was deleted is gone.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

pub(crate) struct NamespaceController {
    client: Client,
    caches: Caches,
}

/// The loop: every namespace, whenever it or its default service account changes.
pub(crate) fn runner(client: &Client, caches: &Caches, workers: usize) -> Runner<impl Controller> {
    let controller = NamespaceController { client: client.clone(), caches: caches.clone() };
    Runner::new(controller, workers).on_each(&caches.namespaces).on(&caches.service_accounts, |change| {
        let gone = change.new.is_none();
        let mut defaults = change.states().filter(|account| gone && account.meta().name == DEFAULT_ACCOUNT);
        defaults.next().map(|account| ObjectKey::new("", &account.meta().namespace)).into_iter().collect()
    })
}

impl Controller for NamespaceController {
    fn name(&self) -> &'static str {
        "namespace"
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.caches.namespaces.list().iter().map(|namespace| ObjectKey::of(namespace.as_ref())).collect()
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(namespace) = self.caches.namespaces.get_key(key) else { return Ok(Next::Change) };
        if namespace.meta().deletion_timestamp.is_some() {
            return self.empty(&namespace).await;
        }
        if self.caches.service_accounts.get(&key.name, DEFAULT_ACCOUNT).is_none() {
            self.give_account(&key.name).await?;
        }
        Ok(Next::Change)
    }
}

impl NamespaceController {
    async fn give_account(&self, namespace: &str) -> Result<(), Error> {
        let mut account = ServiceAccount::default();
        account.meta_mut().name = DEFAULT_ACCOUNT.to_owned();
        account.meta_mut().namespace = namespace.to_owned();
        match self.client.namespaced(namespace).create(&account).await {
            Err(error) if !error.is_already_exists() => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn empty(&self, namespace: &Namespace) -> Result<Next, Error> {
        let name = &namespace.meta().name;
        if !namespace.spec().finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(Next::Change);
        }
        let mut left = Vec::new();
        for kind in weir_proto::kinds().iter().filter(|kind| kind.namespaced) {
            let count = self.empty_of(kind, name).await?;
            if count > 0 {
                left.push((*kind, count));
            }
        }
        let conditions = conditions(namespace, &left, Time::now());
        if conditions != namespace.status().conditions {
            let mut namespace = namespace.clone();
            namespace.status_mut().conditions = conditions;
            self.client.api::<Namespace>().update_status(&namespace).await?;
        }
        if !left.is_empty() {
            return Ok(Next::After(LOOK_AGAIN));
        }
        // As it is now: the status has just been written.
        let Some(mut namespace) = self.client.api::<Namespace>().get_opt(name).await? else {
            return Ok(Next::Change);
        };
        namespace.spec_mut().finalizers.retain(|finalizer| finalizer != FINALIZER);
        self.client.api::<Namespace>().update_subresource("finalize", &namespace).await?;
        tracing::info!(namespace = name, "the namespace is empty");
        Ok(Next::Change)
    }

    /// How many of the kind are still there after they were asked to go.
    async fn empty_of(&self, kind: &'static Kind, namespace: &str) -> Result<usize, Error> {
        let api = self.client.dynamic(kind, Some(namespace));
        let one = ListOptions { limit: 1, ..ListOptions::default() };
        if api.list(&one).await?.items.is_empty() {
            return Ok(0);
        }
        api.delete_collection(&ListOptions::default(), &DeleteOptions::default()).await?;
        let page = api.list(&ListOptions::default()).await?;
        Ok(page.items.len())
    }
}

/// Says what keeps the namespace from going, as `kubectl describe` shows it.
fn conditions(namespace: &Namespace, left: &[(&Kind, usize)], now: Time) -> Vec<NamespaceCondition> {
    const REMAINING: &str = "NamespaceContentRemaining";
    let mut conditions = namespace.status().conditions.clone();
    let before = conditions.iter().position(|condition| condition.r#type == REMAINING);
    let (status, reason, message) = if left.is_empty() {
        ("False", "ContentRemoved", "All content successfully removed".to_owned())
    } else {
        let kinds: Vec<String> = left
            .iter()
            .map(|(kind, count)| format!("{} has {count} resource instances", kind.resource_name()))
            .collect();
        ("True", "SomeResourcesRemain", format!("Some resources are remaining: {}", kinds.join(", ")))
    };
    let since = before.map(|index| &conditions[index]).filter(|condition| condition.status == status);
    let condition = NamespaceCondition {
        r#type: REMAINING.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: since.map_or(Some(now), |condition| condition.last_transition_time),
    };
    match before {
        Some(index) => conditions[index] = condition,
        // Nothing was in the way, and nothing is.
        None if left.is_empty() => {}
        None => conditions.push(condition),
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_util::sync::CancellationToken;
    use weir_client::fake::FakeServer;
    use weir_proto::core::v1::ConfigMap;

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_namespace_gets_its_account_and_when_deleted_is_emptied_and_let_go() {
        let server = FakeServer::default();
        let client = server.client();
        let caches = Caches::start(&client);
        caches.synced().await;
        let cancel = CancellationToken::new();
        let running = tokio::spawn(runner(&client, &caches, 1).run(cancel.clone()));

        let mut namespace = Namespace::default();
        namespace.meta_mut().name = "shop".to_owned();
        namespace.spec_mut().finalizers = vec![FINALIZER.to_owned()];
        server.put(&namespace);
        let account = ObjectKey::new("shop", DEFAULT_ACCOUNT);
        caches.service_accounts.wait_for(&account, SOON, |account| account.is_some()).await.unwrap();

        let mut config = ConfigMap::default();
        config.meta_mut().name = "c".to_owned();
        config.meta_mut().namespace = "shop".to_owned();
        server.put(&config);
        let mut going = caches.namespaces.get("", "shop").unwrap().as_ref().clone();
        going.meta_mut().deletion_timestamp = Some(Time::now());
        server.put(&going);

        let released =
            |namespace: Option<&Namespace>| namespace.is_none_or(|n| n.spec().finalizers.is_empty());
        caches.namespaces.wait_for(&ObjectKey::new("", "shop"), SOON, released).await.unwrap();
        assert!(server.list::<ConfigMap>().is_empty());
        assert!(server.list::<ServiceAccount>().is_empty());
        cancel.cancel();
        running.await.unwrap();
    }
}
