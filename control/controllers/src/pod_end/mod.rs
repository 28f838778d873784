//! Tells the nodes of pods that are to end when nobody sends these new connections any more.
//!
//! The API server marks a pod behind a service in the write that deletes it ([`plan::NO_NEW_FLOWS`]), an agent a pod that it
//! ends by itself; the agent then waits with SIGTERM. Here it is seen that the pod's slices have turned away from it and that every node's kernel
//! holds that revision, and the condition becomes True. Pods of no service are never marked and cost nothing.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use weir_client::{Change, Client, ObjectKey};
use weir_proto::core::v1::{Pod, Service};
use weir_proto::discovery::v1::EndpointSlice;
use weir_proto::meta::v1::Time;

use crate::caches::{Caches, ENDING, NAMESPACE};
use crate::runner::{Controller, Next, Runner};
use crate::{Error, endpointslice};
use plan::Needed;

/// How long the local copy may take to show what was written.
const VISIBLE: Duration = Duration::from_secs(10);
/// How often a pod that waits is looked at, if nothing else brings it.
const LOOK: Duration = Duration::from_secs(1);

pub(crate) struct PodEndController {
    client: Client,
    caches: Caches,
    /// By pod, its uid and the revision that nodes must hold, as first found: later changes of its services are no
    /// reason to wait longer. A cache.
    needed: Mutex<HashMap<ObjectKey, (String, i64)>>,
}

/// The loop: each pod that waits, whenever a slice turns away from it and whenever the revision that all nodes hold
/// moves.
pub(crate) fn runner(client: &Client, caches: &Caches, workers: usize) -> Runner<impl Controller> {
    let controller =
        PodEndController { client: client.clone(), caches: caches.clone(), needed: Mutex::default() };
    let floor = Arc::new(AtomicI64::new(0));
    let (of_slice, on_dataplanes, on_nodes) = (caches.clone(), caches.clone(), caches.clone());
    let (dataplane_floor, node_floor) = (Arc::clone(&floor), floor);
    Runner::new(controller, workers)
        .on(&caches.pods, |change: &Change<Pod>| {
            let concerned = change.states().any(|pod| plan::is_awaited(pod));
            let state = change.states().next().filter(|_| concerned);
            state.map(|pod| ObjectKey::of(pod.as_ref())).into_iter().collect()
        })
        .on(&caches.slices, move |change| {
            let named = change.new.iter().flat_map(|slice| plan::leaving(slice));
            named.filter(|key| of_slice.pods.get_key(key).is_some_and(|pod| plan::is_awaited(&pod))).collect()
        })
        .on(&caches.dataplanes, move |_| if_moved(&on_dataplanes, &dataplane_floor))
        .on(&caches.nodes, move |_| if_moved(&on_nodes, &node_floor))
}

/// What the index of pods is asked for.
pub(crate) fn ending(pod: &Pod) -> Vec<String> {
    if plan::is_awaited(pod) { vec![String::new()] } else { Vec::new() }
}

/// The pods that wait, if the revision that all nodes hold is another than when this was last asked.
fn if_moved(caches: &Caches, floor: &AtomicI64) -> Vec<ObjectKey> {
    let pods = caches.pods.by_index(ENDING, "");
    if pods.is_empty() {
        return Vec::new();
    }
    let now = held(caches).into_iter().map(|(_, revision)| revision).min().unwrap_or(i64::MAX);
    if floor.swap(now, Ordering::Relaxed) == now {
        return Vec::new();
    }
    pods.iter().map(|pod| ObjectKey::of(pod.as_ref())).collect()
}

/// The nodes that are waited for, each with the revision that it holds.
fn held(caches: &Caches) -> Vec<(String, i64)> {
    let nodes = caches.nodes.list();
    let held = nodes.iter().filter_map(|node| {
        let name = &node.meta().name;
        let dataplane = caches.dataplanes.get("", name);
        Some((name.clone(), plan::held(node, dataplane.as_deref())?))
    });
    held.collect()
}

impl Controller for PodEndController {
    fn name(&self) -> &'static str {
        "pod-end"
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.caches.pods.by_index(ENDING, "").iter().map(|pod| ObjectKey::of(pod.as_ref())).collect()
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(pod) = self.caches.pods.get_key(key).filter(|pod| plan::is_awaited(pod)) else {
            self.known().remove(key);
            return Ok(Next::Change);
        };
        let needed = self.needed(key, &pod);
        let Some(word) = plan::word(&pod, &needed, &held(&self.caches), Time::now()) else {
            return Ok(Next::After(LOOK));
        };
        let mut update = Pod::clone(&pod);
        for condition in &mut update.status_mut().conditions {
            if condition.r#type == word.r#type {
                condition.clone_from(&word);
            }
        }
        // Refused where somebody else has written to the pod meanwhile; that change brings it here again.
        match self.client.namespaced::<Pod>(&key.namespace).update_status(&update).await {
            // Until the local copy shows it, the same would be said again.
            Ok(written) => self.caches.pods.reached(&written.meta().resource_version, VISIBLE).await?,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Next::After(LOOK))
    }
}

impl PodEndController {
    fn needed(&self, key: &ObjectKey, pod: &Pod) -> Needed {
        let uid = &pod.meta().uid;
        if let Some((_, revision)) = self.known().get(key).filter(|(of, _)| of == uid) {
            return Needed::Revision(*revision);
        }
        let services = self.caches.services.by_index(NAMESPACE, &key.namespace);
        let services: Vec<(&Service, Vec<Arc<EndpointSlice>>)> = services
            .iter()
            .map(AsRef::as_ref)
            .filter(|service| plan::is_balanced(service) && endpointslice::serves(service, pod))
            .map(|service| (service, endpointslice::slices(&self.caches, &ObjectKey::of(service))))
            .collect();
        let services = services.iter().map(|(service, slices)| (*service, slices.iter().map(AsRef::as_ref)));
        let needed = plan::needed(pod, services);
        if let Needed::Revision(revision) = needed {
            self.known().insert(key.clone(), (uid.clone(), revision));
        }
        needed
    }

    fn known(&self) -> MutexGuard<'_, HashMap<ObjectKey, (String, i64)>> {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
