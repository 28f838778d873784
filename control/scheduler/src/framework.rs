//! What a plugin is.
//!
//! Plugins carry Kubernetes' names and decide as Kubernetes' do. They are pure: they read a pod's shape and the
//! cluster, and answer. What a plugin reads decides when it is asked again:
//!
//! - [`Reads::Node`]: only the Node object. Asked once per shape and node, until a node's object changes.
//! - [`Reads::Load`]: also the pods on that one node. Asked again for a node whenever its load changes.
//! - [`Topology`]: pods in a whole topology domain. It names what to count per node; the evaluation keeps the sums
//!   per domain and asks when it picks a node.

use std::borrow::Cow;
use std::fmt::{self, Debug, Display};
use std::ops::{BitOr, BitOrAssign};

use crate::cluster::Cluster;
use crate::counters::Namespaces;
use crate::node::Candidate;
use crate::pod::Shape;
use crate::settings;
use crate::tally::{Domain, Tally};

/// The best score a plugin gives; Kubernetes' 100, in finer steps, so that small pods make a difference too.
pub const MAX_SCORE: i64 = 1_000_000;

/// Why a node will not do, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reason(Cow<'static, str>);

impl Reason {
    pub const fn fixed(words: &'static str) -> Self {
        Self(Cow::Borrowed(words))
    }

    pub fn new(words: String) -> Self {
        Self(Cow::Owned(words))
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A node turned down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reasons: Vec<Reason>,
    /// It is for the pods that are on the node: with fewer of them it might do.
    pub crowded: bool,
}

impl Refusal {
    /// Whatever pods are on the node.
    pub fn lasting(reason: Reason) -> Self {
        Self { reasons: vec![reason], crowded: false }
    }

    /// Because of pods that are on the node.
    pub fn crowded(reason: Reason) -> Self {
        Self { reasons: vec![reason], crowded: true }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    Node,
    Load,
}

/// Set of changes in the cluster that may let a waiting pod fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(u16);

impl Events {
    pub const NODE_ADDED: Self = Self(1);
    pub const NODE_LABELS: Self = Self(1 << 1);
    pub const NODE_TAINTS: Self = Self(1 << 2);
    /// A node offers more than it did.
    pub const NODE_ALLOCATABLE: Self = Self(1 << 3);
    /// A pod left its node, or asks for less.
    pub const POD_GONE: Self = Self(1 << 4);
    /// A pod came to a node.
    pub const POD_CAME: Self = Self(1 << 5);
    pub const NAMESPACE_LABELS: Self = Self(1 << 6);
    /// A taint went, or a cordon.
    pub const NODE_UNTAINTED: Self = Self(1 << 7);
    /// A pod on a node has other labels, or is on its way out.
    pub const POD_CHANGED: Self = Self(1 << 8);
    pub const NODE_GONE: Self = Self(1 << 9);

    /// All of them: for what is not known better.
    pub const ALL: Self = Self((1 << 10) - 1);

    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Events {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

impl BitOrAssign for Events {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.with(other);
    }
}

pub trait Filter: Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn reads(&self) -> Reads;
    /// Changes after which a pod that this filter turned away is worth another look.
    fn helped_by(&self) -> Events;
    fn filter(&self, pod: &Shape, node: Candidate<'_>) -> Result<(), Refusal>;
}

pub trait Score: Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn reads(&self) -> Reads;
    /// 0 to [`MAX_SCORE`], unless `normalize` brings it there. A score that reads load must not need normalising:
    /// it is renewed for one node at a time.
    fn score(&self, pod: &Shape, node: Candidate<'_>, cluster: &Cluster) -> i64;
    fn normalize(&self, _scores: &mut [i64]) {}
}

pub trait Topology: Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn helped_by(&self) -> Events;
    /// The rule for pods of this shape; `None` where the shape asks for nothing of this plugin.
    fn rule(&self, pod: &Shape, cluster: &mut Cluster) -> Option<Box<dyn Rule>>;
    /// What a pod that is only expected on a node, and so in no tally, holds against this one there.
    fn opposed_by(
        &self,
        _expected: &Shape,
        _pod: &Shape,
        _node: Candidate<'_>,
        _: &Namespaces,
    ) -> Option<Refusal> {
        None
    }
}

/// A topology plugin applied to one shape.
pub trait Rule: Debug + Send {
    /// The counts that the rule reads. The evaluation keeps them up to date.
    fn tallies(&self) -> &[Tally];
    fn tallies_mut(&mut self) -> &mut [Tally];
    /// Called before nodes are checked: time to work out what holds for all of them, such as the global minimum.
    fn prepare(&mut self) {}
    /// Whether a node in these domains (one per tally) will do.
    fn filter(&self, domains: &[Domain]) -> Result<(), Refusal>;
    fn scores(&self) -> bool;
    fn score(&self, domains: &[Domain]) -> i64;
    fn normalize(&self, scores: &mut [i64]);
}

/// The plugins in use, with the weights of those that score, and how pods are tried again.
#[derive(Debug)]
pub struct Profile {
    pub filters: Vec<Box<dyn Filter>>,
    pub scores: Vec<(i64, Box<dyn Score>)>,
    pub topologies: Vec<(i64, Box<dyn Topology>)>,
    pub preemption: settings::Preemption,
    pub backoff: settings::Backoff,
}

/// Which plugins turned a pod away: one bit per filter, then per topology plugin, in the profile's order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plugins(u64);

impl Plugins {
    pub fn insert(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    pub fn contains(self, index: usize) -> bool {
        self.0 & (1 << index) != 0
    }
}

impl Profile {
    /// Changes that may help a pod that these plugins turned away.
    pub fn helped_by(&self, plugins: Plugins) -> Events {
        let filters = self.filters.iter().map(|plugin| plugin.helped_by());
        let topologies = self.topologies.iter().map(|(_, plugin)| plugin.helped_by());
        let helpful = filters.chain(topologies).enumerate().filter(|(index, _)| plugins.contains(*index));
        helpful.fold(Events::default(), |all, (_, events)| all | events)
    }
}

/// Stretches raw scores so that the highest becomes [`MAX_SCORE`]; all stay as they are where none is positive.
pub fn stretch(scores: &mut [i64]) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    if highest > 0 {
        for score in scores {
            *score = scaled(*score, highest);
        }
    }
}

/// `part` of `whole`, as a score.
pub fn scaled(part: i64, whole: i64) -> i64 {
    let score = i128::from(part) * i128::from(MAX_SCORE) / i128::from(whole.max(1));
    i64::try_from(score).unwrap_or(if score < 0 { i64::MIN } else { i64::MAX })
}
