//! `nodeSelector` and node affinity: labels that a node must have, and labels that it had better have.

use crate::cluster::Cluster;
use crate::framework::{Events, Filter, Reads, Reason, Refusal, Score, stretch};
use crate::node::Candidate;
use crate::pod::Shape;

#[derive(Clone, Copy, Debug)]
pub struct NodeAffinity;

const NAME: &str = "NodeAffinity";
const NO_MATCH: Reason = Reason::fixed("node(s) didn't match Pod's node affinity/selector");

impl NodeAffinity {
    /// Whether the pod's node selector and required terms admit the node.
    pub fn admits(pod: &Shape, node: Candidate<'_>) -> bool {
        let labels = &node.spec.labels;
        pod.node_selector.iter().all(|requirement| requirement.matches(labels))
            && pod
                .required_nodes
                .as_ref()
                .is_none_or(|terms| terms.iter().any(|term| term.matches(&node.load.name, labels)))
    }
}

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }

    fn helped_by(&self) -> Events {
        Events::NODE_ADDED | Events::NODE_LABELS
    }

    fn filter(&self, pod: &Shape, node: Candidate<'_>) -> Result<(), Refusal> {
        if Self::admits(pod, node) { Ok(()) } else { Err(Refusal::lasting(NO_MATCH)) }
    }
}

impl Score for NodeAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }

    fn score(&self, pod: &Shape, node: Candidate<'_>, _cluster: &Cluster) -> i64 {
        let matching =
            pod.preferred_nodes.iter().filter(|(_, term)| term.matches(&node.load.name, &node.spec.labels));
        matching.map(|(weight, _)| weight).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        stretch(scores);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::MAX_SCORE;
    use crate::pod::NodeTerm;
    use crate::selector::{Operator, Requirement};
    use crate::testing::{NodeBuilder, shape};

    fn on_label(key: &str, value: &str) -> NodeTerm {
        NodeTerm { labels: vec![Requirement::is(key, value)], fields: vec![] }
    }

    #[test]
    fn selector_and_one_of_the_terms_must_match() {
        let node = NodeBuilder::new("one").label("zone", "a").label("disk", "ssd").build();
        let by_name = NodeTerm { labels: vec![], fields: vec![Requirement::is("metadata.name", "one")] };
        let no_gpu = Requirement { key: "gpu".to_owned(), operator: Operator::DoesNotExist, values: vec![] };
        let cases = [
            (vec![], None, true),
            (vec![Requirement::is("zone", "a")], None, true),
            (vec![Requirement::is("zone", "b")], None, false),
            (vec![], Some(vec![on_label("zone", "b"), on_label("disk", "ssd")]), true),
            (vec![], Some(vec![on_label("zone", "b")]), false),
            (vec![Requirement::is("zone", "b")], Some(vec![on_label("disk", "ssd")]), false),
            (vec![], Some(vec![NodeTerm::default()]), false),
            (vec![], Some(vec![]), false),
            (vec![], Some(vec![by_name]), true),
            (vec![], Some(vec![NodeTerm { labels: vec![no_gpu], fields: vec![] }]), true),
        ];
        for (node_selector, required_nodes, fits) in cases {
            let pod = Shape { node_selector, required_nodes, ..shape() };
            assert_eq!(NodeAffinity.filter(&pod, node.candidate().unwrap()).is_ok(), fits, "{pod:?}");
        }
    }

    #[test]
    fn preferences_add_up_by_weight() {
        let cluster = Cluster::default();
        let preferred_nodes = vec![(10, on_label("zone", "a")), (30, on_label("disk", "ssd"))];
        let pod = Shape { preferred_nodes, ..shape() };
        let score = |node: NodeBuilder| NodeAffinity.score(&pod, node.build().candidate().unwrap(), &cluster);
        let mut scores = [
            score(NodeBuilder::new("one").label("zone", "a").label("disk", "ssd")),
            score(NodeBuilder::new("two").label("zone", "a")),
            score(NodeBuilder::new("three")),
        ];
        assert_eq!(scores, [40, 10, 0]);
        NodeAffinity.normalize(&mut scores);
        assert_eq!(scores, [MAX_SCORE, MAX_SCORE / 4, 0]);
    }
}
