//! What a pod asks for must be free on the node; the strategy says which of the nodes with room is best.

use crate::cluster::Cluster;
use crate::framework::{Events, Filter, MAX_SCORE, Reads, Reason, Score, scaled};
use crate::node::Candidate;
use crate::pod::Shape;

/// Which nodes to fill first. CPU and memory count alike; containers that ask for nothing count a little.
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

#[derive(Clone, Debug)]
pub struct NodeResourcesFit {
    strategy: Strategy,
}

const NAME: &str = "NodeResourcesFit";
const TOO_MANY_PODS: Reason = Reason::fixed("Too many pods");

impl NodeResourcesFit {
    pub fn new(strategy: Strategy) -> Self {
        Self { strategy }
    }

    fn rate(&self, requested: i64, allocatable: i64) -> i64 {
        if allocatable <= 0 {
            return 0;
        }
        match &self.strategy {
            Strategy::LeastAllocated => scaled((allocatable - requested).max(0), allocatable),
            Strategy::MostAllocated => scaled(requested.min(allocatable), allocatable),
            Strategy::RequestedToCapacityRatio(points) => {
                rate_by_points(points, scaled(requested.min(allocatable), allocatable))
            }
        }
    }
}

/// Points give utilisation in percent and scores of 0 to 10; both are [`MAX_SCORE`]-scaled here.
fn rate_by_points(points: &[UtilizationPoint], utilization: i64) -> i64 {
    let scale =
        |point: &UtilizationPoint| (point.utilization * MAX_SCORE / 100, point.score * MAX_SCORE / 10);
    let mut before = None;
    for (at, score) in points.iter().map(scale) {
        match before {
            _ if utilization > at => before = Some((at, score)),
            Some((last_at, last_score)) if at > last_at => {
                return last_score + (score - last_score) * (utilization - last_at) / (at - last_at);
            }
            _ => return score,
        }
    }
    before.map_or(0, |(_, score)| score)
}

impl Filter for NodeResourcesFit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Reads {
        Reads::Load
    }

    fn helped_by(&self) -> Events {
        Events::NODE_ADDED | Events::NODE_ALLOCATABLE | Events::POD_GONE
    }

    fn filter(&self, pod: &Shape, node: Candidate<'_>) -> Result<(), Vec<Reason>> {
        let (wanted, have, taken) = (&pod.requests, &node.spec.allocatable, &node.load.requested);
        let short = |wanted: i64, have: i64, taken: i64| wanted > 0 && wanted > have.saturating_sub(taken);
        let mut reasons = Vec::new();
        if node.load.pods.len() as i64 >= node.spec.pods_allowed {
            reasons.push(TOO_MANY_PODS);
        }
        if short(wanted.milli_cpu, have.milli_cpu, taken.milli_cpu) {
            reasons.push(Reason::fixed("Insufficient cpu"));
        }
        if short(wanted.memory, have.memory, taken.memory) {
            reasons.push(Reason::fixed("Insufficient memory"));
        }
        if short(wanted.ephemeral_storage, have.ephemeral_storage, taken.ephemeral_storage) {
            reasons.push(Reason::fixed("Insufficient ephemeral-storage"));
        }
        for (name, amount) in wanted.extended() {
            if short(amount, have.get(name), taken.get(name)) {
                reasons.push(Reason::new(format!("Insufficient {name}")));
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }
}

impl Score for NodeResourcesFit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Reads {
        Reads::Load
    }

    fn score(&self, pod: &Shape, node: Candidate<'_>, _cluster: &Cluster) -> i64 {
        let (wanted, have, taken) =
            (&pod.scoring_requests, &node.spec.allocatable, &node.load.scoring_requested);
        let cpu = self.rate(taken.milli_cpu.saturating_add(wanted.milli_cpu), have.milli_cpu);
        let memory = self.rate(taken.memory.saturating_add(wanted.memory), have.memory);
        (cpu + memory) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Resources;
    use crate::testing::{NodeBuilder, asking, shape};

    fn fit(strategy: Strategy) -> NodeResourcesFit {
        NodeResourcesFit::new(strategy)
    }

    #[test]
    fn says_what_is_short() {
        let node = NodeBuilder::new("one").offers(1000, 1000).pods_allowed(2).pod("a", asking(600, 100));
        let gpu = |mut shape: Shape| {
            shape.requests.set("example.com/gpu", 1);
            shape
        };
        let cases = [
            (asking(400, 900), vec![]),
            (asking(401, 900), vec!["Insufficient cpu"]),
            (asking(401, 901), vec!["Insufficient cpu", "Insufficient memory"]),
            (gpu(asking(1, 1)), vec!["Insufficient example.com/gpu"]),
            (shape(), vec![]),
        ];
        for (pod, expected) in cases {
            let node = node.clone().build();
            let reasons = fit(Strategy::LeastAllocated)
                .filter(&pod, node.candidate().unwrap())
                .err()
                .unwrap_or_default();
            assert_eq!(reasons.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        }
        let full = node.pod("b", shape()).build();
        let reasons = fit(Strategy::LeastAllocated).filter(&shape(), full.candidate().unwrap()).unwrap_err();
        assert_eq!(reasons, [TOO_MANY_PODS]);
    }

    #[test]
    fn a_pod_that_asks_for_nothing_fits_an_overcommitted_node() {
        let node = NodeBuilder::new("one").offers(100, 100).pod("a", asking(600, 600)).build();
        assert!(fit(Strategy::LeastAllocated).filter(&shape(), node.candidate().unwrap()).is_ok());
    }

    #[test]
    fn strategies_rate_as_kubernetes_does() {
        let node = NodeBuilder::new("one").offers(1000, 1000).pod("a", asking(200, 400)).build();
        let points = [(0, 0), (50, 10), (100, 5)];
        let points = points.map(|(utilization, score)| UtilizationPoint { utilization, score }).to_vec();
        let cases = [
            (Strategy::LeastAllocated, (700_000 + 500_000) / 2),
            (Strategy::MostAllocated, (300_000 + 500_000) / 2),
            (Strategy::RequestedToCapacityRatio(points), (600_000 + 1_000_000) / 2),
        ];
        let cluster = Cluster::default();
        for (strategy, expected) in cases {
            let score = fit(strategy).score(&asking(100, 100), node.candidate().unwrap(), &cluster);
            assert_eq!(score, expected);
        }
    }

    #[test]
    fn points_are_joined_by_straight_lines() {
        let points = [(20, 2), (40, 6)].map(|(utilization, score)| UtilizationPoint { utilization, score });
        let percent = MAX_SCORE / 100;
        for (utilization, expected) in [(0, 20), (20, 20), (30, 40), (40, 60), (90, 60)] {
            assert_eq!(rate_by_points(&points, utilization * percent), expected * percent, "{utilization}");
        }
    }

    #[test]
    fn a_node_that_offers_nothing_scores_nothing() {
        let node = NodeBuilder::new("one").change(|spec| spec.allocatable = Resources::default()).build();
        let cluster = Cluster::default();
        assert_eq!(
            fit(Strategy::LeastAllocated).score(&asking(1, 1), node.candidate().unwrap(), &cluster),
            0
        );
    }
}
