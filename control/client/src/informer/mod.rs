//! A live copy of a kind (or of a selection of it) in memory.
//!
//! One watch brings first the present state, then every change; after a break it goes on from the last revision, and
//! begins anew where that has become too old. Readers always see some past state of the server, in order, never a
//! mixture; [`Informer::reached`] waits until it is not older than a given revision, which is how a writer reads its
//! own writes.
//!
//! Subscribers are told of changes through a bounded buffer. One who falls behind loses nothing but the details: it
//! is told [`Notice::Resync`] and looks at everything again.

mod follow;
mod objects;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio_util::task::AbortOnDropHandle;
use weir_proto::Resource;

use crate::api::Api;
use crate::key::ObjectKey;
use objects::Objects;

pub use objects::Change;

/// How many changes a subscriber may be behind.
const BUFFERED_CHANGES: usize = 8192;

type IndexFn<R> = Box<dyn Fn(&R) -> Vec<String> + Send + Sync>;
type TrimFn<R> = Box<dyn Fn(&mut R) + Send + Sync>;

/// What to copy and how to find things in it.
pub struct Options<R> {
    pub label_selector: String,
    pub field_selector: String,
    indices: Vec<(&'static str, IndexFn<R>)>,
    trim: Option<TrimFn<R>>,
}

impl<R> Default for Options<R> {
    fn default() -> Options<R> {
        Options {
            label_selector: String::new(),
            field_selector: String::new(),
            indices: Vec::new(),
            trim: None,
        }
    }
}

impl<R> Options<R> {
    pub fn labels(mut self, selector: impl Into<String>) -> Options<R> {
        self.label_selector = selector.into();
        self
    }

    pub fn fields(mut self, selector: impl Into<String>) -> Options<R> {
        self.field_selector = selector.into();
        self
    }

    /// Takes out of each object what nobody reads here, to save memory. Such an object must not be written back.
    pub fn trim(mut self, trim: impl Fn(&mut R) + Send + Sync + 'static) -> Options<R> {
        self.trim = Some(Box::new(trim));
        self
    }

    /// Objects will be found under each value that `values` gives for them; see [`Informer::by_index`].
    pub fn index(
        mut self,
        name: &'static str,
        values: impl Fn(&R) -> Vec<String> + Send + Sync + 'static,
    ) -> Options<R> {
        self.indices.push((name, Box::new(values)));
        self
    }
}

impl<R> fmt::Debug for Options<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("label_selector", &self.label_selector)
            .field("field_selector", &self.field_selector)
            .finish_non_exhaustive()
    }
}

/// Cheap to clone; following ends when the last clone is dropped.
pub struct Informer<R> {
    shared: Arc<Shared<R>>,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl<R> Clone for Informer<R> {
    fn clone(&self) -> Informer<R> {
        Informer { shared: self.shared.clone(), _task: self._task.clone() }
    }
}

impl<R> fmt::Debug for Informer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Informer").field("progress", &*self.shared.progress.borrow()).finish_non_exhaustive()
    }
}

struct Shared<R> {
    objects: RwLock<Objects<R>>,
    progress: watch::Sender<Progress>,
    changes: broadcast::Sender<Change<R>>,
}

/// How far the copy has come.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    synced: bool,
    revision: i64,
}

/// What a subscriber is told.
#[derive(Debug, Clone)]
pub enum Notice<R> {
    Changed(Change<R>),
    /// Look at everything: this is the beginning, or changes were missed.
    Resync,
}

/// The copy did not come as far as was waited for.
#[derive(Debug, thiserror::Error)]
#[error("the local copy of {kind} did not reach the awaited state within {seconds} s")]
pub struct Behind {
    pub kind: &'static str,
    pub seconds: u64,
}

impl<R: Resource> Informer<R> {
    /// Begins to follow; needs a tokio runtime. Reads find nothing until [`Informer::synced`].
    pub fn start(api: Api<R>, options: Options<R>) -> Informer<R> {
        let Options { label_selector, field_selector, indices, trim } = options;
        let shared = Arc::new(Shared {
            objects: RwLock::new(Objects::new(indices, trim)),
            progress: watch::Sender::new(Progress::default()),
            changes: broadcast::Sender::new(BUFFERED_CHANGES),
        });
        let follower = follow::Follower { api, label_selector, field_selector, shared: shared.clone() };
        let task = AbortOnDropHandle::new(tokio::spawn(follower.run()));
        Informer { shared, _task: Arc::new(task) }
    }

    /// Returns once the copy is complete.
    pub async fn synced(&self) {
        self.progressed(|progress| progress.synced).await;
    }

    pub fn is_synced(&self) -> bool {
        self.shared.progress.borrow().synced
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<R>> {
        self.get_key(&ObjectKey::new(namespace, name))
    }

    pub fn get_key(&self, key: &ObjectKey) -> Option<Arc<R>> {
        self.objects().get(key)
    }

    /// In order of namespace and name.
    pub fn list(&self) -> Vec<Arc<R>> {
        self.objects().list()
    }

    pub fn len(&self) -> usize {
        self.objects().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects that index `name` holds under `value`, in order of namespace and name. Empty for an index that
    /// was not declared in the options.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<R>> {
        self.objects().by_index(name, value)
    }

    /// Returns once the copy is not older than `resource_version` (as a write answered it).
    pub async fn reached(&self, resource_version: &str, within: Duration) -> Result<(), Behind> {
        let revision = revision(resource_version);
        let wait = self.progressed(|progress| progress.revision >= revision);
        tokio::time::timeout(within, wait).await.map_err(|_| behind::<R>(within))
    }

    /// Returns once `holds` is true of the copy of an object (None: there is none).
    pub async fn wait_for(
        &self,
        key: &ObjectKey,
        within: Duration,
        holds: impl Fn(Option<&R>) -> bool,
    ) -> Result<(), Behind> {
        let wait = self.progressed(|progress| progress.synced && holds(self.get_key(key).as_deref()));
        tokio::time::timeout(within, wait).await.map_err(|_| behind::<R>(within))
    }

    /// Everything that happens from now on; begins with [`Notice::Resync`] once the copy is complete.
    pub fn subscribe(&self) -> Subscription<R> {
        Subscription {
            changes: self.shared.changes.subscribe(),
            progress: self.shared.progress.subscribe(),
            begun: false,
        }
    }

    async fn progressed(&self, holds: impl Fn(&Progress) -> bool) {
        let mut progress = self.shared.progress.subscribe();
        // The sender lives in `self`, so the wait cannot end otherwise.
        let _ = progress.wait_for(|now| holds(now)).await;
    }

    fn objects(&self) -> RwLockReadGuard<'_, Objects<R>> {
        self.shared.objects.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One subscriber's view; see [`Informer::subscribe`].
#[derive(Debug)]
pub struct Subscription<R> {
    changes: broadcast::Receiver<Change<R>>,
    progress: watch::Receiver<Progress>,
    begun: bool,
}

impl<R: Resource> Subscription<R> {
    /// None once the informer is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Notice<R>> {
        if !self.begun {
            self.progress.wait_for(|progress| progress.synced).await.ok()?;
            self.begun = true;
            return Some(Notice::Resync);
        }
        match self.changes.recv().await {
            Ok(change) => Some(Notice::Changed(change)),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Notice::Resync),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Revisions are the store's: numbers that grow over all kinds.
fn revision(resource_version: &str) -> i64 {
    resource_version.parse().unwrap_or(0)
}

fn behind<R: Resource>(within: Duration) -> Behind {
    Behind { kind: R::KIND.plural, seconds: within.as_secs() }
}

#[cfg(test)]
mod tests;
