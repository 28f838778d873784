//! Prefers nodes whose resources would be used in equal shares.

use super::node_resources_fit::use_of;
use crate::cluster::Cluster;
use crate::framework::{MAX_SCORE, Reads, Score, scaled};
use crate::node::Candidate;
use crate::pod::Shape;

#[derive(Clone, Debug)]
pub struct NodeResourcesBalancedAllocation {
    resources: Vec<String>,
}

impl NodeResourcesBalancedAllocation {
    pub fn new(resources: Vec<String>) -> Self {
        Self { resources }
    }
}

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
        let uses = self.resources.iter().filter_map(|resource| use_of(resource, pod, node, false));
        let mut shares = uses.map(|(have, then)| scaled(then.clamp(0, have), have));
        MAX_SCORE
            - match (shares.next(), shares.next(), shares.next()) {
                (Some(one), Some(other), None) => (one - other).abs() / 2,
                (Some(one), Some(other), Some(third)) => {
                    deviation(&[one, other, third].into_iter().chain(shares).collect::<Vec<_>>())
                }
                _ => 0,
            }
    }
}

fn deviation(shares: &[i64]) -> i64 {
    let count = shares.len() as f64;
    let mean = shares.iter().sum::<i64>() as f64 / count;
    let squares: f64 = shares.iter().map(|share| (*share as f64 - mean).powi(2)).sum();
    (squares / count).sqrt().round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NodeBuilder, asking, shape};

    #[test]
    fn the_more_even_the_use_the_better() {
        let node = NodeBuilder::new("one").offers(1000, 1000).pod("a", asking(400, 200)).build();
        let cluster = Cluster::default();
        let resources = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let plugin = NodeResourcesBalancedAllocation::new(resources(&["cpu", "memory"]));
        for (pod, expected) in
            [(asking(100, 300), MAX_SCORE), (asking(400, 0), MAX_SCORE - 300_000), (shape(), 0)]
        {
            assert_eq!(plugin.score(&pod, node.candidate().unwrap(), &cluster), expected);
        }
    }

    #[test]
    fn of_more_than_two_resources_the_deviation_counts() {
        let node = NodeBuilder::new("one").offers(1000, 1000).change(|spec| spec.allocatable.set("gpu", 10));
        let node = node.build();
        let resources = ["cpu", "memory", "gpu"].map(str::to_owned).to_vec();
        let mut pod = asking(100, 200);
        pod.requests.set("gpu", 6);
        let plugin = NodeResourcesBalancedAllocation::new(resources);
        let score = plugin.score(&pod, node.candidate().unwrap(), &Cluster::default());
        // Shares of 0.1, 0.2 and 0.6: the deviation is 0.216025.
        assert_eq!(score, MAX_SCORE - 216_025);
    }
}
