//! Which pods have to leave for one that fits nowhere, as Kubernetes' plugin DefaultPreemption decides it.
//!
//! On each node that only other pods stand in the way of, all pods of lower priority are taken away, and as many as
//! possible are let back, the most important first; who is left over are the node's victims. Of a bounded number of
//! such nodes the one is chosen whose victims matter least. Nothing is changed here: the caller makes the victims
//! leave, and holds the node for the pod meanwhile.
//!
//! Pure. Invariants: victims have a lower priority than the pod; without them it fits.
//! Left out: budgets (PodDisruptionBudget), which the cluster does not have yet.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::cluster::{Cluster, Slot};
use crate::evaluation::Evaluation;
use crate::failure::Failure;
use crate::framework::{Profile, Reason, Refusal};
use crate::pod::PodInfo;
use crate::settings;

const NOT_HELPFUL: Reason = Reason::fixed("Preemption is not helpful for scheduling");
const NO_VICTIMS: Reason = Reason::fixed("No preemption victims found for incoming pod");

/// What can be done for a pod that fits nowhere.
#[derive(Clone, Debug)]
pub enum Preemption {
    /// Nothing for now: the pod may not make others leave.
    Ineligible(&'static str),
    /// Nothing: it would fit nowhere even then.
    Fruitless(Arc<Failure>),
    /// It fits on a node once these have left, the most important first.
    Victims { slot: Slot, pods: Vec<Arc<PodInfo>> },
}

/// Chooses victims, and remembers where to look next.
#[derive(Debug)]
pub struct Preemptor {
    settings: settings::Preemption,
    /// Each search begins where the last one ended, so that no node is always the first to suffer.
    offset: usize,
}

impl Preemptor {
    pub fn new(settings: settings::Preemption) -> Self {
        Self { settings, offset: 0 }
    }

    /// Whether the pod may make others leave; if not, why.
    pub fn check(pod: &PodInfo, failure: &Failure, cluster: &Cluster) -> Result<(), &'static str> {
        if !pod.preempts {
            return Err("not eligible due to preemptionPolicy=Never.");
        }
        let nominated = cluster.nominations.node_of(&pod.uid).and_then(|node| cluster.slot(node));
        // A node that has come to be out of the question is not waited for.
        let waits = |slot: Slot| {
            failure.crowded().binary_search(&slot).is_ok() && cluster.makes_room(slot, pod.priority)
        };
        if nominated.is_some_and(waits) {
            return Err("not eligible due to terminating pod on the nominated node.");
        }
        Ok(())
    }

    /// For an eligible pod. The evaluation must be of its shape and up to date.
    pub fn search(
        &mut self,
        pod: &PodInfo,
        failure: &Failure,
        evaluation: &mut Evaluation,
        profile: &Profile,
        cluster: &Cluster,
    ) -> Preemption {
        if let Some(known) = evaluation.fruitless(pod, cluster) {
            return Preemption::Fruitless(known);
        }
        let crowded = failure.crowded();
        let mut why = Failure::new(failure.nodes());
        why.holds(NOT_HELPFUL, failure.nodes().saturating_sub(crowded.len()));
        let mut found: Vec<(Cost, Slot, Vec<Arc<PodInfo>>)> = Vec::new();
        if cluster.lowest_priority().is_some_and(|lowest| lowest < pod.priority) {
            let wanted = self.candidates_of(crowded.len());
            for index in 0..crowded.len() {
                if found.len() >= wanted {
                    break;
                }
                let slot = crowded[self.offset % crowded.len()];
                self.offset = (self.offset + 1) % crowded.len();
                match victims(pod, slot, evaluation, profile, cluster) {
                    Ok(victims) => found.push((Cost::of(&victims, index, cluster), slot, victims)),
                    Err(refusal) => refusal.reasons.into_iter().for_each(|reason| why.holds(reason, 1)),
                }
            }
        } else {
            why.holds(NO_VICTIMS, crowded.len());
        }
        match found.into_iter().min_by_key(|(cost, ..)| *cost) {
            Some((_, slot, pods)) => Preemption::Victims { slot, pods },
            None => {
                let why = Arc::new(why);
                evaluation.set_fruitless(pod, cluster, &why);
                Preemption::Fruitless(why)
            }
        }
    }

    /// What to say of a pod that no plugin can serve.
    pub fn hopeless(failure: &Failure) -> Preemption {
        let mut why = Failure::new(failure.nodes());
        why.holds(NOT_HELPFUL, failure.nodes());
        Preemption::Fruitless(Arc::new(why))
    }

    fn candidates_of(&self, nodes: usize) -> usize {
        let share = nodes * self.settings.candidates_percentage / 100;
        share.max(self.settings.candidates_absolute).min(nodes)
    }
}

/// What choosing a node costs; Kubernetes' order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    highest_priority: i32,
    /// Priorities raised to be positive, so that fewer victims cost less.
    sum_of_priorities: i64,
    victims: usize,
    /// When the first of the most important victims was started: the later the better.
    started: Reverse<i64>,
    index: usize,
}

impl Cost {
    /// Of victims that are sorted by importance.
    fn of(victims: &[Arc<PodInfo>], index: usize, cluster: &Cluster) -> Self {
        let highest_priority = victims.first().map_or(i32::MIN, |pod| pod.priority);
        let highest = victims.iter().take_while(|pod| pod.priority == highest_priority);
        Self {
            highest_priority,
            sum_of_priorities: victims.iter().map(|pod| i64::from(pod.priority) + (1 << 31)).sum(),
            victims: victims.len(),
            started: Reverse(highest.map(|pod| started(pod, cluster)).min().unwrap_or(i64::MAX)),
            index,
        }
    }
}

/// A pod that was not started yet counts as the youngest.
fn started(pod: &PodInfo, cluster: &Cluster) -> i64 {
    cluster.started(&pod.uid).unwrap_or(i64::MAX)
}

/// Who has to leave the node for the pod, the most important first; or why that would not help.
fn victims(
    pod: &PodInfo,
    slot: Slot,
    evaluation: &mut Evaluation,
    profile: &Profile,
    cluster: &Cluster,
) -> Result<Vec<Arc<PodInfo>>, Refusal> {
    let Some(node) = cluster.node(slot) else { return Err(Refusal::lasting(NO_VICTIMS)) };
    let lower = node.pods.values().filter(|other| other.priority < pod.priority);
    let mut lower: Vec<Arc<PodInfo>> = lower.cloned().collect();
    let trial = (!lower.is_empty()).then(|| evaluation.trial(slot, profile, cluster)).flatten();
    let Some(mut trial) = trial else { return Err(Refusal::lasting(NO_VICTIMS)) };
    lower.sort_by_cached_key(|other| (Reverse(other.priority), started(other, cluster), other.uid.clone()));
    for other in &lower {
        trial.remove(other);
    }
    let expected = cluster.expected(slot, pod);
    trial.verdict(&expected).map_err(|(_, refusal)| refusal)?;
    lower.retain(|other| {
        trial.add(other.clone());
        let fits = trial.verdict(&expected).is_ok();
        if !fits {
            trial.remove(other);
        }
        !fits
    });
    if lower.is_empty() { Err(Refusal::lasting(NO_VICTIMS)) } else { Ok(lower) }
}

#[cfg(test)]
mod tests;
