//! What the scheduler knows of a pod, reduced to what placing it needs.
//!
//! [`Shape`] is everything a filter or a score reads. Pods made from one template have equal shapes, share one
//! `Arc`, and so share one evaluation of the cluster. [`PodInfo`] adds the identity.

use std::sync::Arc;

use crate::resources::Resources;
use crate::selector::{Labels, Requirement, Selector};

/// A pod as the queue and the cluster state hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInfo {
    pub uid: Arc<str>,
    pub name: String,
    pub priority: i32,
    /// Whether pods of lower priority may be made to leave for it.
    pub preempts: bool,
    pub shape: Arc<Shape>,
}

impl PodInfo {
    pub fn namespace(&self) -> &str {
        &self.shape.namespace
    }
}

/// All that decides where a pod may go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape {
    pub namespace: String,
    pub labels: Labels,
    /// The only node that will do, where the pod names one.
    pub node_name: Option<String>,
    /// What the pod takes from its node.
    pub requests: Resources,
    /// The same for scoring: containers that ask for nothing are taken to use a little.
    pub scoring_requests: Resources,
    pub host_ports: Vec<HostPort>,
    pub tolerations: Vec<Toleration>,
    pub node_selector: Vec<Requirement>,
    /// Any one term will do; `None`: no such wish.
    pub required_nodes: Option<Vec<NodeTerm>>,
    pub preferred_nodes: Vec<(i64, NodeTerm)>,
    /// Images of all containers, with tag or digest.
    pub images: Vec<String>,
    pub affinity: PodAffinity,
    pub spread: Vec<SpreadConstraint>,
    /// Being deleted: takes room, but spreading no longer counts it.
    pub terminating: bool,
    /// What the pod asks for that no plugin can give yet, in words for its condition.
    pub unsupported: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// `None`: all addresses of the node.
    pub address: Option<String>,
    pub protocol: Protocol,
    pub port: u16,
}

impl HostPort {
    pub fn conflicts(&self, other: &Self) -> bool {
        let address = match (&self.address, &other.address) {
            (Some(one), Some(another)) => one == another,
            _ => true,
        };
        address && self.protocol == other.protocol && self.port == other.port
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: Effect,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Toleration {
    /// Empty (with `value: None`): every key.
    pub key: String,
    /// `None`: any value (operator `Exists`).
    pub value: Option<String>,
    /// `None`: every effect.
    pub effect: Option<Effect>,
}

impl Toleration {
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|effect| effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && match &self.value {
                None => true,
                Some(value) => *value == taint.value,
            }
    }
}

/// One term of a node affinity; an empty one matches no node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeTerm {
    pub labels: Vec<Requirement>,
    /// Requirements on fields: only `metadata.name` exists.
    pub fields: Vec<Requirement>,
}

impl NodeTerm {
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        let any = !self.labels.is_empty() || !self.fields.is_empty();
        any && self.labels.iter().all(|requirement| requirement.matches(labels))
            && self.fields.iter().all(|requirement| requirement.matches_value(Some(name)))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodAffinity {
    pub required: Vec<PodTerm>,
    pub preferred: Vec<(i64, PodTerm)>,
    pub anti_required: Vec<PodTerm>,
    pub anti_preferred: Vec<(i64, PodTerm)>,
}

impl PodAffinity {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Pods that a term speaks of, and the extent (`topology_key`) over which it does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodTerm {
    pub pods: PodSelector,
    pub topology_key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodSelector {
    /// `None` selects no pod.
    pub labels: Option<Selector>,
    pub namespaces: Vec<String>,
    /// Also pods of namespaces whose labels match.
    pub namespace_labels: Option<Selector>,
}

/// What to do where a spread constraint cannot be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhenUnsatisfiable {
    DoNotSchedule,
    ScheduleAnyway,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpreadConstraint {
    pub max_skew: i64,
    pub topology_key: String,
    pub when_unsatisfiable: WhenUnsatisfiable,
    pub pods: PodSelector,
    pub min_domains: i64,
    /// Count only nodes that the pod's node selector and affinity admit.
    pub honor_affinity: bool,
    /// Count only nodes whose taints the pod tolerates.
    pub honor_taints: bool,
}
