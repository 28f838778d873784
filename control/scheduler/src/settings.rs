//! What an operator may set: the plugins' arguments and weights, in Kubernetes' terms with Kubernetes' defaults.
//! [`crate::configuration`] reads them from a file.

use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub fit: Fit,
    /// Resources that NodeResourcesBalancedAllocation wants in balance.
    pub balanced: Vec<String>,
    pub pod_affinity: PodAffinity,
    pub preemption: Preemption,
    pub backoff: Backoff,
    /// By plugin that scores.
    pub weights: Vec<(&'static str, i64)>,
}

/// NodeResourcesFit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    pub strategy: Strategy,
    /// What counts in the score, with weights.
    pub resources: Vec<(String, i64)>,
    /// Resources, and groups of resources, that are not checked.
    pub ignored: Vec<String>,
    pub ignored_groups: Vec<String>,
}

/// Which nodes to fill first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    LeastAllocated,
    MostAllocated,
    /// Score by utilisation in percent, 0 to 10, in straight lines between the points (sorted by utilisation).
    RequestedToCapacityRatio(Vec<UtilizationPoint>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UtilizationPoint {
    pub utilization: i64,
    pub score: i64,
}

/// InterPodAffinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodAffinity {
    /// What a placed pod's required affinity counts for in the score.
    pub hard_weight: i64,
    pub ignore_preferred_terms_of_others: bool,
}

/// DefaultPreemption: how many nodes are tried out at most, the larger of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preemption {
    pub candidates_percentage: usize,
    pub candidates_absolute: usize,
}

/// How soon a pod that failed is tried again; doubles with each attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub initial: Duration,
    pub longest: Duration,
}

/// Plugins that score, with Kubernetes' weights.
const WEIGHTS: [(&str, i64); 7] = [
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodeResourcesFit", 1),
    ("NodeResourcesBalancedAllocation", 1),
    ("ImageLocality", 1),
    ("PodTopologySpread", 2),
    ("InterPodAffinity", 2),
];

impl Settings {
    pub fn weight(&self, plugin: &str) -> i64 {
        self.weights.iter().find(|(name, _)| *name == plugin).map_or(0, |(_, weight)| *weight)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            fit: Fit::default(),
            balanced: vec!["cpu".to_owned(), "memory".to_owned()],
            pod_affinity: PodAffinity { hard_weight: 1, ignore_preferred_terms_of_others: false },
            preemption: Preemption { candidates_percentage: 10, candidates_absolute: 100 },
            backoff: Backoff::default(),
            weights: WEIGHTS.to_vec(),
        }
    }
}

impl Default for Fit {
    fn default() -> Self {
        Self {
            strategy: Strategy::LeastAllocated,
            resources: vec![("cpu".to_owned(), 1), ("memory".to_owned(), 1)],
            ignored: Vec::new(),
            ignored_groups: Vec::new(),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), longest: Duration::from_secs(10) }
    }
}
