//! The plugins, one file each, and the default profile.
//!
//! Left out for now: volumes (a pod that needs one is refused by name), preemption (a pod of higher priority goes
//! first in the queue, but evicts nobody).

mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod pod_topology_spread;
mod taint_toleration;

pub use image_locality::ImageLocality;
pub use inter_pod_affinity::InterPodAffinity;
pub use node_affinity::NodeAffinity;
pub use node_name::NodeName;
pub use node_ports::NodePorts;
pub use node_resources_balanced_allocation::NodeResourcesBalancedAllocation;
pub use node_resources_fit::{NodeResourcesFit, Strategy, UtilizationPoint};
pub use node_unschedulable::NodeUnschedulable;
pub use pod_topology_spread::PodTopologySpread;
pub use taint_toleration::TaintToleration;

use crate::framework::Profile;

impl Profile {
    /// Kubernetes' default plugins in its order, with its weights.
    pub fn new(strategy: Strategy) -> Self {
        Self {
            filters: vec![
                Box::new(NodeUnschedulable),
                Box::new(NodeName),
                Box::new(TaintToleration),
                Box::new(NodeAffinity),
                Box::new(NodePorts),
                Box::new(NodeResourcesFit::new(strategy.clone())),
            ],
            scores: vec![
                (3, Box::new(TaintToleration)),
                (2, Box::new(NodeAffinity)),
                (1, Box::new(NodeResourcesFit::new(strategy))),
                (1, Box::new(NodeResourcesBalancedAllocation)),
                (1, Box::new(ImageLocality)),
            ],
            topologies: vec![(2, Box::new(PodTopologySpread)), (2, Box::new(InterPodAffinity))],
        }
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::new(Strategy::LeastAllocated)
    }
}
