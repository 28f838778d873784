//! The verbs, written once for every kind: get, list, watch, create, update, patch, delete, deletecollection, and
//! subresources. gRPC and REST are thin faces over this.
//!
//! Every verb first asks [`crate::auth`]. Reads of lists and watches come from the [cache](crate::cache), reads of
//! one object from the store. Writes are compare-and-swap transactions on the store: what was read, changed and
//! checked is what is replaced, or the write is tried again or refused with 409.
//!
//! For parts of the server that need objects without going through a face, [`Registry::peek`],
//! [`Registry::peek_all`], [`Registry::follow`] and [`Registry::write_status`] act as the server itself.

mod bind;
mod create;
mod delete;
mod ephemeral;
mod event_lease;
mod fence;
mod internal;
mod list;
mod patch;
mod scale;
mod update;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
pub use weir_document::patch::PatchType;
use weir_proto::core::v1::{Event, Namespace};
use weir_proto::status::ApiError;
use weir_proto::{Kind, Object, Resource};
use weir_store::{KeyValue, Store, Txn};

pub use delete::{DeleteOptions, Deleted, Propagation};
pub use fence::Claim;
pub(crate) use fence::METADATA as CLAIM_METADATA;
pub use list::{ListPage, ListQuery, Version};
pub(crate) use patch::read_json;
pub use watch::WatchQuery;

use crate::allocate::{Allocator, Ranges};
use crate::auth::{self, Access, User, Verb};
use crate::cache::{CachedObject, Feed, KindCache};
use crate::store_error;
use crate::strategy::{self, AnyStrategy};
use crate::tokens::Tokens;
use event_lease::EventLease;

/// No object's name is longer. (Errors repeat names.)
const LONGEST_NAME: usize = 253;

/// How unknown fields of JSON are met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Who asks, and how.
#[derive(Debug, Clone)]
pub struct Context {
    pub user: User,
    /// Go through everything but the write.
    pub dry_run: bool,
    pub field_validation: FieldValidation,
    /// Writes count only as long as this holds.
    pub claim: Option<Arc<Claim>>,
}

impl Context {
    pub fn new(user: User) -> Self {
        Context { user, dry_run: false, field_validation: FieldValidation::default(), claim: None }
    }

    /// The server itself.
    pub fn system() -> Self {
        Context::new(User::system("system:apiserver"))
    }
}

/// Names an object or one of its subresources.
#[derive(Debug, Clone)]
pub struct Target {
    pub kind: &'static Kind,
    pub namespace: String,
    pub name: String,
    /// Empty: the object itself.
    pub subresource: String,
}

impl Target {
    pub fn new(kind: &'static Kind, namespace: &str, name: &str) -> Self {
        Target { kind, namespace: namespace.to_owned(), name: name.to_owned(), subresource: String::new() }
    }

    fn key(&self) -> String {
        self.kind.key(&self.namespace, &self.name)
    }
}

/// What a write answers.
#[derive(Debug)]
pub struct Written {
    pub object: Arc<CachedObject>,
    /// For the user to see.
    pub warnings: Vec<String>,
}

struct Entry {
    cache: Arc<KindCache>,
    strategy: Box<dyn AnyStrategy>,
}

struct Inner {
    store: Arc<dyn Store>,
    entries: HashMap<&'static Kind, Entry>,
    allocator: Allocator,
    event_lease: EventLease,
    tokens: Tokens,
}

/// All kinds and their verbs. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

impl Registry {
    /// Events stay for `event_ttl` after they were last written.
    pub fn new(store: Arc<dyn Store>, ranges: Ranges, event_ttl: Duration) -> Self {
        let entries = weir_proto::kinds()
            .iter()
            .map(|kind| {
                let cache = KindCache::new(kind, store.clone());
                (*kind, Entry { cache, strategy: strategy::for_kind(kind) })
            })
            .collect();
        let allocator = Allocator::new(store.clone(), ranges);
        let (event_lease, tokens) = (EventLease::new(event_ttl), Tokens::new(store.clone()));
        let inner = Inner { store, entries, allocator, event_lease, tokens };
        Registry { inner: Arc::new(inner) }
    }

    /// Follows the store until cancelled.
    pub fn start(&self, stop: &CancellationToken) {
        let feed = Feed::new(self.inner.entries.values().map(|entry| entry.cache.clone()));
        tokio::spawn(feed.run(self.inner.store.clone(), stop.clone()));
    }

    /// The kinds whose caches have not been filled yet; empty when the server can answer.
    pub fn not_ready(&self) -> Vec<&'static str> {
        let waiting = self.inner.entries.values().filter(|entry| !entry.cache.is_ready());
        waiting.map(|entry| entry.cache.kind().plural).collect()
    }

    /// Brings what is counted by looking up to date.
    pub(crate) fn measure(&self) {
        for entry in self.inner.entries.values() {
            entry.cache.measure();
        }
    }

    /// Tokens of service accounts.
    pub(crate) fn tokens(&self) -> &Tokens {
        &self.inner.tokens
    }

    fn entry(&self, kind: &'static Kind) -> Result<&Entry, ApiError> {
        self.inner.entries.get(kind).ok_or_else(|| {
            ApiError::method_not_allowed(format!("{} is not a kind that is stored", kind.kind))
        })
    }

    async fn authorize(&self, context: &Context, verb: Verb, target: &Target) -> Result<(), ApiError> {
        let access = Access {
            verb,
            kind: target.kind,
            namespace: &target.namespace,
            name: &target.name,
            subresource: &target.subresource,
            filter: None,
        };
        auth::authorize(&context.user, &access, self).await
    }

    /// Checks that a target can be meant: a name, a namespace where the kind has one, a subresource that exists.
    fn check_target(&self, target: &Target) -> Result<(), ApiError> {
        let kind = target.kind;
        if target.name.is_empty() {
            return Err(ApiError::bad_request(format!("{}: name is required", kind.plural)));
        }
        if kind.namespaced && target.namespace.is_empty() {
            return Err(ApiError::bad_request(format!("{}: namespace is required", kind.plural)));
        }
        if !kind.namespaced && !target.namespace.is_empty() {
            return Err(ApiError::bad_request(format!("{} are not in a namespace", kind.plural)));
        }
        if target.name.len() > LONGEST_NAME || target.namespace.len() > LONGEST_NAME {
            let message = format!("a name is longer than {LONGEST_NAME} bytes; there is no such object");
            return Err(ApiError::bad_request(message));
        }
        if target.name.contains('/') || target.namespace.contains('/') {
            return Err(ApiError::bad_request("names may not contain '/'"));
        }
        if !target.subresource.is_empty() && !kind.has_subresource(&target.subresource) {
            return Err(ApiError::no_such_path());
        }
        Ok(())
    }

    /// Puts an object; an Event so that it goes by itself, counting from now.
    async fn put(&self, txn: Txn, target: &Target, value: Vec<u8>) -> Result<Txn, ApiError> {
        let key = target.key();
        if target.kind != Event::KIND {
            return Ok(txn.put(key, value));
        }
        let lease = self.inner.event_lease.current(self.inner.store.as_ref()).await?;
        Ok(txn.put_leased(key, value, lease))
    }

    /// The newest state of one object, from the store.
    async fn read(&self, target: &Target) -> Result<CachedObject, ApiError> {
        decode(target.kind, &self.stored(target).await?)
    }

    /// The same, as the store holds it.
    async fn stored(&self, target: &Target) -> Result<KeyValue, ApiError> {
        let found = self.inner.store.get(&target.key()).await.map_err(store_error::during("read"))?;
        found.value.ok_or_else(|| ApiError::not_found(target.kind, &target.name))
    }

    /// `get`
    pub async fn get(&self, context: &Context, target: &Target) -> Result<Arc<CachedObject>, ApiError> {
        self.authorize(context, Verb::Get, target).await?;
        self.check_target(target)?;
        self.entry(target.kind)?;
        let cached = self.read(target).await?;
        match target.subresource.as_str() {
            "" | "status" | "ephemeralcontainers" => Ok(Arc::new(cached)),
            "scale" => scale::of(&cached).map(Arc::new),
            other => Err(ApiError::method_not_allowed(format!("get of {}/{other}", target.kind.plural))),
        }
    }

    /// The namespace must exist, and take new objects.
    async fn check_namespace(&self, target: &Target) -> Result<(), ApiError> {
        if !target.kind.namespaced {
            return Ok(());
        }
        let namespace = Target::new(Namespace::KIND, "", &target.namespace);
        let cached = match self.entry(Namespace::KIND)?.cache.get("", &target.namespace) {
            Some(cached) => cached,
            // It may have been created a moment ago.
            None => Arc::new(self.read(&namespace).await?),
        };
        if cached.object.meta().deletion_timestamp.is_some() {
            let reason = format!(
                "unable to create new content in namespace {} because it is being terminated",
                target.namespace
            );
            return Err(auth::forbidden(target.kind, &target.name, &reason));
        }
        Ok(())
    }
}

fn decode(kind: &'static Kind, kv: &KeyValue) -> Result<CachedObject, ApiError> {
    CachedObject::decode(kind, kv).map_err(|error| {
        tracing::error!(key = kv.key, %error, "cannot decode a stored object");
        ApiError::internal(format!("decode stored object {}: {error}", kv.key))
    })
}

/// What is kept in the store: the object without its revision, which the store keeps itself.
fn encode_for_store(object: &mut dyn Object) -> Vec<u8> {
    let revision = std::mem::take(&mut object.meta_mut().resource_version);
    let value = object.encode();
    object.meta_mut().resource_version = revision;
    value
}
