//! Spreads pods over topology domains: `DoNotSchedule` constraints filter, `ScheduleAnyway` ones score.
//!
//! A constraint counts the pods that its selector selects, per value of its topology key, over the nodes that the
//! pod could use at all. The filter compares with the emptiest domain.

use crate::cluster::Cluster;
use crate::counters::Predicate;
use crate::framework::{Events, MAX_SCORE, Reason, Refusal, Rule, Topology, scaled};
use crate::node::Candidate;
use crate::plugins::{NodeAffinity, TaintToleration};
use crate::pod::{Shape, SpreadConstraint, WhenUnsatisfiable};
use crate::tally::{Domain, Tally};

#[derive(Clone, Copy, Debug)]
pub struct PodTopologySpread;

const NAME: &str = "PodTopologySpread";
const SKEWED: Reason = Reason::fixed("node(s) didn't match pod topology spread constraints");
const NO_LABEL: Reason =
    Reason::fixed("node(s) didn't match pod topology spread constraints (missing required label)");
/// Scores are worked out in fractions of a pod.
const PER_POD: f64 = 1024.0;

#[derive(Debug)]
struct SpreadRule {
    constraints: Vec<Bound>,
    tallies: Vec<Tally>,
}

#[derive(Debug)]
struct Bound {
    max_skew: i64,
    min_domains: i64,
    hard: bool,
    /// Whether the pod adds to the count itself.
    counts_itself: bool,
    /// Pods in the emptiest domain; set before nodes are checked.
    least: i64,
    /// Weight of a pod here: constraints with more domains have fewer pods in each.
    weight: f64,
}

impl Topology for PodTopologySpread {
    fn name(&self) -> &'static str {
        NAME
    }

    fn helped_by(&self) -> Events {
        let nodes = Events::NODE_ADDED | Events::NODE_GONE | Events::NODE_LABELS | Events::NODE_TAINTS;
        nodes | Events::POD_GONE | Events::POD_CAME | Events::POD_CHANGED
    }

    fn rule(&self, pod: &Shape, cluster: &mut Cluster) -> Option<Box<dyn Rule>> {
        if pod.spread.is_empty() {
            return None;
        }
        let mut rule = SpreadRule { constraints: Vec::new(), tallies: Vec::new() };
        for constraint in &pod.spread {
            let selectors = vec![constraint.pods.clone()];
            let counter = cluster.acquire(Predicate::Selected { selectors, terminating: false });
            let counts = |node: Candidate<'_>| counts(pod, constraint, node);
            let tally = Tally::new(cluster, counter, &constraint.topology_key, counts);
            rule.constraints.push(Bound {
                max_skew: constraint.max_skew,
                min_domains: constraint.min_domains,
                hard: constraint.when_unsatisfiable == WhenUnsatisfiable::DoNotSchedule,
                counts_itself: constraint.pods.selects(pod, &cluster.namespaces),
                least: 0,
                weight: (tally.live().count() as f64 + 2.0).ln(),
            });
            rule.tallies.push(tally);
        }
        Some(Box::new(rule))
    }
}

/// Whether pods on the node count for the constraint: it has the label of each such constraint, and the pod could
/// go there as far as the constraint's policies want that considered.
fn counts(pod: &Shape, constraint: &SpreadConstraint, node: Candidate<'_>) -> bool {
    let alike = pod.spread.iter().filter(|other| other.when_unsatisfiable == constraint.when_unsatisfiable);
    let labelled = alike.map(|other| &other.topology_key).all(|key| node.spec.labels.contains_key(key));
    labelled
        && (!constraint.honor_affinity || NodeAffinity::admits(pod, node))
        && (!constraint.honor_taints || TaintToleration::forbids(pod, node).is_none())
}

impl Rule for SpreadRule {
    fn tallies(&self) -> &[Tally] {
        &self.tallies
    }

    fn tallies_mut(&mut self) -> &mut [Tally] {
        &mut self.tallies
    }

    fn prepare(&mut self) {
        for (constraint, tally) in self.constraints.iter_mut().zip(&self.tallies) {
            let (domains, least) =
                tally.live().fold((0, i64::MAX), |(domains, least), sum| (domains + 1, sum.min(least)));
            let too_few = domains < constraint.min_domains;
            constraint.least = if too_few || domains == 0 { 0 } else { least };
        }
    }

    fn filter(&self, domains: &[Domain]) -> Result<(), Refusal> {
        let hard =
            self.constraints.iter().zip(&self.tallies).zip(domains).filter(|((bound, _), _)| bound.hard);
        for ((bound, tally), domain) in hard {
            if domain.is_none() {
                return Err(Refusal::lasting(NO_LABEL));
            }
            let then = tally.at(*domain) + i64::from(bound.counts_itself);
            if then - bound.least > bound.max_skew {
                return Err(Refusal::crowded(SKEWED));
            }
        }
        Ok(())
    }

    fn scores(&self) -> bool {
        self.constraints.iter().any(|bound| !bound.hard)
    }

    /// How crowded the domains are; -1 where a node lacks a label and so gets the worst score.
    fn score(&self, domains: &[Domain]) -> i64 {
        let mut crowd = 0.0;
        let soft =
            self.constraints.iter().zip(&self.tallies).zip(domains).filter(|((bound, _), _)| !bound.hard);
        for ((bound, tally), domain) in soft {
            if domain.is_none() {
                return -1;
            }
            crowd += tally.at(*domain) as f64 * bound.weight + (bound.max_skew - 1) as f64;
        }
        (crowd * PER_POD).round() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        let known = || scores.iter().copied().filter(|score| *score >= 0);
        let (Some(least), Some(most)) = (known().min(), known().max()) else {
            return scores.fill(0);
        };
        for score in scores {
            *score = match *score {
                ..0 => 0,
                _ if most == 0 => MAX_SCORE,
                crowd => scaled(most + least - crowd, most),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::framework::Profile;
    use crate::placement::Placer;
    use crate::testing::{NodeBuilder, asking, pod, selector};

    fn constraint(key: &str, max_skew: i64, when_unsatisfiable: WhenUnsatisfiable) -> SpreadConstraint {
        SpreadConstraint {
            max_skew,
            topology_key: key.to_owned(),
            when_unsatisfiable,
            pods: selector("app", "web"),
            min_domains: 1,
            honor_affinity: true,
            honor_taints: false,
        }
    }

    fn web(spread: Vec<SpreadConstraint>) -> Shape {
        let mut shape = Shape { spread, ..asking(10, 10) };
        shape.labels.insert("app".to_owned(), "web".to_owned());
        shape
    }

    /// Two small nodes in zone a, one large one in zone b.
    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        for (name, zone, size) in [("a1", "a", 1000), ("a2", "a", 1000), ("b1", "b", 100_000)] {
            NodeBuilder::new(name)
                .label("zone", zone)
                .label("host", name)
                .offers(size, size)
                .join(&mut cluster);
        }
        NodeBuilder::new("nowhere").join(&mut cluster);
        cluster
    }

    fn place(cluster: &mut Cluster, shape: &Shape, count: usize) -> (BTreeMap<String, usize>, Vec<String>) {
        let mut placer = Placer::new(Profile::default());
        let (mut placed, mut failed) = (BTreeMap::new(), Vec::new());
        for index in 0..count {
            match placer.place(&pod(&format!("web-{index}"), shape.clone()), cluster) {
                Ok(slot) => *placed.entry(cluster.node(slot).unwrap().name.to_string()).or_default() += 1,
                Err(failure) => failed.push(failure.to_string()),
            }
        }
        (placed, failed)
    }

    #[test]
    fn a_hard_constraint_keeps_the_skew_between_zones() {
        let shape = web(vec![constraint("zone", 1, WhenUnsatisfiable::DoNotSchedule)]);
        let (placed, failed) = place(&mut cluster(), &shape, 6);
        assert_eq!(placed, BTreeMap::from([("a1".into(), 2), ("a2".into(), 1), ("b1".into(), 3)]));
        assert!(failed.is_empty());
    }

    #[test]
    fn nodes_that_would_skew_or_lack_the_label_are_told_apart() {
        let mut cluster = cluster();
        let shape = web(vec![constraint("zone", 1, WhenUnsatisfiable::DoNotSchedule)]);
        for uid in ["x", "y"] {
            cluster.set_pod(pod(uid, shape.clone()), "a1");
        }
        cluster.set_pod(pod("full", asking(100_000, 100_000)), "b1");
        let (_, failed) = place(&mut cluster, &shape, 1);
        assert_eq!(
            failed,
            [
                "0/4 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 node(s) didn't match pod \
              topology spread constraints (missing required label), 2 node(s) didn't match pod topology spread \
              constraints."
            ]
        );
    }

    #[test]
    fn a_soft_constraint_prefers_the_emptier_domain_but_never_refuses() {
        let shape = web(vec![constraint("host", 1, WhenUnsatisfiable::ScheduleAnyway)]);
        let mut cluster = cluster();
        cluster.remove_node("nowhere");
        let (placed, failed) = place(&mut cluster, &shape, 9);
        assert_eq!(placed.values().copied().collect::<Vec<_>>(), [3, 3, 3]);
        assert!(failed.is_empty());
    }

    #[test]
    fn with_fewer_domains_than_wanted_each_takes_max_skew_at_most() {
        let mut few = constraint("zone", 1, WhenUnsatisfiable::DoNotSchedule);
        few.min_domains = 3;
        let (placed, failed) = place(&mut cluster(), &web(vec![few]), 4);
        assert_eq!((placed.values().sum::<usize>(), failed.len()), (2, 2));
    }

    #[test]
    fn nodes_out_of_the_pods_reach_are_no_domain_to_wait_for() {
        let mut shape = web(vec![constraint("zone", 1, WhenUnsatisfiable::DoNotSchedule)]);
        shape.node_selector = vec![crate::selector::Requirement::is("zone", "a")];
        let (placed, failed) = place(&mut cluster(), &shape, 4);
        assert_eq!((placed.values().sum::<usize>(), failed.len()), (4, 0));
    }

    #[test]
    fn pods_on_their_way_out_are_not_counted() {
        let mut cluster = cluster();
        let shape = web(vec![constraint("zone", 1, WhenUnsatisfiable::DoNotSchedule)]);
        let leaving = Shape { terminating: true, ..shape.clone() };
        for uid in ["x", "y", "z"] {
            cluster.set_pod(pod(uid, leaving.clone()), "b1");
        }
        let (placed, _) = place(&mut cluster, &shape, 2);
        assert_eq!(placed.get("b1"), Some(&1));
    }

    #[test]
    fn domains_out_of_reach_count_or_not_as_the_policies_say() {
        let taint = crate::pod::Taint {
            key: "gpu".to_owned(),
            value: String::new(),
            effect: crate::pod::Effect::NoSchedule,
        };
        let placed = |zone: &str, honor_affinity: bool, honor_taints: bool| {
            let mut cluster = cluster();
            if zone.is_empty() {
                NodeBuilder::new("b1")
                    .label("zone", "b")
                    .change(|spec| spec.taints = vec![taint.clone()])
                    .join(&mut cluster);
            }
            let wish = constraint("zone", 1, WhenUnsatisfiable::DoNotSchedule);
            let mut shape = web(vec![SpreadConstraint { honor_affinity, honor_taints, ..wish }]);
            if !zone.is_empty() {
                shape.node_selector = vec![crate::selector::Requirement::is("zone", zone)];
            }
            place(&mut cluster, &shape, 4).0.values().sum::<usize>()
        };
        // Zone b cannot be used. Where it counts, one pod in zone a is all that the skew allows.
        assert_eq!((placed("a", true, false), placed("a", false, false)), (4, 1));
        assert_eq!((placed("", true, true), placed("", true, false)), (4, 1));
    }

    #[test]
    fn more_domains_are_waited_for_only_where_the_constraint_is_hard() {
        let mut few = constraint("zone", 1, WhenUnsatisfiable::ScheduleAnyway);
        few.min_domains = 3;
        let (placed, failed) = place(&mut cluster(), &web(vec![few]), 4);
        assert_eq!((placed.values().sum::<usize>(), failed.len()), (4, 0));
    }
}
