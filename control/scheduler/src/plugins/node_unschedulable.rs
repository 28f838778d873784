//! Cordoned nodes take no pods, save those that tolerate the cordon's taint.

use crate::framework::{Events, Filter, Reads, Reason, Refusal};
use crate::node::Candidate;
use crate::pod::{Effect, Shape, Taint};

#[derive(Clone, Copy, Debug)]
pub struct NodeUnschedulable;

const CORDONED: Reason = Reason::fixed("node(s) were unschedulable");

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }

    fn helped_by(&self) -> Events {
        Events::NODE_ADDED | Events::NODE_UNTAINTED
    }

    fn filter(&self, pod: &Shape, node: Candidate<'_>) -> Result<(), Refusal> {
        if !node.spec.unschedulable {
            return Ok(());
        }
        let key = "node.kubernetes.io/unschedulable".to_owned();
        let cordon = Taint { key, value: String::new(), effect: Effect::NoSchedule };
        let tolerated = pod.tolerations.iter().any(|toleration| toleration.tolerates(&cordon));
        if tolerated { Ok(()) } else { Err(Refusal::lasting(CORDONED)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Toleration;
    use crate::testing::{NodeBuilder, shape};

    #[test]
    fn a_cordoned_node_takes_only_pods_that_tolerate_it() {
        let toleration = Toleration {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            value: None,
            effect: Some(Effect::NoSchedule),
        };
        let tolerant = Shape { tolerations: vec![toleration], ..shape() };
        for (cordoned, pod, fits) in [
            (false, shape(), true),
            (true, shape(), false),
            (true, tolerant.clone(), true),
            (false, tolerant, true),
        ] {
            let node = NodeBuilder::new("one").change(|spec| spec.unschedulable = cordoned).build();
            let verdict = NodeUnschedulable.filter(&pod, node.candidate().unwrap());
            assert_eq!(verdict, if fits { Ok(()) } else { Err(Refusal::lasting(CORDONED)) });
        }
    }
}
