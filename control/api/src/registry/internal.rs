//! What other parts of this server use in place of a client: no authorization, no wire forms.

use std::sync::Arc;

use weir_proto::Resource;
use weir_proto::status::ApiError;
use weir_store::Store;

use super::{Context, Registry, Target, Written};
use crate::cache::{CachedObject, Filter, From, KindCache, Watcher};

impl Registry {
    /// The cached object; may be a moment old.
    pub fn peek<R: Resource>(&self, namespace: &str, name: &str) -> Option<Arc<CachedObject>> {
        self.entry(R::KIND).ok()?.cache.get(namespace, name)
    }

    /// The cached object, or else what the store has: it may have been made a moment ago.
    pub(crate) async fn find<R: Resource>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<CachedObject>>, ApiError> {
        match self.peek::<R>(namespace, name) {
            Some(known) => Ok(Some(known)),
            None => self.find_fresh::<R>(namespace, name).await,
        }
    }

    /// What the store has now.
    pub(crate) async fn find_fresh<R: Resource>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<CachedObject>>, ApiError> {
        let target = Target::new(R::KIND, namespace, name);
        if self.check_target(&target).is_err() {
            // No object can have this name.
            return Ok(None);
        }
        match self.read(&target).await {
            Ok(found) => Ok(Some(Arc::new(found))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The cached objects that match; may be a moment old.
    pub fn peek_all<R: Resource>(&self, filter: &Filter) -> Vec<Arc<CachedObject>> {
        self.entry(R::KIND).map(|entry| entry.cache.list(filter).1).unwrap_or_default()
    }

    /// The present state as additions and a bookmark, then changes. The watcher ends in an error when it must be
    /// started anew.
    pub async fn follow<R: Resource>(&self, filter: Filter) -> Result<Watcher, ApiError> {
        let cache = &self.entry(R::KIND)?.cache;
        cache.ready().await?;
        cache.watch(filter, From::Present, true)
    }

    /// What all this stands on.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.inner.store.clone()
    }

    /// The cache of a kind, for who reads it all the time.
    pub fn cache_of<R: Resource>(&self) -> Result<Arc<KindCache>, ApiError> {
        Ok(self.entry(R::KIND)?.cache.clone())
    }

    /// Creates an object, as the server.
    pub async fn create_own<R: Resource>(&self, object: R) -> Result<Written, ApiError> {
        let target = Target::new(R::KIND, &object.meta().namespace, "");
        self.create(&Context::system(), &target, Box::new(object)).await
    }

    /// Writes an object's status, as the server; the rest of `object` but its name is ignored. Without a resource
    /// version it overwrites whatever status is there.
    pub async fn write_status<R: Resource>(&self, object: R) -> Result<Written, ApiError> {
        let meta = object.meta();
        let mut target = Target::new(R::KIND, &meta.namespace, &meta.name);
        "status".clone_into(&mut target.subresource);
        self.update(&Context::system(), &target, Box::new(object)).await
    }
}
