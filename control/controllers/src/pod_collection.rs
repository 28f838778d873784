//! Pods that nobody will ever finish: those of nodes that are gone, those deleted before they had a node, and ended
//! ones beyond a limit. They are removed for good.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weir_client::{Change, Client, DeleteOptions, ObjectKey};
use weir_proto::core::v1::{Node, Pod};

use crate::caches::{Caches, NODE};
use crate::runner::{Controller, Next, Runner};
use crate::{Error, pods};

/// How often to look.
const PERIOD: Duration = Duration::from_secs(20);
/// A node that was deleted may be about to register again.
const QUARANTINE: Duration = Duration::from_secs(40);

pub(crate) struct PodCollector {
    client: Client,
    caches: Caches,
    ended_limit: usize,
    /// Since when nodes that pods name have been missing. A cache: a restart only starts the quarantine anew.
    missing: Mutex<HashMap<String, Instant>>,
}

/// The loop: all pods at once, now and then, and when a node goes.
pub(crate) fn runner(client: &Client, caches: &Caches, ended_limit: usize) -> Runner<impl Controller> {
    let collector = PodCollector {
        client: client.clone(),
        caches: caches.clone(),
        ended_limit,
        missing: Mutex::default(),
    };
    Runner::new(collector, 1)
        .on(&caches.nodes, |change| if change.new.is_none() { vec![all()] } else { Vec::new() })
        .on(&caches.pods, |change: &Change<Pod>| {
            let stuck = change.new.as_ref().is_some_and(|pod| never_ran(pod));
            if stuck { vec![all()] } else { Vec::new() }
        })
}

fn all() -> ObjectKey {
    ObjectKey::new("", "all pods")
}

/// Deleted before it had a node: there is no agent to confirm it.
fn never_ran(pod: &Pod) -> bool {
    pods::is_terminating(pod) && pod.spec().node_name.is_empty()
}

/// The oldest of the ended pods, beyond the limit.
fn excess(pods: &[Arc<Pod>], limit: usize) -> Vec<&Pod> {
    let mut ended: Vec<&Pod> = pods
        .iter()
        .map(AsRef::as_ref)
        .filter(|pod| pods::is_terminal(pod) && !pods::is_terminating(pod))
        .collect();
    let count = ended.len().saturating_sub(limit);
    ended.sort_by_key(|pod| pod.meta().creation_timestamp);
    ended.truncate(count);
    ended
}

impl Controller for PodCollector {
    fn name(&self) -> &'static str {
        "pod-collection"
    }

    fn keys(&self) -> Vec<ObjectKey> {
        vec![all()]
    }

    async fn reconcile(&self, _: &ObjectKey) -> Result<Next, Error> {
        let pods = self.caches.pods.list();
        for pod in pods.iter().filter(|pod| never_ran(pod)) {
            self.remove(pod, "it was deleted before it had a node").await?;
        }
        for node in self.quarantined(&pods) {
            // The local copy may be old.
            if self.client.api::<Node>().get_opt(&node).await?.is_some() {
                continue;
            }
            for pod in self.caches.pods.by_index(NODE, &node) {
                self.remove(&pod, "its node is gone").await?;
            }
        }
        for pod in excess(&pods, self.ended_limit) {
            self.remove(pod, "there are too many ended pods").await?;
        }
        Ok(Next::After(PERIOD))
    }
}

impl PodCollector {
    /// Nodes that pods name and that have been missing for long enough.
    fn quarantined(&self, pods: &[Arc<Pod>]) -> Vec<String> {
        let now = Instant::now();
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut named: HashMap<String, Instant> = HashMap::new();
        for pod in pods {
            let node = &pod.spec().node_name;
            if !node.is_empty() && !named.contains_key(node) && self.caches.nodes.get("", node).is_none() {
                named.insert(node.clone(), missing.get(node).copied().unwrap_or(now));
            }
        }
        *missing = named;
        let long_ago = missing.iter().filter(|(_, since)| now.duration_since(**since) >= QUARANTINE);
        long_ago.map(|(node, _)| node.clone()).collect()
    }

    async fn remove(&self, pod: &Pod, why: &str) -> Result<(), Error> {
        let meta = pod.meta();
        tracing::info!(pod = %ObjectKey::of(pod), why, "removing the pod");
        let api = self.client.namespaced::<Pod>(&meta.namespace);
        match api.delete(&meta.name, &DeleteOptions::now(&meta.uid)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_proto::meta::v1::Time;

    fn pod(name: &str, phase: &str, created: i64) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.meta_mut().name = name.to_owned();
        pod.meta_mut().creation_timestamp = Some(Time::from_unix(created));
        pod.status_mut().phase = phase.to_owned();
        Arc::new(pod)
    }

    #[test]
    fn the_oldest_ended_pods_go_when_there_are_too_many() {
        let pods = [
            pod("new", "Succeeded", 30),
            pod("old", "Failed", 10),
            pod("running", "Running", 1),
            pod("middle", "Succeeded", 20),
        ];
        let names =
            |limit| excess(&pods, limit).iter().map(|pod| pod.meta().name.clone()).collect::<Vec<_>>();
        assert_eq!(names(1), ["old", "middle"]);
        assert!(names(3).is_empty());
    }
}
