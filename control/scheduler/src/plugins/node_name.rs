//! A pod that names its node goes nowhere else.

use crate::framework::{Events, Filter, Reads, Reason, Refusal};
use crate::node::Candidate;
use crate::pod::Shape;

#[derive(Clone, Copy, Debug)]
pub struct NodeName;

const OTHER_NODE: Reason = Reason::fixed("node(s) didn't match the requested node name");

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }

    fn helped_by(&self) -> Events {
        Events::NODE_ADDED
    }

    fn filter(&self, pod: &Shape, node: Candidate<'_>) -> Result<(), Refusal> {
        match &pod.node_name {
            Some(name) if **name != *node.load.name => Err(Refusal::lasting(OTHER_NODE)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NodeBuilder, shape};

    #[test]
    fn only_the_named_node_will_do() {
        let node = NodeBuilder::new("one").build();
        let cases = [(None, true), (Some("one"), true), (Some("two"), false)];
        for (wanted, fits) in cases {
            let pod = Shape { node_name: wanted.map(str::to_owned), ..shape() };
            assert_eq!(NodeName.filter(&pod, node.candidate().unwrap()).is_ok(), fits, "{wanted:?}");
        }
    }
}
