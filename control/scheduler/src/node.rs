//! A node and the load on it.
//!
//! [`NodeSpec`] is what the Node object says, reduced to what placing needs; heartbeats do not change it. [`Node`]
//! adds the sums over its pods, kept up to date pod by pod, never recounted.

use std::collections::HashMap;
use std::sync::Arc;

use crate::pod::{HostPort, PodInfo, Taint};
use crate::resources::Resources;
use crate::selector::Labels;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSpec {
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub pods_allowed: i64,
    /// Images on the node: each name an image goes by, with its size in bytes.
    pub images: Vec<(String, i64)>,
}

#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: Arc<str>,
    /// `None` while pods are bound to it but no Node object is known: its load is counted, nothing is placed on it.
    pub spec: Option<NodeSpec>,
    pub requested: Resources,
    pub scoring_requested: Resources,
    pub host_ports: Vec<HostPort>,
    pub pods: HashMap<Arc<str>, Arc<PodInfo>>,
    /// Number of the last change to this node in the cluster's log of changes.
    pub generation: u64,
}

impl Node {
    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.shape.requests);
        self.scoring_requested.add(&pod.shape.scoring_requests);
        self.host_ports.extend(pod.shape.host_ports.iter().cloned());
        self.pods.insert(pod.uid.clone(), pod);
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        let Some(pod) = self.pods.remove(uid) else { return };
        self.requested.subtract(&pod.shape.requests);
        self.scoring_requested.subtract(&pod.shape.scoring_requests);
        for port in &pod.shape.host_ports {
            if let Some(index) = self.host_ports.iter().position(|taken| taken == port) {
                self.host_ports.swap_remove(index);
            }
        }
    }
}

/// A node that pods may be placed on, as plugins see it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub spec: &'a NodeSpec,
    pub load: &'a Node,
}

impl Node {
    pub fn candidate(&self) -> Option<Candidate<'_>> {
        self.spec.as_ref().map(|spec| Candidate { spec, load: self })
    }
}
