//! The plugins, one file each, and the default profile.
//!
//! Left out for now: volumes (a pod that needs one is refused by name). Left out on purpose: spreading of pods that
//! do not ask for it (Kubernetes' system defaults, two soft constraints): with them each pod of a Service would be held
//! against every node anew, for what the resource plugins do of themselves among nodes alike.

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
pub use node_resources_fit::NodeResourcesFit;
pub use node_unschedulable::NodeUnschedulable;
pub use pod_topology_spread::PodTopologySpread;
pub use taint_toleration::TaintToleration;

use crate::framework::Profile;
use crate::settings::Settings;

impl Profile {
    /// Kubernetes' default plugins in its order. A plugin of weight 0 does not score.
    pub fn new(settings: &Settings) -> Self {
        let weight = |name: &str| settings.weight(name);
        let fit = NodeResourcesFit::new(settings.fit.clone());
        let balanced = NodeResourcesBalancedAllocation::new(settings.balanced.clone());
        let affinity = InterPodAffinity::new(settings.pod_affinity);
        let mut profile = Self {
            filters: vec![
                Box::new(NodeUnschedulable),
                Box::new(NodeName),
                Box::new(TaintToleration),
                Box::new(NodeAffinity),
                Box::new(NodePorts),
                Box::new(fit.clone()),
            ],
            scores: vec![
                (weight("TaintToleration"), Box::new(TaintToleration)),
                (weight("NodeAffinity"), Box::new(NodeAffinity)),
                (weight("NodeResourcesFit"), Box::new(fit)),
                (weight("NodeResourcesBalancedAllocation"), Box::new(balanced)),
                (weight("ImageLocality"), Box::new(ImageLocality)),
            ],
            topologies: vec![
                (weight("PodTopologySpread"), Box::new(PodTopologySpread)),
                (weight("InterPodAffinity"), Box::new(affinity)),
            ],
            preemption: settings.preemption,
            backoff: settings.backoff,
        };
        profile.scores.retain(|(weight, _)| *weight > 0);
        profile
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::new(&Settings::default())
    }
}
