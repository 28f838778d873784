//! The ReplicaSets of a deployment, as a plan works on them: the one that is wanted now, and the others.

use std::collections::BTreeMap;

use weir_proto::apps::v1::{Deployment, ReplicaSet};
use weir_proto::core::v1::PodTemplateSpec;
use weir_proto::meta::v1::{LabelSelector, ObjectMeta};

use super::limits::Limits;
use super::template::{self, HASH_LABEL};
use crate::owners;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MOST: &str = "deployment.kubernetes.io/max-replicas";
/// The deployment's own business, or the set's.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MOST,
    "deprecated.deployment.rollback.to",
];

/// Copies that a plan changes; what differs from the observed sets in the end is what is to be written.
#[derive(Debug, Clone)]
pub(super) struct Sets {
    /// Made from the deployment's present template.
    pub(super) new: Option<ReplicaSet>,
    /// Oldest first.
    pub(super) old: Vec<ReplicaSet>,
    /// `new` does not exist yet.
    pub(super) created: bool,
}

pub(super) fn wanted(set: &ReplicaSet) -> i32 {
    set.spec().replicas.unwrap_or(1).max(0)
}

/// Pods that the set has or is going to have, whichever is more: one that is told to shrink has not yet.
fn present(set: &ReplicaSet) -> i32 {
    wanted(set).max(set.status().replicas)
}

/// Pods that are available and stay, even if the set has not acted on its size yet.
pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status().available_replicas.min(wanted(set)).max(0)
}

impl Sets {
    pub(super) fn split(deployment: &Deployment, sets: &[ReplicaSet]) -> Sets {
        let template = template::of(deployment);
        let mut old: Vec<ReplicaSet> = sets.to_vec();
        old.sort_by(|a, b| {
            let age = |set: &ReplicaSet| (set.meta().creation_timestamp, set.meta().name.clone());
            age(a).cmp(&age(b))
        });
        // Should there be several (only by a race long ago), the oldest is the one, always.
        let new = old.iter().position(|set| template::is_from(set, &template)).map(|index| old.remove(index));
        Sets { new, old, created: false }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(&self.new)
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut ReplicaSet> {
        self.old.iter_mut().chain(&mut self.new)
    }

    pub(super) fn sizes(&self) -> Vec<i32> {
        self.all().map(wanted).collect()
    }

    pub(super) fn total_wanted(&self) -> i32 {
        self.all().map(wanted).sum()
    }

    pub(super) fn total_present(&self) -> i32 {
        self.all().map(present).sum()
    }

    pub(super) fn total_available(&self) -> i32 {
        self.all().map(available).sum()
    }

    /// Makes the set for the present template, without any pods yet.
    pub(super) fn create(&mut self, deployment: &Deployment) {
        let template = template::of(deployment);
        let hash = template::hash(&template, deployment.status().collision_count);
        let meta = deployment.meta();
        let labels = with_hash(template.metadata.as_ref().map(|meta| &meta.labels), &hash);
        let mut set = ReplicaSet::default();
        *set.meta_mut() = ObjectMeta {
            name: format!("{}-{hash}", meta.name),
            namespace: meta.namespace.clone(),
            labels: labels.clone(),
            owner_references: vec![owners::controller_reference(deployment)],
            ..ObjectMeta::default()
        };
        let selector = deployment.spec().selector.clone().unwrap_or_default();
        let spec = set.spec_mut();
        spec.replicas = Some(0);
        spec.min_ready_seconds = deployment.spec().min_ready_seconds;
        spec.selector = Some(LabelSelector {
            match_labels: with_hash(Some(&selector.match_labels), &hash),
            match_expressions: selector.match_expressions,
        });
        let metadata = template.metadata.unwrap_or_default();
        spec.template =
            Some(PodTemplateSpec { metadata: Some(ObjectMeta { labels, ..metadata }), spec: template.spec });
        self.new = Some(set);
        self.created = true;
    }

    /// Numbers the new set after all others, and keeps its annotations and readiness in line with the deployment.
    pub(super) fn number(&mut self, deployment: &Deployment) {
        let last = self.old.iter().map(|set| revision(set.meta())).max().unwrap_or(0);
        let Some(new) = &mut self.new else { return };
        let present = revision(new.meta());
        let annotations = &mut new.meta_mut().annotations;
        for (key, value) in &deployment.meta().annotations {
            if !NOT_COPIED.contains(&key.as_str()) {
                annotations.insert(key.clone(), value.clone());
            }
        }
        if present <= last {
            if present > 0 {
                let history = annotations.entry(HISTORY.to_owned()).or_default();
                *history =
                    if history.is_empty() { present.to_string() } else { format!("{history},{present}") };
            }
            annotations.insert(REVISION.to_owned(), (last + 1).to_string());
        }
        new.spec_mut().min_ready_seconds = deployment.spec().min_ready_seconds;
    }
}

pub(super) fn revision(meta: &ObjectMeta) -> i64 {
    meta.annotations.get(REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// Sets the size, and notes what it was computed for.
pub(super) fn resize(set: &mut ReplicaSet, replicas: i32, limits: Limits) {
    set.spec_mut().replicas = Some(replicas.max(0));
    note(set, limits);
}

pub(super) fn note(set: &mut ReplicaSet, limits: Limits) {
    let annotations = &mut set.meta_mut().annotations;
    annotations.insert(DESIRED.to_owned(), limits.replicas.to_string());
    annotations.insert(MOST.to_owned(), limits.most().to_string());
}

/// The deployment's size when this set was last sized.
pub(super) fn noted_desired(set: &ReplicaSet) -> Option<i32> {
    set.meta().annotations.get(DESIRED)?.parse().ok()
}

/// The most that the deployment could have when this set was last sized.
pub(super) fn noted_most(set: &ReplicaSet) -> Option<i32> {
    set.meta().annotations.get(MOST)?.parse().ok()
}

fn with_hash(labels: Option<&BTreeMap<String, String>>, hash: &str) -> BTreeMap<String, String> {
    let mut labels = labels.cloned().unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    labels
}
