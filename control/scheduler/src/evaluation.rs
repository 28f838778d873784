//! One shape held against all nodes, kept up to date instead of repeated.
//!
//! Nodes that pass the filters lie in heaps by score, one heap per combination of topology domains that the shape
//! cares about (a single one for most). Placing a pod changes one node; catching up re-scores just that node.
//! Entries that a newer score has replaced stay in the heap, marked by an older stamp, until they surface.
//!
//! Scores that have to be normalised over all nodes are so once, over the nodes that the Node object alone does
//! not rule out; Kubernetes normalises over the nodes that fit at that moment.
//!
//! Invariants: a node is offered only when every filter passed after its last change; ties go to the node with
//! fewer pods, then to the one known longer, so equal inputs give equal placements.

mod trial;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use crate::cluster::{Cluster, Slot};
use crate::failure::Failure;
use crate::framework::{Profile, Reads, Refusal, Rule};
use crate::node::Candidate;
use crate::pod::{PodInfo, Shape};
use crate::tally::Domain;

#[derive(Debug)]
pub struct Evaluation {
    shape: Arc<Shape>,
    /// Change number and layout that all below reflects.
    seen: u64,
    layout: u64,
    rules: Vec<BoundRule>,
    /// By slot.
    standing: Vec<Standing>,
    groups: Vec<Group>,
    failure: Option<(Moment, Arc<Failure>)>,
    /// Why no pod of this shape can be made room for by others' leaving.
    fruitless: Option<(Moment, Arc<Failure>)>,
}

/// What an answer depends on beside the nodes and the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    seen: u64,
    nominations: u64,
    priority: i32,
}

/// A node taken out of the running for a while.
#[derive(Debug)]
pub struct Aside {
    group: usize,
    entry: Entry,
}

#[derive(Debug)]
struct BoundRule {
    /// Number of the plugin in the profile, as [`Plugins`](crate::framework::Plugins) counts.
    plugin: usize,
    weight: i64,
    /// Where the rule's domains begin in a group's domains.
    first: usize,
    rule: Box<dyn Rule>,
}

impl BoundRule {
    fn domains<'a>(&self, group: &'a Group) -> &'a [Domain] {
        &group.domains[self.first..self.first + self.rule.tallies().len()]
    }
}

#[derive(Clone, Debug, Default)]
struct Standing {
    /// Score by the Node object alone; `None`: it rules the node out.
    base: Option<i64>,
    group: usize,
    stamp: u32,
}

#[derive(Debug, Default)]
struct Group {
    domains: Vec<Domain>,
    members: usize,
    heap: BinaryHeap<Entry>,
}

/// Ordered by score, then fewer pods, then lower slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    score: i64,
    pods: Reverse<usize>,
    slot: Reverse<Slot>,
    stamp: u32,
}

impl Evaluation {
    pub fn new(shape: Arc<Shape>, profile: &Profile, cluster: &mut Cluster) -> Self {
        let mut rules = Vec::new();
        let mut first = 0;
        for (index, (weight, plugin)) in profile.topologies.iter().enumerate() {
            if let Some(rule) = plugin.rule(&shape, cluster) {
                let tallies = rule.tallies().len();
                rules.push(BoundRule { plugin: profile.filters.len() + index, weight: *weight, first, rule });
                first += tallies;
            }
        }
        let mut evaluation = Self {
            shape,
            seen: cluster.change_count(),
            layout: cluster.layout(),
            rules,
            standing: vec![Standing::default(); cluster.slots()],
            groups: Vec::new(),
            failure: None,
            fruitless: None,
        };
        evaluation.judge_nodes(profile, cluster);
        evaluation.group_nodes(cluster);
        for slot in 0..evaluation.standing.len() {
            evaluation.rate(slot, profile, cluster);
        }
        evaluation
    }

    /// Gives the counters back. An evaluation must not be dropped without it, or its counters count on.
    pub fn release(self, cluster: &mut Cluster) {
        for bound in &self.rules {
            for tally in bound.rule.tallies() {
                cluster.release(tally.counter());
            }
        }
    }

    /// Brings the evaluation up to date. False: too much has changed, make a new one.
    pub fn catch_up(&mut self, profile: &Profile, cluster: &Cluster) -> bool {
        if self.layout != cluster.layout() {
            return false;
        }
        if self.seen == cluster.change_count() {
            return true;
        }
        let Some(changed) = cluster.changed_since(self.seen) else { return false };
        for slot in changed {
            for bound in &mut self.rules {
                for tally in bound.rule.tallies_mut() {
                    tally.refresh(slot, cluster);
                }
            }
            self.rate(slot, profile, cluster);
        }
        self.seen = cluster.change_count();
        true
    }

    /// The best node for one more pod of this shape.
    pub fn best(&mut self) -> Option<Slot> {
        for group in &mut self.groups {
            group.settle(&self.standing);
        }
        if self.rules.is_empty() {
            return Some(self.groups.first()?.heap.peek()?.slot.0);
        }
        self.prepare();
        let mut open: Vec<(i64, usize, Entry)> = Vec::new();
        for (index, group) in self.groups.iter().enumerate() {
            let Some(&top) = group.heap.peek() else { continue };
            if self.rules.iter().all(|bound| bound.rule.filter(bound.domains(group)).is_ok()) {
                open.push((top.score, index, top));
            }
        }
        for bound in self.rules.iter().filter(|bound| bound.rule.scores()) {
            let score =
                |(_, index, _): &(i64, usize, Entry)| bound.rule.score(bound.domains(&self.groups[*index]));
            let mut scores: Vec<i64> = open.iter().map(score).collect();
            bound.rule.normalize(&mut scores);
            for ((total, _, _), score) in open.iter_mut().zip(scores) {
                *total += bound.weight * score;
            }
        }
        let best = open.iter().max_by_key(|(total, _, top)| (*total, top.pods, top.slot));
        best.map(|(_, _, top)| top.slot.0)
    }

    /// Takes the node that [`Self::best`] has just named out of the running, until it is put back.
    pub fn set_aside(&mut self, slot: Slot) -> Option<Aside> {
        let group = self.standing.get(slot)?.group;
        let entry = self.groups[group].heap.pop()?;
        Some(Aside { group, entry })
    }

    pub fn put_back(&mut self, aside: Vec<Aside>) {
        for Aside { group, entry } in aside {
            self.groups[group].heap.push(entry);
        }
    }

    /// Why no node will do: per node, the first plugin that turns the pod away and its reasons.
    pub fn failure(&mut self, pod: &PodInfo, profile: &Profile, cluster: &Cluster) -> Arc<Failure> {
        let moment = self.moment(pod, cluster);
        if let Some((then, failure)) = &self.failure
            && Some(*then) == moment
        {
            return failure.clone();
        }
        let mut failure = Failure::new(cluster.candidate_count());
        for (slot, node) in cluster.candidates() {
            let expected = cluster.expected(slot, pod);
            let verdict = match expected.is_empty() {
                true => self.verdict(slot, node, profile),
                false => match self.trial(slot, profile, cluster) {
                    Some(mut trial) => trial.verdict(&expected),
                    None => Ok(()),
                },
            };
            if let Err((plugin, refusal)) = verdict {
                failure.turned_away(slot, plugin, refusal);
            }
        }
        let failure = Arc::new(failure);
        self.failure = moment.map(|moment| (moment, failure.clone()));
        failure
    }

    /// The answer to a pod of this priority that nothing can be done, if it was found out already.
    pub fn fruitless(&self, pod: &PodInfo, cluster: &Cluster) -> Option<Arc<Failure>> {
        let (then, failure) = self.fruitless.as_ref()?;
        (Some(*then) == self.moment(pod, cluster)).then(|| failure.clone())
    }

    pub fn set_fruitless(&mut self, pod: &PodInfo, cluster: &Cluster, failure: &Arc<Failure>) {
        self.fruitless = self.moment(pod, cluster).map(|moment| (moment, failure.clone()));
    }

    /// `None`: a node is held for this very pod, and what holds for it does not for others like it.
    fn moment(&self, pod: &PodInfo, cluster: &Cluster) -> Option<Moment> {
        let nominations = cluster.nominations.version();
        let alone = cluster.nominations.node_of(&pod.uid).is_some();
        (!alone).then_some(Moment { seen: self.seen, nominations, priority: pod.priority })
    }

    /// The first plugin that turns the pod away from a node as it is. Rules must be prepared.
    fn verdict(&self, slot: Slot, node: Candidate<'_>, profile: &Profile) -> Result<(), (usize, Refusal)> {
        for (index, filter) in profile.filters.iter().enumerate() {
            filter.filter(&self.shape, node).map_err(|refusal| (index, refusal))?;
        }
        let group = &self.groups[self.standing[slot].group];
        for bound in &self.rules {
            bound.rule.filter(bound.domains(group)).map_err(|refusal| (bound.plugin, refusal))?;
        }
        Ok(())
    }

    fn prepare(&mut self) {
        for bound in &mut self.rules {
            bound.rule.prepare();
        }
    }

    /// Filters and scores that read the Node object alone.
    fn judge_nodes(&mut self, profile: &Profile, cluster: &Cluster) {
        let filters = || profile.filters.iter().filter(|filter| filter.reads() == Reads::Node);
        let fits = |node| filters().all(|filter| filter.filter(&self.shape, node).is_ok());
        let fitting: Vec<(Slot, Candidate<'_>)> =
            cluster.candidates().filter(|(_, node)| fits(*node)).collect();
        let mut bases = vec![0; fitting.len()];
        for (weight, plugin) in profile.scores.iter().filter(|(_, plugin)| plugin.reads() == Reads::Node) {
            let score = |(_, node): &(Slot, Candidate<'_>)| plugin.score(&self.shape, *node, cluster);
            let mut scores: Vec<i64> = fitting.iter().map(score).collect();
            plugin.normalize(&mut scores);
            for (base, score) in bases.iter_mut().zip(scores) {
                *base += weight * score;
            }
        }
        for ((slot, _), base) in fitting.iter().zip(bases) {
            self.standing[*slot].base = Some(base);
        }
    }

    /// Nodes whose domains agree under all tallies form a group.
    fn group_nodes(&mut self, cluster: &Cluster) {
        let mut known: HashMap<Vec<Domain>, usize> = HashMap::new();
        for (slot, _) in cluster.candidates() {
            let tallies = self.rules.iter().flat_map(|bound| bound.rule.tallies());
            let domains: Vec<Domain> = tallies.map(|tally| tally.domain_of(slot)).collect();
            let group = *known.entry(domains).or_insert_with_key(|domains| {
                self.groups.push(Group { domains: domains.clone(), ..Group::default() });
                self.groups.len() - 1
            });
            self.standing[slot].group = group;
            self.groups[group].members += 1;
        }
    }

    /// Puts a node into its heap at its present score, if it fits.
    fn rate(&mut self, slot: Slot, profile: &Profile, cluster: &Cluster) {
        let Some(standing) = self.standing.get_mut(slot) else { return };
        let (Some(base), Some(node)) = (standing.base, cluster.candidate(slot)) else { return };
        standing.stamp = standing.stamp.wrapping_add(1);
        let mut filters = profile.filters.iter().filter(|filter| filter.reads() == Reads::Load);
        if !filters.all(|filter| filter.filter(&self.shape, node).is_ok()) {
            return;
        }
        let scores = profile.scores.iter().filter(|(_, plugin)| plugin.reads() == Reads::Load);
        let load: i64 =
            scores.map(|(weight, plugin)| weight * plugin.score(&self.shape, node, cluster)).sum();
        let pods = Reverse(node.load.pods.len());
        let entry = Entry { score: base + load, pods, slot: Reverse(slot), stamp: standing.stamp };
        let group = standing.group;
        self.groups[group].heap.push(entry);
        self.groups[group].prune(&self.standing);
    }
}

impl Entry {
    fn is_current(&self, standing: &[Standing]) -> bool {
        standing[self.slot.0].stamp == self.stamp
    }
}

impl Group {
    /// Drops replaced entries from the top.
    fn settle(&mut self, standing: &[Standing]) {
        while self.heap.peek().is_some_and(|entry| !entry.is_current(standing)) {
            self.heap.pop();
        }
    }

    /// Drops replaced entries throughout once they are the most.
    fn prune(&mut self, standing: &[Standing]) {
        if self.heap.len() > 2 * self.members + 16 {
            self.heap.retain(|entry| entry.is_current(standing));
        }
    }
}
