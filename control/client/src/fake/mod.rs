//! An API server in memory, for tests: the generic verbs with resourceVersion, uid, finalizers, owner-independent
//! deletion and watches, and faults that tests switch on. No validation, defaulting or access control; dry runs write nothing.

mod service;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use weir_proto::Resource;
use weir_proto::weir::v1::resources_server::ResourcesServer;

use crate::Client;
use state::State;

/// Clones are the same server.
#[derive(Clone, Debug, Default)]
pub struct FakeServer {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told of each change of the state.
    changed: watch::Sender<()>,
}

impl FakeServer {
    pub fn client(&self) -> Client {
        Client::in_process(ResourcesServer::new(self.clone()))
    }

    /// Puts an object as it is (status and all), replacing one of the same name.
    pub fn put<R: Resource>(&self, object: &R) {
        self.change(|state| state.put(R::KIND, Box::new(object.clone())));
    }

    /// Removes an object, whatever its finalizers and grace period.
    pub fn remove<R: Resource>(&self, namespace: &str, name: &str) {
        self.change(|state| state.remove(R::KIND, &R::KIND.key(namespace, name)));
    }

    pub fn list<R: Resource>(&self) -> Vec<R> {
        let state = self.state();
        let objects = state.list(R::KIND, "");
        objects.filter_map(|object| object.as_any().downcast_ref::<R>().cloned()).collect()
    }

    pub fn get<R: Resource>(&self, namespace: &str, name: &str) -> Option<R> {
        let wanted = |object: &R| object.meta().namespace == namespace && object.meta().name == name;
        self.list::<R>().into_iter().find(wanted)
    }

    /// The next `count` updates are answered with a conflict.
    pub fn conflicts(&self, count: usize) {
        self.change(|state| state.conflicts = count);
    }

    /// Tokens of accounts are good for so many seconds from now on, whatever is asked.
    pub fn shorten_tokens(&self, seconds: i64) {
        self.change(|state| state.token_life = Some(seconds));
    }

    /// Writes are answered with "unavailable" as long as this is on.
    pub fn refuse_writes(&self, on: bool) {
        self.change(|state| state.refuse_writes = on);
    }

    /// Objects of this kind cannot be created, as if a quota were used up.
    pub fn refuse_creation<R: Resource>(&self) {
        self.change(|state| state.refuse_creation = Some(R::KIND));
    }

    /// How often creation was refused because of [`FakeServer::refuse_creation`].
    pub fn refusals(&self) -> usize {
        self.state().refusals
    }

    /// Every watch ends now.
    pub fn break_watches(&self) {
        self.change(|state| state.epoch += 1);
    }

    /// New watches are answered with "unavailable" until [`FakeServer::resume_watches`].
    pub fn pause_watches(&self) {
        self.change(|state| state.watches_paused = true);
    }

    pub fn resume_watches(&self) {
        self.change(|state| state.watches_paused = false);
    }

    /// Watches from before this moment are too old.
    pub fn compact(&self) {
        self.change(State::compact);
    }

    /// How many writes were made so far.
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut self.state());
        self.shared.changed.send_replace(());
        answer
    }
}
