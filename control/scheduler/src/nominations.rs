//! Nodes that are held for pods: room was made there (pods were preempted), and the pod waits for it.
//!
//! A nomination stands in the pod's `status.nominatedNodeName`, so that it outlives this process. Here it counts from
//! the moment it is decided, until the API server shows something else.
//!
//! Pure. Invariant: `by_node` holds exactly the nominations of `by_pod`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::pod::PodInfo;

type Uid = Arc<str>;

#[derive(Debug, Default)]
pub struct Nominations {
    by_pod: HashMap<Uid, Nomination>,
    by_node: HashMap<Arc<str>, Vec<Arc<PodInfo>>>,
    version: u64,
}

#[derive(Debug)]
struct Nomination {
    node: Arc<str>,
    /// What the API server said last; empty where it does not know yet.
    told: String,
}

impl Nominations {
    pub fn is_empty(&self) -> bool {
        self.by_pod.is_empty()
    }

    /// Grows with each change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The node that is held for a pod.
    pub fn node_of(&self, uid: &str) -> Option<&Arc<str>> {
        self.by_pod.get(uid).map(|nomination| &nomination.node)
    }

    /// The pods that a node is held for, in the order of their nomination.
    pub fn on(&self, node: &str) -> &[Arc<PodInfo>] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }

    /// Holds a node for a pod from now on.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: Arc<str>) {
        let told = self.remove(&pod.uid).map(|old| old.told).unwrap_or_default();
        self.insert(pod, Nomination { node, told });
    }

    /// Takes over what a pod's status says, if that is news. What was said before a decision of ours says nothing
    /// against it. True: a node that was held for the pod is so no longer.
    pub fn observe(&mut self, pod: &Arc<PodInfo>, told: &str) -> bool {
        let Some(known) = self.by_pod.get(&pod.uid) else {
            if !told.is_empty() {
                self.insert(pod.clone(), Nomination { node: told.into(), told: told.to_owned() });
            }
            return false;
        };
        let node = match known.told == told {
            true => known.node.clone(),
            false => told.into(),
        };
        let same = self.on(&node).iter().any(|held| held == pod);
        if same && known.told == told {
            return false;
        }
        let before = self.remove(&pod.uid);
        let freed = before.is_some_and(|before| before.node != node);
        if !node.is_empty() {
            self.insert(pod.clone(), Nomination { node, told: told.to_owned() });
        }
        freed
    }

    /// True: there was one.
    pub fn withdraw(&mut self, uid: &str) -> bool {
        self.remove(uid).is_some()
    }

    fn insert(&mut self, pod: Arc<PodInfo>, nomination: Nomination) {
        self.version += 1;
        self.by_node.entry(nomination.node.clone()).or_default().push(pod.clone());
        self.by_pod.insert(pod.uid.clone(), nomination);
    }

    fn remove(&mut self, uid: &str) -> Option<Nomination> {
        let nomination = self.by_pod.remove(uid)?;
        self.version += 1;
        if let Some(pods) = self.by_node.get_mut(&nomination.node) {
            pods.retain(|pod| *pod.uid != *uid);
            if pods.is_empty() {
                self.by_node.remove(&nomination.node);
            }
        }
        Some(nomination)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{asking, pod, shape};

    fn on(nominations: &Nominations, node: &str) -> Vec<String> {
        nominations.on(node).iter().map(|pod| pod.uid.to_string()).collect()
    }

    #[test]
    fn a_decision_stands_until_the_server_says_something_new() {
        let (mut nominations, a) = (Nominations::default(), pod("a", shape()));
        assert!(!nominations.observe(&a, ""));
        assert!(nominations.is_empty());
        nominations.nominate(a.clone(), "n1".into());
        // An update from before the decision was written.
        assert!(!nominations.observe(&a, ""));
        assert_eq!(on(&nominations, "n1"), ["a"]);
        assert!(!nominations.observe(&a, "n1"));
        assert_eq!(on(&nominations, "n1"), ["a"]);
        assert!(nominations.observe(&a, "n2"));
        assert_eq!((on(&nominations, "n1"), on(&nominations, "n2")), (vec![], vec!["a".to_owned()]));
        assert!(nominations.observe(&a, ""));
        assert!(nominations.is_empty() && nominations.on("n2").is_empty());
    }

    #[test]
    fn a_restart_finds_them_in_the_pods() {
        let mut nominations = Nominations::default();
        nominations.observe(&pod("a", shape()), "n1");
        nominations.observe(&pod("b", shape()), "n1");
        assert_eq!(on(&nominations, "n1"), ["a", "b"]);
        let before = nominations.version();
        nominations.observe(&pod("a", shape()), "n1");
        assert_eq!(nominations.version(), before);
        // A pod that asks for something else by now.
        nominations.observe(&pod("a", asking(5, 5)), "n1");
        assert_eq!(nominations.on("n1")[1].shape.requests.milli_cpu, 5);
        assert!(nominations.withdraw("a") && !nominations.withdraw("a"));
        assert_eq!(on(&nominations, "n1"), ["b"]);
    }
}
