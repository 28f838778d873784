//! ReplicaSets: a number of equal pods.

mod perform;
mod plan;
mod rank;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use weir_client::{Change, Client, ObjectKey, Recorder};
use weir_proto::apps::v1::ReplicaSet;
use weir_proto::core::v1::Pod;
use weir_proto::labels::Selector;
use weir_proto::meta::v1::{ObjectMeta, Time};

use crate::caches::{CONTROLLER, Caches, ORPHANS};
use crate::runner::{Controller, Next, Runner};
use crate::{Error, claims, owners, pods, selectors};

pub(crate) struct ReplicaSetController {
    client: Client,
    caches: Caches,
    events: Recorder,
}

/// The loop: every set, whenever it or one of its pods (or a pod that might be) changes.
pub(crate) fn runner(client: &Client, caches: &Caches, workers: usize) -> Runner<impl Controller> {
    let events = Recorder::new(client, "replicaset-controller", "");
    let controller = ReplicaSetController { client: client.clone(), caches: caches.clone(), events };
    let of_pod = caches.clone();
    Runner::new(controller, workers).on_each(&caches.replica_sets).on(&caches.pods, move |change| {
        match matters(change) {
            true => change.states().flat_map(|pod| owners_of(&of_pod, pod)).collect(),
            false => Vec::new(),
        }
    })
}

/// Most of what happens to a pod (it is put on a node, its containers start) changes nothing for its set.
fn matters(change: &Change<Pod>) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return true };
    seen(old) != seen(new)
}

/// All that a set's status, its claims and the number of its pods depend on.
fn seen(pod: &Pod) -> impl PartialEq + '_ {
    let meta = pod.meta();
    let ready =
        pods::condition(pod, "Ready").map(|condition| (&condition.status, condition.last_transition_time));
    (
        &meta.uid,
        &meta.labels,
        &meta.owner_references,
        pods::is_terminating(pod),
        pods::is_terminal(pod),
        ready,
    )
}

fn owners_of(caches: &Caches, pod: &Pod) -> Vec<ObjectKey> {
    let meta = pod.meta();
    if let Some(owner) = owners::controller_of(meta) {
        let ours = owner.kind == "ReplicaSet";
        return ours.then(|| ObjectKey::new(&meta.namespace, &owner.name)).into_iter().collect();
    }
    // Nobody's: whoever selects it will want it.
    let sets = caches.replica_sets.list();
    let selects = |set: &ReplicaSet| {
        set.meta().namespace == meta.namespace && selector(set).is_ok_and(|s| s.matches(&meta.labels))
    };
    sets.iter().filter(|set| selects(set)).map(|set| ObjectKey::of(set.as_ref())).collect()
}

fn selector(set: &ReplicaSet) -> Result<Selector, Error> {
    selectors::required(&ObjectKey::of(set), set.spec().selector.as_ref())
}

impl Controller for ReplicaSetController {
    fn name(&self) -> &'static str {
        "replicaset"
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.caches.replica_sets.list().iter().map(|set| ObjectKey::of(set.as_ref())).collect()
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        // Its pods are for the garbage collector.
        let Some(set) = self.caches.replica_sets.get_key(key) else { return Ok(Next::Change) };
        let controlled = self.claim(&set).await?;
        let pods: Vec<&Pod> = controlled.iter().map(AsRef::as_ref).collect();
        // Only the choice of those that go depends on the neighbours.
        let related = if plan::has_excess(&set, &pods) { self.related(set.meta()) } else { Vec::new() };
        let related: Vec<&Pod> = related.iter().map(AsRef::as_ref).collect();
        let observed = plan::Observed { set: &set, pods: &pods, related: &related };

        let now = Time::now();
        let plan = plan::plan(&observed, now);
        let failed = self.perform(&set, &plan).await;
        let (status, next) = plan::status(&observed, failed.as_ref().err().map(|f| &f.failure), now);
        if status != *set.status() {
            let mut set = set.as_ref().clone();
            *set.status_mut() = status;
            let written = self.client.namespaced(&key.namespace).update_status(&set).await?;
            self.caches.replica_sets.reached(&written.meta().resource_version, perform::VISIBLE).await?;
        }
        match failed {
            Err(failed) => Err(failed.error),
            // More than fits into one go.
            Ok(()) if plan.create == plan::BURST || plan.delete.len() == plan::BURST => Ok(Next::Again),
            Ok(()) => Ok(next),
        }
    }
}

impl ReplicaSetController {
    async fn claim(&self, set: &ReplicaSet) -> Result<Vec<Arc<Pod>>, Error> {
        let meta = set.meta();
        let mut candidates = self.caches.pods.by_index(CONTROLLER, &meta.uid);
        let orphans = self.caches.pods.by_index(ORPHANS, &meta.namespace);
        candidates.extend(orphans.into_iter().filter(|pod| !pods::is_terminal(pod)));
        claims::claim(&self.client, set, &selector(set)?, candidates).await
    }

    /// Active pods of all sets that have the same controller.
    fn related(&self, set: &ObjectMeta) -> Vec<Arc<Pod>> {
        let siblings = match owners::controller_of(set) {
            Some(owner) => self.caches.replica_sets.by_index(CONTROLLER, &owner.uid),
            None => self.caches.replica_sets.get(&set.namespace, &set.name).into_iter().collect(),
        };
        let pods = siblings.iter().flat_map(|set| self.caches.pods.by_index(CONTROLLER, &set.meta().uid));
        pods.filter(|pod| pods::is_active(pod)).collect()
    }
}
