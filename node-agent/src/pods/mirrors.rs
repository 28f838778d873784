//! Keeps the mirrors of this node's static pods: one for each, made again when somebody removes it, and none besides.
//!
//! **Invariant:** a mirror never decides over its static pod. It is written, never followed: deleting it leads to another one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weir_client::{Backoff, Client, DeleteOptions, Informer, Recorder, Severity};
use weir_proto::Resource;
use weir_proto::core::v1::{Node, Pod};
use weir_proto::meta::v1::OwnerReference;

use super::mirror::{MIRROR, is_mirror, local_uid};
use crate::node;
use crate::static_pods::Wanted;

/// How often it is looked even if nothing is known to have happened.
const LOOK: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// A mirror that shows no static pod of this node, or is to go.
    Remove {
        namespace: String,
        name: String,
        uid: String,
    },
    Create(Arc<Pod>),
}

/// Pure: planning again after performing gives no step.
fn plan(wanted: &Wanted, pods: &[Arc<Pod>]) -> Vec<Step> {
    let mut missing: BTreeMap<(&str, &str), &Arc<Pod>> = BTreeMap::new();
    for pod in wanted.values() {
        missing.entry((&pod.meta().namespace, &pod.meta().name)).or_insert(pod);
    }
    let mut steps = Vec::new();
    for mirror in pods.iter().filter(|pod| is_mirror(pod)) {
        let meta = mirror.meta();
        let key = (meta.namespace.as_str(), meta.name.as_str());
        let current = missing.get(&key).is_some_and(|pod| pod.meta().uid == local_uid(mirror));
        if current && meta.deletion_timestamp.is_none() {
            missing.remove(&key);
            continue;
        }
        let (namespace, name) = (meta.namespace.clone(), meta.name.clone());
        steps.push(Step::Remove { namespace, name, uid: meta.uid.clone() });
    }
    steps.extend(missing.into_values().map(|pod| Step::Create(Arc::clone(pod))));
    steps
}

/// The object by which the API shows a static pod.
fn mirror_of(pod: &Pod, node: &Node) -> Pod {
    let mut mirror = pod.clone();
    mirror.status = None;
    let meta = mirror.meta_mut();
    meta.annotations.insert(MIRROR.to_owned(), pod.meta().uid.clone());
    meta.uid.clear();
    meta.generation = 0;
    meta.creation_timestamp = None;
    meta.owner_references = vec![OwnerReference {
        api_version: Node::KIND.api_version(),
        kind: Node::KIND.kind.to_owned(),
        name: node.meta().name.clone(),
        uid: node.meta().uid.clone(),
        controller: Some(true),
        ..OwnerReference::default()
    }];
    // A class that the cluster does not know would keep the mirror out; the number belongs to the API.
    mirror.spec_mut().priority = None;
    mirror
}

pub(super) struct Mirrors {
    pub(super) client: Client,
    pub(super) recorder: Recorder,
    pub(super) pods: Informer<Pod>,
    pub(super) node: Informer<Node>,
    pub(super) wanted: watch::Receiver<Option<Wanted>>,
}

impl Mirrors {
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = async { self.pods.synced().await; self.node.synced().await } => {}
        }
        let mut changes = self.pods.subscribe();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut told = BTreeMap::new();
        loop {
            let wait = match self.keep(&mut told).await {
                true => {
                    backoff.reset();
                    LOOK
                }
                false => backoff.delay(),
            };
            let mirror_changed = async {
                while let Some(notice) = changes.next().await {
                    let concerns = match &notice {
                        weir_client::Notice::Resync => true,
                        weir_client::Notice::Changed(change) => change.states().any(|pod| is_mirror(pod)),
                    };
                    if concerns {
                        return;
                    }
                }
                std::future::pending().await
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = mirror_changed => {}
                changed = self.wanted.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Whether all is as it should be.
    async fn keep(&mut self, told: &mut BTreeMap<String, String>) -> bool {
        let Some(wanted) = self.wanted.borrow_and_update().clone() else { return true };
        let steps = plan(&wanted, &self.pods.list());
        // Without its Node there is nobody for a mirror to belong to.
        let nodes = self.node.list();
        let Some(node) = nodes.first() else { return steps.is_empty() };
        let mut done = true;
        for step in steps {
            let (name, outcome) = match &step {
                Step::Remove { namespace, name, uid } => {
                    let api = self.client.namespaced::<Pod>(namespace);
                    let outcome = api.delete(name, &DeleteOptions::now(uid)).await.map(drop);
                    (name.clone(), outcome)
                }
                Step::Create(pod) => {
                    let api = self.client.namespaced::<Pod>(&pod.meta().namespace);
                    (pod.meta().name.clone(), api.create(&mirror_of(pod, node)).await.map(drop))
                }
            };
            match outcome {
                Ok(()) => {
                    told.remove(&name);
                }
                // The informer is a moment behind.
                Err(error) if error.is_not_found() && matches!(step, Step::Remove { .. }) => {}
                Err(error) if error.is_already_exists() || error.is_conflict() => done = false,
                Err(error) => {
                    done = false;
                    self.tell(told, &name, &step, error.to_string());
                }
            }
        }
        done
    }

    /// Once for each trouble.
    fn tell(&self, told: &mut BTreeMap<String, String>, name: &str, step: &Step, error: String) {
        if told.get(name) == Some(&error) {
            return;
        }
        let verb = if matches!(step, Step::Create(_)) { "make" } else { "remove" };
        tracing::warn!(pod = name, error, "cannot {verb} the mirror of a static pod");
        if let (Step::Create(pod), Some(node)) = (step, self.node.list().first()) {
            let about = node::reference(&node.meta().name);
            let message = format!("mirror of static pod {}/{name}: {error}", pod.meta().namespace);
            self.recorder.tell(about, Severity::Warning, "FailedMirrorPod", message);
        }
        told.insert(name.to_owned(), error);
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::meta::v1::Time;

    use super::*;

    fn static_pod(name: &str, uid: &str) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.meta_mut().name = name.to_owned();
        pod.meta_mut().namespace = "default".to_owned();
        pod.meta_mut().uid = uid.to_owned();
        Arc::new(pod)
    }

    fn mirror(pod: &Pod) -> Pod {
        let mut node = Node::default();
        node.meta_mut().name = "n1".to_owned();
        node.meta_mut().uid = "node-uid".to_owned();
        let mut mirror = mirror_of(pod, &node);
        mirror.meta_mut().uid = format!("api-{}", pod.meta().uid);
        mirror
    }

    #[test]
    fn each_static_pod_has_one_mirror_and_nothing_else_has() {
        let (a, b) = (static_pod("a", "1"), static_pod("b", "2"));
        let wanted: Wanted = [&a, &b].map(|pod| (pod.meta().uid.clone(), Arc::clone(pod))).into();
        assert_eq!(plan(&wanted, &[]), [Step::Create(Arc::clone(&a)), Step::Create(Arc::clone(&b))]);
        let both = [Arc::new(mirror(&a)), Arc::new(mirror(&b)), static_pod("from-the-api", "3")];
        assert_eq!(plan(&wanted, &both), []);

        let removed = |uid: &str, name: &str| Step::Remove {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
        };
        let orphan = Arc::new(mirror(&static_pod("gone", "9")));
        assert_eq!(plan(&wanted, &[&both[..], &[orphan]].concat()), [removed("api-9", "gone")]);
        // The file changed: another pod of the same name.
        let stale = Arc::new(mirror(&static_pod("a", "0")));
        let steps = plan(&wanted, &[stale, both[1].clone()]);
        assert_eq!(steps, [removed("api-0", "a"), Step::Create(Arc::clone(&a))]);
        let mut deleted = mirror(&a);
        deleted.meta_mut().deletion_timestamp = Some(Time::from_unix(1));
        let steps = plan(&wanted, &[Arc::new(deleted), both[1].clone()]);
        assert_eq!(steps, [removed("api-1", "a"), Step::Create(a)]);
    }

    #[test]
    fn a_mirror_belongs_to_its_node_and_names_its_static_pod() {
        let mirror = mirror(&static_pod("a", "0123"));
        assert!(is_mirror(&mirror));
        assert_eq!(local_uid(&mirror), "0123");
        let [owner] = &mirror.meta().owner_references[..] else { panic!("one owner") };
        assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("Node", "node-uid"));
    }
}
