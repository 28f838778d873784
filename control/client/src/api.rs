//! The typed face of one kind.

use std::marker::PhantomData;
use std::time::Duration;

use futures::StreamExt;
use weir_proto::Resource;
use weir_proto::authentication::v1::TokenRequest;
use weir_proto::core::v1::{Binding, Pod, ServiceAccount};
use weir_proto::policy::v1::Eviction;
use weir_proto::weir::v1::{KindRef, Object};

use crate::Result;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::verbs::{DeleteOptions, List, ListOptions, Patch, Verbs, WatchOptions, object};
use crate::watch::{self, WatchStream};

/// A kind in one namespace, or in all of them.
#[derive(Debug)]
pub struct Api<R> {
    verbs: Verbs,
    kind: PhantomData<fn() -> R>,
}

impl<R> Clone for Api<R> {
    fn clone(&self) -> Api<R> {
        Api { verbs: self.verbs.clone(), kind: PhantomData }
    }
}

/// What [`Api::modify`] came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Modified<R> {
    Written(R),
    /// The closure changed nothing, so nothing was written.
    Unchanged(R),
}

impl<R> Modified<R> {
    pub fn into_inner(self) -> R {
        match self {
            Modified::Written(object) | Modified::Unchanged(object) => object,
        }
    }
}

impl<R: Resource> Api<R> {
    pub(crate) fn new(client: Client, namespace: &str) -> Api<R> {
        let verbs = Verbs { client, kind: R::KIND, namespace: namespace.to_owned(), dry_run: false };
        Api { verbs, kind: PhantomData }
    }

    /// The same kind in another namespace.
    pub fn within(&self, namespace: &str) -> Api<R> {
        let verbs = Verbs { namespace: namespace.to_owned(), ..self.verbs.clone() };
        Api { verbs, kind: PhantomData }
    }

    /// Writes are checked and answered as if they were made, but not made.
    pub fn dry_run(mut self, on: bool) -> Api<R> {
        self.verbs.dry_run = on;
        self
    }

    pub fn client(&self) -> &Client {
        &self.verbs.client
    }

    /// Empty: all.
    pub fn namespace(&self) -> &str {
        &self.verbs.namespace
    }

    pub async fn get(&self, name: &str) -> Result<R> {
        self.decode("get", self.verbs.get(name, "").await?)
    }

    /// None where there is no such object.
    pub async fn get_opt(&self, name: &str) -> Result<Option<R>> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn list(&self, options: &ListOptions) -> Result<List<R>> {
        let page = self.verbs.list(options).await?;
        let items = page.items.into_iter().map(|item| self.decode("list", item));
        Ok(List {
            items: items.collect::<Result<_>>()?,
            resource_version: page.resource_version,
            continue_token: page.continue_token,
            remaining: page.remaining,
        })
    }

    /// The stream ends, with or without an error, when the server or the connection does; begin again from the last
    /// revision seen.
    pub async fn watch(&self, options: &WatchOptions) -> Result<WatchStream<R>> {
        let events = self.verbs.watch(options).await?;
        let api = self.clone();
        Ok(events.map(move |event| api.event(event)).boxed())
    }

    fn event(
        &self,
        event: Result<weir_proto::weir::v1::WatchEvent, tonic::Status>,
    ) -> Result<watch::WatchEvent<R>> {
        let event = event.map_err(|status| {
            self.verbs.client.error(&format!("watch {}", self.verbs.kind.plural), status)
        })?;
        let revision = event.resource_version.clone();
        let mut event = watch::typed(event, |object| self.decode("watch", object))?
            .ok_or_else(|| self.verbs.undecodable("watch", "the event has no type or no object"))?;
        if let watch::WatchEvent::Deleted(object) = &mut event {
            watch::date_deletion(object.meta_mut(), revision);
        }
        Ok(event)
    }

    pub async fn create(&self, resource: &R) -> Result<R> {
        let namespace = &resource.meta().namespace;
        self.decode("create", self.verbs.create(namespace, "", "", wire(resource)).await?)
    }

    /// Replaces the object, unless it was changed since it was read (then `is_conflict`).
    pub async fn update(&self, resource: &R) -> Result<R> {
        self.update_subresource("", resource).await
    }

    pub async fn update_status(&self, resource: &R) -> Result<R> {
        self.update_subresource("status", resource).await
    }

    /// `finalize` of a Namespace, `status` of most kinds.
    pub async fn update_subresource(&self, subresource: &str, resource: &R) -> Result<R> {
        let meta = resource.meta();
        let object = self.verbs.update(&meta.namespace, &meta.name, subresource, wire(resource)).await?;
        self.decode("update", object)
    }

    pub async fn patch(&self, name: &str, patch: &Patch) -> Result<R> {
        self.decode("patch", self.verbs.patch(name, "", patch).await?)
    }

    pub async fn patch_status(&self, name: &str, patch: &Patch) -> Result<R> {
        self.decode("patch", self.verbs.patch(name, "status", patch).await?)
    }

    /// The object as it was last, or as it is while a grace period or finalizers hold it.
    pub async fn delete(&self, name: &str, options: &DeleteOptions) -> Result<R> {
        self.decode("delete", self.verbs.delete(name, options).await?)
    }

    /// How many were deleted.
    pub async fn delete_collection(&self, list: &ListOptions, options: &DeleteOptions) -> Result<i64> {
        self.verbs.delete_collection(list, options).await
    }

    /// Reads, changes and updates until no other writer came between, some ten times at most.
    pub async fn modify(&self, name: &str, change: impl Fn(&mut R)) -> Result<Modified<R>> {
        self.modify_subresource(name, "", change).await
    }

    /// As [`Api::modify`], of the status.
    pub async fn modify_status(&self, name: &str, change: impl Fn(&mut R)) -> Result<Modified<R>> {
        self.modify_subresource(name, "status", change).await
    }

    /// As [`Api::modify`], of a subresource that has the object's form.
    pub async fn modify_subresource(
        &self,
        name: &str,
        subresource: &str,
        change: impl Fn(&mut R),
    ) -> Result<Modified<R>> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        let mut attempts = 10;
        loop {
            let read = self.get(name).await?;
            let mut wanted = read.clone();
            change(&mut wanted);
            if wanted == read {
                return Ok(Modified::Unchanged(read));
            }
            attempts -= 1;
            match self.update_subresource(subresource, &wanted).await {
                Err(error) if error.is_conflict() && attempts > 0 => {
                    tokio::time::sleep(backoff.delay()).await
                }
                answer => return answer.map(Modified::Written),
            }
        }
    }

    fn decode(&self, verb: &'static str, object: Object) -> Result<R> {
        let bytes = self.verbs.payload(verb, object)?;
        R::decode(bytes.as_slice()).map_err(|error| self.verbs.undecodable(verb, error))
    }
}

impl Api<Pod> {
    /// Assigns a pod to a node.
    pub async fn bind(&self, pod: &str, binding: &Binding) -> Result<()> {
        let kind = KindRef { group: String::new(), version: "v1".to_owned(), kind: "Binding".to_owned() };
        let namespace = binding.metadata.as_ref().map_or("", |meta| meta.namespace.as_str());
        let message = object(kind, prost::Message::encode_to_vec(binding));
        self.verbs.create(namespace, pod, "binding", message).await.map(drop)
    }

    /// Asks for a pod to be deleted, unless that would break a promise of how many keep running.
    pub async fn evict(&self, pod: &str, eviction: &Eviction) -> Result<()> {
        let kind = Eviction::KIND.to_ref();
        let message = object(kind, prost::Message::encode_to_vec(eviction));
        self.verbs.create(&eviction.meta().namespace, pod, "eviction", message).await.map(drop)
    }
}

impl Api<ServiceAccount> {
    /// A token of the account, as `request` wants it; in the answer's status.
    pub async fn request_token(&self, account: &str, request: &TokenRequest) -> Result<TokenRequest> {
        let answer = self.verbs.create(&request.meta().namespace, account, "token", wire(request)).await?;
        let bytes = self.verbs.payload("create", answer)?;
        prost::Message::decode(bytes.as_slice()).map_err(|error| self.verbs.undecodable("create", error))
    }
}

impl<R: Resource> Api<R> {
    /// Asks what is answered and not stored: a review.
    pub async fn ask(&self, question: &R) -> Result<R> {
        self.decode("create", self.verbs.create("", "", "", wire(question)).await?)
    }
}

fn wire<R: Resource>(resource: &R) -> Object {
    object(R::KIND.to_ref(), resource.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::fake::FakeServer;
    use serde_json::json;
    use weir_proto::core::v1::ConfigMap;

    fn config_map(name: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.meta_mut().name = name.to_owned();
        object.meta_mut().namespace = "default".to_owned();
        object
    }

    #[tokio::test]
    async fn an_object_is_created_read_changed_and_deleted() {
        let api = FakeServer::default().client().namespaced::<ConfigMap>("default");
        let created = api.create(&config_map("a")).await.unwrap();
        assert!(!created.meta().uid.is_empty());
        let error = api.create(&config_map("a")).await.unwrap_err();
        assert!(error.is_already_exists(), "{error:?}");

        let patch = Patch::Merge(json!({"data": {"k": "v"}}));
        assert_eq!(api.patch("a", &patch).await.unwrap().data["k"], "v");
        let error = api.update(&created).await.unwrap_err();
        assert!(error.is_conflict(), "{error:?}");

        let options = DeleteOptions::only("another uid");
        assert!(api.delete("a", &options).await.unwrap_err().is_conflict());
        api.delete("a", &DeleteOptions::only(&created.meta().uid)).await.unwrap();
        assert_eq!(api.get_opt("a").await.unwrap(), None);
    }

    #[tokio::test]
    async fn modify_writes_again_after_a_conflict_and_not_at_all_without_a_change() {
        let server = FakeServer::default();
        let api = server.client().namespaced::<ConfigMap>("default");
        api.create(&config_map("a")).await.unwrap();
        server.conflicts(2);
        let add = |object: &mut ConfigMap| {
            object.data.insert("k".to_owned(), "v".to_owned());
        };
        assert!(matches!(api.modify("a", add).await.unwrap(), Modified::Written(_)));
        assert!(matches!(api.modify("a", add).await.unwrap(), Modified::Unchanged(_)));
    }

    #[tokio::test]
    async fn lists_are_read_page_by_page() {
        let api = FakeServer::default().client().namespaced::<ConfigMap>("default");
        for index in 0..5 {
            api.create(&config_map(&format!("c{index}"))).await.unwrap();
        }
        let mut options = ListOptions { limit: 2, ..ListOptions::default() };
        let mut names = Vec::new();
        loop {
            let page = api.list(&options).await.unwrap();
            names.extend(page.items.iter().map(|item| item.meta().name.clone()));
            if page.continue_token.is_empty() {
                break;
            }
            options.continue_token = page.continue_token;
        }
        assert_eq!(names, ["c0", "c1", "c2", "c3", "c4"]);
    }

    #[test]
    fn decode_errors_name_what_was_asked() {
        let api = FakeServer::default().client().namespaced::<ConfigMap>("default");
        let broken = object(ConfigMap::KIND.to_ref(), vec![0xff]);
        let Err(Error::Decode { operation, .. }) = api.decode("get", broken) else { panic!("not refused") };
        assert_eq!(operation, "get configmaps in default");
    }
}
