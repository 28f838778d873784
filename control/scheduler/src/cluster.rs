//! The scheduler's picture of the cluster: nodes, and the pods on them, bound or assumed.
//!
//! It is updated in place, change by change; there is no copy per decision. Each change to a node is numbered and
//! logged, so that an evaluation can catch up by looking at just the nodes that changed since it last looked.
//! Changes that touch more than one node's load (a node's labels, a namespace's labels, a new kind of affinity
//! term) raise `layout` instead: evaluations are then made anew.
//!
//! Invariant: a pod is counted on one node at most, assumed or bound. Nodes that are held for pods
//! ([`Nominations`]) are counted nowhere: who is placed looks at them.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::counters::{Carried, CounterId, Counters, Namespaces, Predicate};
use crate::node::{Candidate, Node, NodeSpec};
use crate::nominations::Nominations;
use crate::pod::PodInfo;
use crate::selector::Labels;

/// Where a node is kept; reused once the node is gone.
pub type Slot = usize;

/// How far back an evaluation may lie and still catch up.
const LOGGED_CHANGES: usize = 32_768;

#[derive(Debug, Default)]
pub struct Cluster {
    nodes: Vec<Option<Node>>,
    by_name: HashMap<Arc<str>, Slot>,
    free: Vec<Slot>,
    candidates: usize,
    pods: HashMap<Arc<str>, Placed>,
    /// Of all pods on nodes, how many there are of each priority.
    priorities: BTreeMap<i32, usize>,
    /// Pods on nodes that have to make room for others.
    doomed: HashSet<Arc<str>>,
    pub nominations: Nominations,
    images: HashMap<String, usize>,
    pub counters: Counters,
    pub namespaces: Namespaces,
    changes: VecDeque<Slot>,
    change_count: u64,
    layout: u64,
}

#[derive(Clone, Copy, Debug)]
struct Placed {
    slot: Slot,
    assumed: bool,
    /// When it was started, in seconds since 1970; `None`: it was not yet.
    started: Option<i64>,
}

/// What a change to a node may have made possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeChange {
    Nothing,
    Added,
    Updated {
        labels: bool,
        taints: bool,
        /// A taint or the cordon went.
        untainted: bool,
        /// There is more of something.
        grown: bool,
    },
}

impl Cluster {
    pub fn node(&self, slot: Slot) -> Option<&Node> {
        self.nodes.get(slot)?.as_ref()
    }

    pub fn candidate(&self, slot: Slot) -> Option<Candidate<'_>> {
        self.node(slot)?.candidate()
    }

    /// Nodes that exist as objects, with their slots.
    pub fn candidates(&self) -> impl Iterator<Item = (Slot, Candidate<'_>)> {
        self.nodes.iter().enumerate().filter_map(|(slot, node)| Some((slot, node.as_ref()?.candidate()?)))
    }

    pub fn candidate_count(&self) -> usize {
        self.candidates
    }

    /// One more than the highest slot in use.
    pub fn slots(&self) -> usize {
        self.nodes.len()
    }

    pub fn slot(&self, node: &str) -> Option<Slot> {
        self.by_name.get(node).copied()
    }

    /// A pod on a node, bound or assumed.
    pub fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.node_of(uid)?.pods.get(uid)
    }

    /// The node that a pod is on, bound or assumed.
    pub fn node_of(&self, uid: &str) -> Option<&Node> {
        self.node(self.pods.get(uid)?.slot)
    }

    pub fn is_assumed(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|placed| placed.assumed)
    }

    /// When a pod was started, in seconds since 1970.
    pub fn started(&self, uid: &str) -> Option<i64> {
        self.pods.get(uid)?.started
    }

    pub fn set_started(&mut self, uid: &str, started: Option<i64>) {
        if let Some(placed) = self.pods.get_mut(uid) {
            placed.started = started;
        }
    }

    /// A pod on a node has to make room.
    pub fn doom(&mut self, uid: &Arc<str>) {
        if self.pods.contains_key(uid) {
            self.doomed.insert(uid.clone());
        }
    }

    /// It need not after all.
    pub fn spare(&mut self, uid: &str) {
        self.doomed.remove(uid);
    }

    /// Whether a pod below this priority has to leave the node, and has not done so yet.
    pub fn makes_room(&self, slot: Slot, priority: i32) -> bool {
        let lower = |pod: &Arc<PodInfo>| pod.priority < priority && self.doomed.contains(&pod.uid);
        !self.doomed.is_empty() && self.node(slot).is_some_and(|node| node.pods.values().any(lower))
    }

    /// The lowest priority of a pod that is on a node.
    pub fn lowest_priority(&self) -> Option<i32> {
        self.priorities.keys().next().copied()
    }

    /// Pods that the node is held for and that `pod` must leave room for: those of the same priority and above.
    pub fn expected(&self, slot: Slot, pod: &PodInfo) -> Vec<Arc<PodInfo>> {
        let Some(node) = self.node(slot).filter(|_| !self.nominations.is_empty()) else { return Vec::new() };
        let held = self.nominations.on(&node.name).iter();
        // One that has got a node is counted there.
        let waits = |other: &&Arc<PodInfo>| {
            other.priority >= pod.priority && other.uid != pod.uid && !self.pods.contains_key(&other.uid)
        };
        held.filter(waits).cloned().collect()
    }

    pub fn pods(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pods.keys()
    }

    pub fn node_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.nodes.iter().flatten().filter(|node| node.spec.is_some()).map(|node| &node.name)
    }

    /// How many nodes have the image.
    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.images.get(image).copied().unwrap_or(0)
    }

    pub fn layout(&self) -> u64 {
        self.layout
    }

    pub fn change_count(&self) -> u64 {
        self.change_count
    }

    /// Slots changed since change number `seen`, each once; `None`: too long ago.
    pub fn changed_since(&self, seen: u64) -> Option<impl Iterator<Item = Slot>> {
        let missed =
            usize::try_from(self.change_count - seen).ok().filter(|missed| *missed <= self.changes.len())?;
        let first = self.change_count - missed as u64;
        let recent = self.changes.range(self.changes.len() - missed..);
        // A slot that changed again later is taken at its last change.
        Some(recent.enumerate().filter_map(move |(index, &slot)| {
            let last = self.node(slot).map_or(0, |node| node.generation);
            (last <= first + index as u64 + 1).then_some(slot)
        }))
    }

    pub fn set_node(&mut self, name: &str, spec: NodeSpec) -> NodeChange {
        let slot = self.ensure_slot(name);
        let Some(node) = &mut self.nodes[slot] else { return NodeChange::Nothing };
        let change = match &node.spec {
            None => NodeChange::Added,
            Some(old) if *old == spec => return NodeChange::Nothing,
            Some(old) => NodeChange::Updated {
                labels: old.labels != spec.labels,
                taints: old.taints != spec.taints || old.unschedulable != spec.unschedulable,
                untainted: old.taints.iter().any(|taint| !spec.taints.contains(taint))
                    || (old.unschedulable && !spec.unschedulable),
                grown: spec.allocatable.exceeds(&old.allocatable) || spec.pods_allowed > old.pods_allowed,
            },
        };
        let images = spec.images.clone();
        let old = node.spec.replace(spec);
        self.candidates += usize::from(old.is_none());
        for (image, _) in images {
            *self.images.entry(image).or_default() += 1;
        }
        self.forget_images(old);
        self.layout += 1;
        change
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(slot) = self.slot(name) else { return };
        let Some(node) = &mut self.nodes[slot] else { return };
        let Some(old) = node.spec.take() else { return };
        self.candidates -= 1;
        self.forget_images(Some(old));
        self.layout += 1;
        self.free_if_empty(slot);
    }

    /// Counts a pod on the node it is bound to. True: it is news (not merely what was assumed or known).
    pub fn set_pod(&mut self, pod: Arc<PodInfo>, node: &str) -> bool {
        let slot = self.ensure_slot(node);
        if let Some(placed) = self.pods.get_mut(&pod.uid)
            && placed.slot == slot
            && self.nodes[slot].as_ref().and_then(|node| node.pods.get(&pod.uid)) == Some(&pod)
        {
            placed.assumed = false;
            return false;
        }
        let (started, doomed) = (self.started(&pod.uid), self.doomed.contains(&pod.uid));
        let uid = pod.uid.clone();
        self.remove_pod(&uid);
        // Removing may have freed the node's slot.
        let slot = self.ensure_slot(node);
        self.place(pod, slot, false);
        self.set_started(&uid, started);
        if doomed {
            self.doom(&uid);
        }
        true
    }

    /// Counts a pod on a node before the API server has confirmed the binding.
    pub fn assume(&mut self, pod: Arc<PodInfo>, slot: Slot) {
        self.remove_pod(&pod.uid.clone());
        self.place(pod, slot, true);
    }

    /// Takes a pod off its node. True: it was on one.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(placed) = self.pods.remove(uid) else { return false };
        let Some(node) = &mut self.nodes[placed.slot] else { return false };
        let Some(pod) = node.pods.get(uid).cloned() else { return false };
        node.remove(uid);
        self.doomed.remove(uid);
        if let Some(count) = self.priorities.get_mut(&pod.priority) {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(&pod.priority);
            }
        }
        self.counters.count(&pod.shape, placed.slot, false, &self.namespaces);
        for carried in Carried::of(&pod.shape) {
            if let Some(id) = self.counters.find(&Predicate::Carries(carried)) {
                self.release(id);
            }
        }
        self.log(placed.slot);
        self.free_if_empty(placed.slot);
        true
    }

    /// Takes an assumed pod off its node; a bound one stays. True: it was assumed.
    pub fn forget(&mut self, uid: &str) -> bool {
        self.is_assumed(uid) && self.remove_pod(uid)
    }

    /// Sets or (with `None`) removes a namespace's labels. True: they changed.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) -> bool {
        let old = match labels.clone() {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
        if old == labels {
            return false;
        }
        self.counters.reset();
        for (slot, node) in self.nodes.iter().enumerate() {
            for pod in node.iter().flat_map(|node| node.pods.values()) {
                self.counters.count(&pod.shape, slot, true, &self.namespaces);
            }
        }
        self.layout += 1;
        true
    }

    /// A counter of pods per node, counted already. Give it back with [`Cluster::release`].
    pub fn acquire(&mut self, predicate: Predicate) -> CounterId {
        let (id, new) = self.counters.acquire(predicate);
        if new {
            for (slot, node) in self.nodes.iter().enumerate() {
                for pod in node.iter().flat_map(|node| node.pods.values()) {
                    self.counters.count_for(id, &pod.shape, slot, &self.namespaces);
                }
            }
        }
        id
    }

    pub fn release(&mut self, counter: CounterId) {
        self.counters.release(counter);
    }

    fn place(&mut self, pod: Arc<PodInfo>, slot: Slot, assumed: bool) {
        for carried in Carried::of(&pod.shape) {
            let (_, new) = self.counters.acquire(Predicate::Carries(carried));
            // Pods evaluated before did not know of this term.
            self.layout += u64::from(new);
        }
        self.counters.count(&pod.shape, slot, true, &self.namespaces);
        *self.priorities.entry(pod.priority).or_default() += 1;
        self.pods.insert(pod.uid.clone(), Placed { slot, assumed, started: None });
        if let Some(node) = &mut self.nodes[slot] {
            node.add(pod);
        }
        self.log(slot);
    }

    fn ensure_slot(&mut self, name: &str) -> Slot {
        if let Some(slot) = self.slot(name) {
            return slot;
        }
        let name: Arc<str> = name.into();
        let node = Some(Node { name: name.clone(), ..Node::default() });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.nodes[slot] = node;
                slot
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        self.by_name.insert(name, slot);
        slot
    }

    /// A node without object and without pods is nothing.
    fn free_if_empty(&mut self, slot: Slot) {
        if let Some(node) = &self.nodes[slot]
            && node.spec.is_none()
            && node.pods.is_empty()
        {
            self.by_name.remove(&node.name);
            self.nodes[slot] = None;
            self.free.push(slot);
        }
    }

    fn forget_images(&mut self, spec: Option<NodeSpec>) {
        for (image, _) in spec.into_iter().flat_map(|spec| spec.images) {
            if let Some(count) = self.images.get_mut(&image) {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(&image);
                }
            }
        }
    }

    fn log(&mut self, slot: Slot) {
        if self.changes.len() == LOGGED_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(slot);
        self.change_count += 1;
        if let Some(node) = &mut self.nodes[slot] {
            node.generation = self.change_count;
        }
    }
}
