//! Prefers nodes whose CPU and memory would be used in equal shares.

use crate::cluster::Cluster;
use crate::framework::{MAX_SCORE, Reads, Score, scaled};
use crate::node::Candidate;
use crate::pod::Shape;

#[derive(Clone, Copy, Debug)]
pub struct NodeResourcesBalancedAllocation;

impl Score for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn reads(&self) -> Reads {
        Reads::Load
    }

    /// One less the standard deviation of the used fractions; of two fractions that is half their distance.
    /// A pod that asks for nothing changes no balance and scores every node alike.
    fn score(&self, pod: &Shape, node: Candidate<'_>, _cluster: &Cluster) -> i64 {
        if pod.requests.is_zero() {
            return 0;
        }
        let (wanted, have, taken) = (&pod.requests, &node.spec.allocatable, &node.load.requested);
        let used = |wanted: i64, have: i64, taken: i64| {
            (have > 0).then(|| scaled(taken.saturating_add(wanted).clamp(0, have), have))
        };
        let cpu = used(wanted.milli_cpu, have.milli_cpu, taken.milli_cpu);
        let memory = used(wanted.memory, have.memory, taken.memory);
        match (cpu, memory) {
            (Some(cpu), Some(memory)) => MAX_SCORE - (cpu - memory).abs() / 2,
            _ => MAX_SCORE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NodeBuilder, asking, shape};

    #[test]
    fn the_more_even_the_use_the_better() {
        let node = NodeBuilder::new("one").offers(1000, 1000).pod("a", asking(400, 200)).build();
        let cluster = Cluster::default();
        for (pod, expected) in
            [(asking(100, 300), MAX_SCORE), (asking(400, 0), MAX_SCORE - 300_000), (shape(), 0)]
        {
            let score = NodeResourcesBalancedAllocation.score(&pod, node.candidate().unwrap(), &cluster);
            assert_eq!(score, expected);
        }
    }
}
