//! Garbage collection by `ownerReferences`.
//!
//! - Background: an object goes when none of its owners exists any more.
//! - Foreground: an owner with the finalizer `foregroundDeletion` goes after the dependents that block it.
//! - Orphan: an owner with the finalizer `orphan` goes after its dependents were cut loose.
//!
//! **Invariant:** nothing is deleted before the server itself said that the owner, by its uid, does not exist.
//! References to kinds that are not known here cannot be checked, and keep the object.

mod feed;
mod graph;
#[cfg(test)]
mod tests;

use weir_client::{Client, DeleteOptions, DynamicApi, ObjectKey, Propagation};
use weir_proto::meta::v1::{ObjectMeta, OwnerReference};

use crate::Error;
use crate::runner::{Controller, Next, Runner};
use feed::{Feed, SharedGraph};
use graph::{Decision, Entry, FOREGROUND, ORPHAN};

pub(crate) struct GarbageCollector {
    client: Client,
    graph: SharedGraph,
}

/// The loop: every object, whenever it, an owner or a dependent of it changes.
pub(crate) fn runner(client: &Client, workers: usize) -> Runner<impl Controller> {
    let graph = SharedGraph::default();
    let collector = GarbageCollector { client: client.clone(), graph: graph.clone() };
    let mut runner = Runner::new(collector, workers);
    for kind in feed::kinds() {
        runner = runner.fed_by(|queue| Feed::new(client, kind, &graph, queue).run());
    }
    runner
}

impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector"
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.graph.lock().concerned().into_iter().map(feed::key).collect()
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let (entry, decision) = {
            let graph = self.graph.lock();
            let Some(entry) = graph.get(&key.name).cloned() else { return Ok(Next::Change) };
            let decision = graph.decide(&entry);
            (entry, decision)
        };
        match decision {
            Decision::Nothing => {}
            Decision::Finish => self.edit(&entry, |meta| remove_finalizer(meta, FOREGROUND)).await?,
            Decision::Orphan(dependents) => {
                for dependent in dependents {
                    self.edit(&dependent, |meta| remove_owners(meta, &[entry.uid.as_str()])).await?;
                }
                self.edit(&entry, |meta| remove_finalizer(meta, ORPHAN)).await?;
            }
            Decision::Verify { missing, present, delete } => {
                self.verify(&entry, &missing, &present, delete).await?;
            }
            Decision::Delete(propagation) => self.delete(&entry, propagation).await?,
        }
        Ok(Next::Change)
    }
}

impl GarbageCollector {
    async fn verify(
        &self,
        entry: &Entry,
        missing: &[OwnerReference],
        present: &[OwnerReference],
        delete: Propagation,
    ) -> Result<(), Error> {
        let mut absent = Vec::new();
        let mut stays = !present.is_empty();
        for owner in missing {
            if self.exists(entry, owner).await? {
                stays = true;
            } else {
                absent.push(owner.uid.as_str());
            }
        }
        match (absent.is_empty(), stays) {
            (true, _) => Ok(()),
            (false, true) => self.edit(entry, |meta| remove_owners(meta, &absent)).await,
            (false, false) => self.delete(entry, delete).await,
        }
    }

    /// Asks the server. What cannot be asked about counts as existing.
    async fn exists(&self, dependent: &Entry, owner: &OwnerReference) -> Result<bool, Error> {
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let Some(kind) = weir_proto::find(group, version, &owner.kind) else {
            tracing::debug!(object = %dependent.key, owner = owner.kind, "the owner's kind is not known");
            return Ok(true);
        };
        let namespace = kind.namespaced.then_some(dependent.key.namespace.as_str());
        if namespace.is_some_and(str::is_empty) {
            tracing::debug!(object = %dependent.key, owner = owner.kind, "an owner within a namespace cannot own this");
            return Ok(true);
        }
        let found = self.client.dynamic(kind, namespace).get_opt(&owner.name).await?;
        Ok(found.is_some_and(|found| found.meta().uid == owner.uid))
    }

    async fn delete(&self, entry: &Entry, propagation: Propagation) -> Result<(), Error> {
        tracing::debug!(kind = entry.kind.kind, object = %entry.key, "collecting");
        let options = DeleteOptions { propagation, ..DeleteOptions::only(&entry.uid) };
        match self.api(entry).delete(&entry.key.name, &options).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Changes the metadata of the object as it is now, if it still is the same one.
    async fn edit(&self, entry: &Entry, change: impl Fn(&mut ObjectMeta)) -> Result<(), Error> {
        let api = self.api(entry);
        let Some(mut object) = api.get_opt(&entry.key.name).await? else { return Ok(()) };
        if object.meta().uid != entry.uid {
            return Ok(());
        }
        let before = object.meta().clone();
        change(object.meta_mut());
        if *object.meta() == before {
            return Ok(());
        }
        match api.update(object.as_ref()).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn api(&self, entry: &Entry) -> DynamicApi {
        let namespace = entry.kind.namespaced.then_some(entry.key.namespace.as_str());
        self.client.dynamic(entry.kind, namespace)
    }
}

fn remove_finalizer(meta: &mut ObjectMeta, finalizer: &str) {
    meta.finalizers.retain(|own| own != finalizer);
}

fn remove_owners(meta: &mut ObjectMeta, uids: &[&str]) {
    meta.owner_references.retain(|owner| !uids.contains(&owner.uid.as_str()));
}
