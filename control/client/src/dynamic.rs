//! A kind known only at run time: what the command line and the garbage collector handle.

use futures::StreamExt;
use weir_proto::weir::v1 as wire;
use weir_proto::{Kind, Object};

use crate::Result;
use crate::client::Client;
use crate::verbs::{DeleteOptions, List, ListOptions, Patch, Verbs, WatchOptions, object};
use crate::watch::{self, WatchEvent, WatchStream};

/// As [`crate::Api`], over type-erased objects.
#[derive(Debug, Clone)]
pub struct DynamicApi {
    verbs: Verbs,
}

impl DynamicApi {
    pub(crate) fn new(client: Client, kind: &'static Kind, namespace: &str) -> DynamicApi {
        DynamicApi { verbs: Verbs { client, kind, namespace: namespace.to_owned(), dry_run: false } }
    }

    pub fn dry_run(mut self, on: bool) -> DynamicApi {
        self.verbs.dry_run = on;
        self
    }

    pub fn kind(&self) -> &'static Kind {
        self.verbs.kind
    }

    pub async fn get(&self, name: &str) -> Result<Box<dyn Object>> {
        self.decode("get", self.verbs.get(name, "").await?)
    }

    /// None where there is no such object.
    pub async fn get_opt(&self, name: &str) -> Result<Option<Box<dyn Object>>> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn list(&self, options: &ListOptions) -> Result<List<Box<dyn Object>>> {
        let page = self.verbs.list(options).await?;
        let items = page.items.into_iter().map(|item| self.decode("list", item));
        Ok(List {
            items: items.collect::<Result<_>>()?,
            resource_version: page.resource_version,
            continue_token: page.continue_token,
            remaining: page.remaining,
        })
    }

    pub async fn watch(&self, options: &WatchOptions) -> Result<WatchStream<Box<dyn Object>>> {
        let events = self.verbs.watch(options).await?;
        let api = self.clone();
        Ok(events.map(move |event| api.event(event)).boxed())
    }

    fn event(&self, event: Result<wire::WatchEvent, tonic::Status>) -> Result<WatchEvent<Box<dyn Object>>> {
        let event = event.map_err(|status| {
            self.verbs.client.error(&format!("watch {}", self.verbs.kind.plural), status)
        })?;
        let revision = event.resource_version.clone();
        let mut event = watch::typed(event, |object| self.decode("watch", object))?
            .ok_or_else(|| self.verbs.undecodable("watch", "the event has no type or no object"))?;
        if let WatchEvent::Deleted(object) = &mut event {
            watch::date_deletion(object.meta_mut(), revision);
        }
        Ok(event)
    }

    pub async fn create(&self, resource: &dyn Object) -> Result<Box<dyn Object>> {
        let answer = self.verbs.create(&resource.meta().namespace, "", "", wire(resource)).await?;
        self.decode("create", answer)
    }

    pub async fn update(&self, resource: &dyn Object) -> Result<Box<dyn Object>> {
        let meta = resource.meta();
        let answer = self.verbs.update(&meta.namespace, &meta.name, "", wire(resource)).await?;
        self.decode("update", answer)
    }

    pub async fn update_status(&self, resource: &dyn Object) -> Result<Box<dyn Object>> {
        let meta = resource.meta();
        let answer = self.verbs.update(&meta.namespace, &meta.name, "status", wire(resource)).await?;
        self.decode("update", answer)
    }

    pub async fn patch(&self, name: &str, patch: &Patch) -> Result<Box<dyn Object>> {
        self.decode("patch", self.verbs.patch(name, "", patch).await?)
    }

    pub async fn patch_status(&self, name: &str, patch: &Patch) -> Result<Box<dyn Object>> {
        self.decode("patch", self.verbs.patch(name, "status", patch).await?)
    }

    /// The object as it was last, or as it is while a grace period or finalizers hold it.
    pub async fn delete(&self, name: &str, options: &DeleteOptions) -> Result<Box<dyn Object>> {
        self.decode("delete", self.verbs.delete(name, options).await?)
    }

    /// How many were deleted.
    pub async fn delete_collection(&self, list: &ListOptions, options: &DeleteOptions) -> Result<i64> {
        self.verbs.delete_collection(list, options).await
    }

    fn decode(&self, verb: &'static str, object: wire::Object) -> Result<Box<dyn Object>> {
        let bytes = self.verbs.payload(verb, object)?;
        self.verbs.kind.decode(&bytes).map_err(|error| self.verbs.undecodable(verb, error))
    }
}

fn wire(resource: &dyn Object) -> wire::Object {
    object(resource.kind().to_ref(), resource.encode())
}
