//! Where the next pod of a shape goes. Pure: reads and marks the cluster state, no I/O.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cluster::{Cluster, Slot};
use crate::evaluation::Evaluation;
use crate::failure::Failure;
use crate::framework::Profile;
use crate::pod::{PodInfo, Shape};
use crate::preemption::{Preemption, Preemptor};

/// Shapes whose evaluations are kept.
const KEPT_EVALUATIONS: usize = 64;

#[derive(Debug)]
pub struct Placer {
    profile: Profile,
    preemptor: Preemptor,
    evaluations: HashMap<Arc<Shape>, Kept>,
    clock: u64,
}

#[derive(Debug)]
struct Kept {
    evaluation: Evaluation,
    used: u64,
}

impl Placer {
    pub fn new(profile: Profile) -> Self {
        let preemptor = Preemptor::new(profile.preemption);
        Self { profile, preemptor, evaluations: HashMap::new(), clock: 0 }
    }

    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Chooses a node for the pod and assumes it there.
    pub fn place(&mut self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Result<Slot, Arc<Failure>> {
        if !pod.shape.unsupported.is_empty() {
            let failure = Failure::unsupported(cluster.candidate_count(), &pod.shape.unsupported);
            return Err(Arc::new(failure));
        }
        self.refresh(&pod.shape, cluster);
        let Some(kept) = self.evaluations.get_mut(&pod.shape) else {
            return Err(Arc::new(Failure::new(cluster.candidate_count())));
        };
        kept.used = self.clock;
        let best = match cluster.nominations.is_empty() {
            true => kept.evaluation.best(),
            false => best_but_held(pod, &mut kept.evaluation, &self.profile, cluster),
        };
        match best {
            Some(slot) => {
                cluster.assume(pod.clone(), slot);
                Ok(slot)
            }
            None => Err(kept.evaluation.failure(pod, &self.profile, cluster)),
        }
    }

    /// What can be done for a pod that [`Self::place`] has just failed to place.
    pub fn preempt(&mut self, pod: &PodInfo, failure: &Failure, cluster: &Cluster) -> Preemption {
        if let Err(why) = Preemptor::check(pod, failure, cluster) {
            return Preemption::Ineligible(why);
        }
        match self.evaluations.get_mut(&pod.shape) {
            Some(kept) if pod.shape.unsupported.is_empty() => {
                self.preemptor.search(pod, failure, &mut kept.evaluation, &self.profile, cluster)
            }
            _ => Preemptor::hopeless(failure),
        }
    }

    /// Makes sure that the shape has an evaluation that reflects the cluster as it is.
    fn refresh(&mut self, shape: &Arc<Shape>, cluster: &mut Cluster) {
        self.clock += 1;
        if let Some(kept) = self.evaluations.get_mut(shape)
            && kept.evaluation.catch_up(&self.profile, cluster)
        {
            return;
        }
        self.discard(&shape.clone(), cluster);
        if self.evaluations.len() >= KEPT_EVALUATIONS
            && let Some(oldest) = self.evaluations.iter().min_by_key(|(_, kept)| kept.used)
        {
            self.discard(&oldest.0.clone(), cluster);
        }
        let evaluation = Evaluation::new(shape.clone(), &self.profile, cluster);
        self.evaluations.insert(shape.clone(), Kept { evaluation, used: self.clock });
    }

    /// Drops all evaluations, and gives their counters back.
    pub fn forget_all(&mut self, cluster: &mut Cluster) {
        for (_, kept) in self.evaluations.drain() {
            kept.evaluation.release(cluster);
        }
    }

    fn discard(&mut self, shape: &Arc<Shape>, cluster: &mut Cluster) {
        if let Some(kept) = self.evaluations.remove(shape) {
            kept.evaluation.release(cluster);
        }
    }
}

/// The best node for the pod while some nodes are held for pods: its own, if one is held for it; none that a pod
/// of the same priority or above would no longer fit on.
fn best_but_held(
    pod: &PodInfo,
    evaluation: &mut Evaluation,
    profile: &Profile,
    cluster: &Cluster,
) -> Option<Slot> {
    let fits = |evaluation: &mut Evaluation, slot: Slot| {
        let expected = cluster.expected(slot, pod);
        evaluation.trial(slot, profile, cluster).is_some_and(|mut trial| trial.verdict(&expected).is_ok())
    };
    let own = cluster.nominations.node_of(&pod.uid).and_then(|node| cluster.slot(node));
    if let Some(own) = own.filter(|own| fits(evaluation, *own)) {
        return Some(own);
    }
    let mut aside = Vec::new();
    let best = loop {
        let Some(slot) = evaluation.best() else { break None };
        if cluster.expected(slot, pod).is_empty() || fits(evaluation, slot) {
            break Some(slot);
        }
        match evaluation.set_aside(slot) {
            Some(taken) => aside.push(taken),
            None => break None,
        }
    };
    evaluation.put_back(aside);
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pod::{PodAffinity, PodTerm, SpreadConstraint, WhenUnsatisfiable};
    use crate::testing::{NodeBuilder, asking, pod, selector};

    /// What happens to a cluster, one step at a time.
    #[derive(Clone, Debug)]
    enum Step {
        Place {
            kind: usize,
        },
        /// The pod placed that many placements ago ends.
        End {
            ago: usize,
        },
        Resize {
            node: usize,
            milli_cpu: i64,
        },
        Cordon {
            node: usize,
            cordoned: bool,
        },
        Leave {
            node: usize,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            8 => (0..6_usize).prop_map(|kind| Step::Place { kind }),
            3 => (1..20_usize).prop_map(|ago| Step::End { ago }),
            1 => (0..6_usize, 100..2_000_i64).prop_map(|(node, milli_cpu)| Step::Resize { node, milli_cpu }),
            1 => (0..6_usize, any::<bool>()).prop_map(|(node, cordoned)| Step::Cordon { node, cordoned }),
            1 => (0..6_usize).prop_map(|node| Step::Leave { node }),
        ];
        prop::collection::vec(step, 1..80)
    }

    /// Plain pods of three sizes, and ones that use each topology plugin.
    fn shape(kind: usize) -> Shape {
        let mut shape = asking(50 + 70 * kind as i64, 100 + 30 * kind as i64);
        shape.labels.insert("app".to_owned(), format!("app-{kind}"));
        let term =
            |key: &str, app: &str| PodTerm { pods: selector("app", app), topology_key: key.to_owned() };
        let when_unsatisfiable = match kind {
            3 => WhenUnsatisfiable::DoNotSchedule,
            _ => WhenUnsatisfiable::ScheduleAnyway,
        };
        if kind == 3 || kind == 4 {
            shape.spread.push(SpreadConstraint {
                max_skew: 1,
                topology_key: "zone".to_owned(),
                when_unsatisfiable,
                pods: selector("app", &format!("app-{kind}")),
                min_domains: 1,
                honor_affinity: true,
                honor_taints: true,
            });
        }
        if kind == 5 {
            let anti_required = vec![term("host", "app-5"), term("zone", "app-0")];
            shape.affinity = PodAffinity { anti_required, ..PodAffinity::default() };
        }
        shape
    }

    fn node(index: usize) -> NodeBuilder {
        let name = format!("node-{index}");
        NodeBuilder::new(&name)
            .label("zone", if index.is_multiple_of(2) { "even" } else { "odd" })
            .label("host", &name)
            .offers(1_000 + 200 * index as i64, 2_000)
            .pods_allowed(12)
    }

    #[derive(Debug)]
    struct Run {
        cluster: Cluster,
        placed: Vec<Arc<str>>,
    }

    impl Run {
        fn new() -> Self {
            let mut cluster = Cluster::default();
            (0..6).for_each(|index| node(index).join(&mut cluster));
            Self { cluster, placed: Vec::new() }
        }

        /// The node a pod was placed on, or why it was not, where the step placed one.
        fn step(&mut self, index: usize, step: &Step, placer: &mut Placer) -> Option<String> {
            let cluster = &mut self.cluster;
            match step {
                Step::Place { kind } => {
                    let pod = pod(&format!("pod-{index}"), shape(*kind));
                    let outcome = placer.place(&pod, cluster);
                    if outcome.is_ok() {
                        self.placed.push(pod.uid.clone());
                    }
                    let name =
                        |slot| cluster.node(slot).map(|node| node.name.to_string()).unwrap_or_default();
                    return Some(outcome.map_or_else(|failure| failure.to_string(), name));
                }
                Step::End { ago } => {
                    if let Some(index) = self.placed.len().checked_sub(*ago) {
                        cluster.remove_pod(&self.placed.remove(index));
                    }
                }
                Step::Resize { node: index, milli_cpu } => {
                    node(*index).offers(*milli_cpu, 2_000).join(cluster)
                }
                Step::Cordon { node: index, cordoned } => {
                    node(*index).change(|spec| spec.unschedulable = *cordoned).join(cluster);
                }
                Step::Leave { node } => cluster.remove_node(&format!("node-{node}")),
            }
            None
        }
    }

    proptest! {
        #[test]
        fn catching_up_decides_as_evaluating_anew_does(steps in steps()) {
            let (mut kept, mut anew) = (Run::new(), Run::new());
            let mut placer = Placer::new(Profile::default());
            for (index, step) in steps.iter().enumerate() {
                let mut fresh = Placer::new(Profile::default());
                let expected = anew.step(index, step, &mut fresh);
                fresh.forget_all(&mut anew.cluster);
                prop_assert_eq!(kept.step(index, step, &mut placer), expected);
            }
        }

        #[test]
        fn no_node_is_ever_given_more_than_it_has(steps in steps()) {
            let mut run = Run::new();
            let mut placer = Placer::new(Profile::default());
            for (index, step) in steps.iter().enumerate() {
                let before: Vec<usize> = loads(&run.cluster);
                run.step(index, step, &mut placer);
                for ((slot, node), before) in run.cluster.candidates().zip(before) {
                    // A node that shrank may be too small for what it had, but takes no more.
                    if matches!(step, Step::Place { .. }) && node.load.pods.len() > before {
                        prop_assert!(node.load.requested.milli_cpu <= node.spec.allocatable.milli_cpu, "{slot}");
                        prop_assert!(node.load.requested.memory <= node.spec.allocatable.memory, "{slot}");
                        prop_assert!(node.load.pods.len() as i64 <= node.spec.pods_allowed, "{slot}");
                        prop_assert!(!node.spec.unschedulable, "{slot}");
                    }
                }
            }
        }

        #[test]
        fn equal_pods_spread_evenly_over_equal_nodes(
            nodes in 1..12_usize, pods in 1..60_usize, milli_cpu in 0..30_i64, memory in 0..60_i64,
        ) {
            let mut cluster = Cluster::default();
            for index in 0..nodes {
                NodeBuilder::new(&format!("node-{index}")).offers(10_000, 10_000).join(&mut cluster);
            }
            let mut placer = Placer::new(Profile::default());
            for index in 0..pods {
                prop_assert!(placer.place(&pod(&index.to_string(), asking(milli_cpu, memory)), &mut cluster).is_ok());
            }
            let loads = loads(&cluster);
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{loads:?}");
        }
    }

    fn loads(cluster: &Cluster) -> Vec<usize> {
        cluster.candidates().map(|(_, node)| node.load.pods.len()).collect()
    }

    #[test]
    fn equal_histories_give_equal_placements() {
        let place_all = || {
            let mut run = Run::new();
            let mut placer = Placer::new(Profile::default());
            let place = |index| run.step(index, &Step::Place { kind: index % 6 }, &mut placer);
            (0..50).map(place).collect::<Vec<_>>()
        };
        assert_eq!(place_all(), place_all());
    }

    #[test]
    fn more_shapes_than_are_kept_leave_no_counters_behind() {
        let mut run = Run::new();
        let mut placer = Placer::new(Profile::default());
        for index in 0..3 * KEPT_EVALUATIONS {
            let mut shape = shape(5);
            shape.labels.insert("copy".to_owned(), index.to_string());
            if placer.place(&pod(&index.to_string(), shape), &mut run.cluster).is_ok() {
                run.cluster.remove_pod(&index.to_string());
            }
        }
        placer.forget_all(&mut run.cluster);
        assert_eq!(run.cluster.counters.len(), 0);
    }

    #[test]
    fn what_no_plugin_can_give_is_refused_by_name() {
        let mut run = Run::new();
        let unsupported = vec!["persistent volume claims are not supported yet".to_owned()];
        let shape = Shape { unsupported, ..shape(0) };
        let failure = Placer::new(Profile::default()).place(&pod("a", shape), &mut run.cluster).unwrap_err();
        let expected = "0/6 nodes are available: persistent volume claims are not supported yet.";
        assert_eq!(failure.to_string(), expected);
        assert_eq!(loads(&run.cluster), [0; 6]);
    }

    #[test]
    fn a_lone_big_pod_finds_the_room_that_a_removed_pod_left() {
        let mut cluster = Cluster::default();
        NodeBuilder::new("one").offers(1_000, 1_000).pod("small", asking(500, 500)).join(&mut cluster);
        let mut placer = Placer::new(Profile::default());
        let big = pod("big", asking(800, 800));
        assert!(placer.place(&big, &mut cluster).is_err());
        cluster.remove_pod("small");
        assert_eq!(placer.place(&big, &mut cluster).ok(), cluster.slot("one"));
        assert!(cluster.is_assumed("big"));
    }
}
