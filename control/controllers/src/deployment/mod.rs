//! Deployments: ReplicaSets by template revision, replaced in steps.

mod limits;
mod perform;
mod plan;
mod proportional;
mod rolling;
mod sets;
mod status;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use weir_client::{Change, Client, ObjectKey, Recorder};
use weir_proto::apps::v1::{Deployment, ReplicaSet};
use weir_proto::core::v1::Pod;
use weir_proto::labels::Selector;
use weir_proto::meta::v1::{ObjectMeta, Time};

use crate::caches::{CONTROLLER, Caches, NAMESPACE, ORPHANS};
use crate::runner::{Controller, Next, Runner};
use crate::{Error, claims, owners, pods};

pub(crate) struct DeploymentController {
    client: Client,
    caches: Caches,
    events: Recorder,
}

/// The loop: every deployment, whenever it, one of its sets, or (for Recreate) the end of one of its pods is seen.
pub(crate) fn runner(client: &Client, caches: &Caches, workers: usize) -> Runner<impl Controller> {
    let events = Recorder::new(client, "deployment-controller", "");
    let controller = DeploymentController { client: client.clone(), caches: caches.clone(), events };
    let (of_set, of_pod) = (caches.clone(), caches.clone());
    Runner::new(controller, workers)
        .on_each(&caches.deployments)
        .on(&caches.replica_sets, move |change| {
            change.states().flat_map(|set| owners_of(&of_set, set)).collect()
        })
        .on(&caches.pods, move |change| {
            ended(change).and_then(|pod| owner_of_pod(&of_pod, pod)).into_iter().collect()
        })
}

fn owners_of(caches: &Caches, set: &ReplicaSet) -> Vec<ObjectKey> {
    let meta = set.meta();
    if let Some(owner) = owner_key(meta) {
        return vec![owner];
    }
    // Nobody's: whoever selects it will want it.
    let deployments = caches.deployments.by_index(NAMESPACE, &meta.namespace);
    let selects = |deployment: &Deployment| selector(deployment).is_ok_and(|s| s.matches(&meta.labels));
    deployments.iter().filter(|deployment| selects(deployment)).map(|d| ObjectKey::of(d.as_ref())).collect()
}

fn owner_key(meta: &ObjectMeta) -> Option<ObjectKey> {
    let owner = owners::controller_of(meta)?;
    (owner.kind == "Deployment").then(|| ObjectKey::new(&meta.namespace, &owner.name))
}

/// The pod that this change ended.
fn ended(change: &Change<Pod>) -> Option<&Pod> {
    match &change.new {
        None => change.old.as_deref(),
        Some(new) => Some(new.as_ref()).filter(|pod| pods::is_terminal(pod)),
    }
}

fn owner_of_pod(caches: &Caches, pod: &Pod) -> Option<ObjectKey> {
    let set = owners::controller_of(pod.meta()).filter(|owner| owner.kind == "ReplicaSet")?;
    owner_key(caches.replica_sets.get(&pod.meta().namespace, &set.name)?.meta())
}

/// An empty selector would take every pod there is; validation lets none pass.
fn selector(deployment: &Deployment) -> Result<Selector, Error> {
    crate::selectors::required(&ObjectKey::of(deployment), deployment.spec().selector.as_ref())
}

impl Controller for DeploymentController {
    fn name(&self) -> &'static str {
        "deployment"
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.caches.deployments.list().iter().map(|deployment| ObjectKey::of(deployment.as_ref())).collect()
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        // What it leaves behind is for the garbage collector.
        let Some(deployment) = self.caches.deployments.get_key(key) else { return Ok(Next::Change) };
        let sets = self.claim(&deployment).await?;
        let running = if limits::is_recreate(&deployment) { self.running(&sets) } else { BTreeMap::new() };
        let observed = plan::Observed { deployment: &deployment, sets: &sets, running };
        let plan = plan::plan(&observed, Time::now());
        let next = plan.next;
        self.perform(&deployment, plan).await?;
        Ok(next)
    }
}

impl DeploymentController {
    async fn claim(&self, deployment: &Deployment) -> Result<Vec<ReplicaSet>, Error> {
        let meta = deployment.meta();
        let mut candidates = self.caches.replica_sets.by_index(CONTROLLER, &meta.uid);
        candidates.extend(self.caches.replica_sets.by_index(ORPHANS, &meta.namespace));
        let sets = claims::claim(&self.client, deployment, &selector(deployment)?, candidates).await?;
        Ok(sets.into_iter().map(|set| set.as_ref().clone()).collect())
    }

    fn running(&self, sets: &[ReplicaSet]) -> BTreeMap<String, usize> {
        let running = |set: &ReplicaSet| {
            let pods = self.caches.pods.by_index(CONTROLLER, &set.meta().uid);
            (set.meta().uid.clone(), pods.iter().filter(|pod| !pods::is_terminal(pod)).count())
        };
        sets.iter().map(running).collect()
    }
}
