//! What a pod asks for must be free on the node; the strategy says which of the nodes with room is best.

use crate::cluster::Cluster;
use crate::framework::{Events, Filter, MAX_SCORE, Reads, Reason, Refusal, Score, scaled};
use crate::node::Candidate;
use crate::pod::Shape;
use crate::resources::Resources;
use crate::settings::{Fit, Strategy, UtilizationPoint};

#[derive(Clone, Debug)]
pub struct NodeResourcesFit {
    settings: Fit,
}

const NAME: &str = "NodeResourcesFit";
const TOO_MANY_PODS: Reason = Reason::fixed("Too many pods");

impl NodeResourcesFit {
    pub fn new(settings: Fit) -> Self {
        Self { settings }
    }

    fn rate(&self, requested: i64, allocatable: i64) -> i64 {
        match &self.settings.strategy {
            Strategy::LeastAllocated => scaled((allocatable - requested).max(0), allocatable),
            Strategy::MostAllocated => scaled(requested.min(allocatable), allocatable),
            Strategy::RequestedToCapacityRatio(points) => {
                rate_by_points(points, scaled(requested.min(allocatable), allocatable))
            }
        }
    }

    /// Resources that Kubernetes' own plugins do not know may be left to others to watch.
    fn watches(&self, resource: &str) -> bool {
        let group = resource.split_once('/').map_or("", |(group, _)| group);
        !self.settings.ignored.iter().any(|ignored| ignored == resource)
            && !self.settings.ignored_groups.iter().any(|ignored| ignored == group)
    }
}

/// Of one resource: what a node has, and what would be taken of it with the pod there. CPU and memory count even
/// where containers do not ask for them; other resources count for pods that ask for them.
pub(super) fn use_of(resource: &str, pod: &Shape, node: Candidate<'_>, unasked: bool) -> Option<(i64, i64)> {
    let common = matches!(resource, "cpu" | "memory");
    let wanted = if common && unasked { &pod.scoring_requests } else { &pod.requests };
    let taken = if common && unasked { &node.load.scoring_requested } else { &node.load.requested };
    let of = |amounts: &Resources| amounts.get(resource);
    let (have, wanted, taken) = (of(&node.spec.allocatable), of(wanted), of(taken));
    let counts = have > 0 && (common || resource == "ephemeral-storage" || wanted > 0);
    counts.then(|| (have, taken.saturating_add(wanted)))
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

    fn filter(&self, pod: &Shape, node: Candidate<'_>) -> Result<(), Refusal> {
        let (wanted, have, taken) = (&pod.requests, &node.spec.allocatable, &node.load.requested);
        let mut reasons = Vec::new();
        // An empty node would not do either.
        let mut hopeless = false;
        let mut short = |wanted: i64, have: i64, taken: i64| {
            hopeless |= wanted > have;
            wanted > 0 && wanted > have.saturating_sub(taken)
        };
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
        for (name, amount) in wanted.extended().filter(|(name, _)| self.watches(name)) {
            if short(amount, have.get(name), taken.get(name)) {
                reasons.push(Reason::new(format!("Insufficient {name}")));
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, crowded: !hopeless }) }
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
        let by_ratio = matches!(self.settings.strategy, Strategy::RequestedToCapacityRatio(_));
        let (mut sum, mut weights) = (0, 0);
        for (resource, weight) in &self.settings.resources {
            let Some((have, then)) = use_of(resource, pod, node, true) else { continue };
            let score = self.rate(then, have);
            // As in Kubernetes, a ratio that scores nothing does not pull the others down.
            if score > 0 || !by_ratio {
                sum += weight * score;
                weights += weight;
            }
        }
        if weights > 0 { sum / weights } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Resources;
    use crate::testing::{NodeBuilder, asking, shape};

    fn fit(strategy: Strategy) -> NodeResourcesFit {
        NodeResourcesFit::new(Fit { strategy, ..Fit::default() })
    }

    fn gpu(mut shape: Shape, count: i64) -> Shape {
        shape.requests.set("example.com/gpu", count);
        shape
    }

    #[test]
    fn says_what_is_short() {
        let node = NodeBuilder::new("one").offers(1000, 1000).pods_allowed(2).pod("a", asking(600, 100));
        let cases = [
            (asking(400, 900), vec![]),
            (asking(401, 900), vec!["Insufficient cpu"]),
            (asking(401, 901), vec!["Insufficient cpu", "Insufficient memory"]),
            (gpu(asking(1, 1), 1), vec!["Insufficient example.com/gpu"]),
            (shape(), vec![]),
        ];
        for (pod, expected) in cases {
            let node = node.clone().build();
            let reasons = fit(Strategy::LeastAllocated)
                .filter(&pod, node.candidate().unwrap())
                .err()
                .map_or_else(Vec::new, |refusal| refusal.reasons);
            assert_eq!(reasons.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        }
        let full = node.pod("b", shape()).build();
        let refusal = fit(Strategy::LeastAllocated).filter(&shape(), full.candidate().unwrap()).unwrap_err();
        assert_eq!(refusal, Refusal::crowded(TOO_MANY_PODS));
    }

    #[test]
    fn what_an_empty_node_could_not_give_is_hopeless() {
        let node = NodeBuilder::new("one").offers(1000, 1000).pod("a", asking(600, 600)).build();
        for (pod, crowded) in
            [(asking(1000, 1), true), (asking(1001, 1), false), (gpu(asking(500, 1), 1), false)]
        {
            let refusal = fit(Strategy::LeastAllocated).filter(&pod, node.candidate().unwrap()).unwrap_err();
            assert_eq!(refusal.crowded, crowded, "{pod:?}");
        }
    }

    #[test]
    fn ignored_resources_are_not_looked_at() {
        let node = NodeBuilder::new("one").build();
        let other = |name: &str| {
            let mut shape = asking(1, 1);
            shape.requests.set(name, 1);
            shape
        };
        let fit = NodeResourcesFit::new(Fit {
            ignored: vec!["example.com/gpu".to_owned()],
            ignored_groups: vec!["fpga.example".to_owned()],
            ..Fit::default()
        });
        for (name, fits) in [("example.com/gpu", true), ("fpga.example/a", true), ("example.com/nic", false)]
        {
            assert_eq!(fit.filter(&other(name), node.candidate().unwrap()).is_ok(), fits, "{name}");
        }
    }

    #[test]
    fn resources_count_by_their_weights_and_only_where_they_are_asked_for() {
        let node = NodeBuilder::new("one").offers(1000, 1000).change(|spec| {
            spec.allocatable.set("example.com/gpu", 4);
        });
        let node = node.build();
        let resources = [("cpu", 1), ("example.com/gpu", 3), ("example.com/nic", 9)];
        let resources = resources.map(|(name, weight)| (name.to_owned(), weight)).to_vec();
        let points = [(0, 0), (100, 10)].map(|(utilization, score)| UtilizationPoint { utilization, score });
        let cluster = Cluster::default();
        for (strategy, pod, expected) in [
            (Strategy::MostAllocated, gpu(asking(100, 0), 1), (100_000 + 3 * 250_000) / 4),
            (Strategy::MostAllocated, asking(100, 0), 100_000),
            // Nothing of the CPU is asked for: the ratio leaves it out altogether.
            (Strategy::RequestedToCapacityRatio(points.to_vec()), gpu(asking(0, 0), 1), 250_000),
            (Strategy::LeastAllocated, gpu(asking(0, 0), 1), (1_000_000 + 3 * 750_000) / 4),
        ] {
            let fit = NodeResourcesFit::new(Fit { strategy, resources: resources.clone(), ..Fit::default() });
            assert_eq!(fit.score(&pod, node.candidate().unwrap(), &cluster), expected);
        }
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
