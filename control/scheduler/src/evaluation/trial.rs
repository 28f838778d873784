//! What if: a shape held against one node with other pods on it than there are.
//!
//! The node's load is a copy; what a rule has counted is shifted in place and put right again when the trial ends.

use std::sync::Arc;

use super::Evaluation;
use crate::cluster::{Cluster, Slot};
use crate::framework::{Profile, Refusal};
use crate::node::{Candidate, Node};
use crate::pod::{PodInfo, Shape};
use crate::tally::Tally;

#[derive(Debug)]
pub struct Trial<'a> {
    evaluation: &'a mut Evaluation,
    profile: &'a Profile,
    cluster: &'a Cluster,
    slot: Slot,
    load: Node,
    /// By how much each tally is shifted, in the order of rules and tallies.
    shifts: Vec<i64>,
}

impl Evaluation {
    /// `None`: there is no such node. The evaluation must be up to date.
    pub fn trial<'a>(
        &'a mut self,
        slot: Slot,
        profile: &'a Profile,
        cluster: &'a Cluster,
    ) -> Option<Trial<'a>> {
        let load = cluster.candidate(slot)?.load.clone();
        self.standing.get(slot)?;
        let shifts = vec![0; self.tallies().count()];
        Some(Trial { evaluation: self, profile, cluster, slot, load, shifts })
    }

    fn tallies(&mut self) -> impl Iterator<Item = &mut Tally> {
        self.rules.iter_mut().flat_map(|bound| bound.rule.tallies_mut())
    }
}

impl Trial<'_> {
    pub fn remove(&mut self, pod: &PodInfo) {
        self.load.remove(&pod.uid);
        self.shift(&pod.shape, -1);
    }

    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.shift(&pod.shape, 1);
        self.load.add(pod);
    }

    /// Whether the pod may go here: beside the pods that are expected on the node, and also without them, for they
    /// may yet go elsewhere. Otherwise the plugin that turns it away.
    pub fn verdict(&mut self, expected: &[Arc<PodInfo>]) -> Result<(), (usize, Refusal)> {
        if !expected.is_empty() {
            for pod in expected {
                self.add(pod.clone());
            }
            let verdict = self.once().and_then(|()| self.opposition(expected));
            for pod in expected {
                self.remove(pod);
            }
            verdict?;
        }
        self.once()
    }

    fn once(&mut self) -> Result<(), (usize, Refusal)> {
        let Some(spec) = &self.load.spec else { return Ok(()) };
        let node = Candidate { spec, load: &self.load };
        self.evaluation.prepare();
        self.evaluation.verdict(self.slot, node, self.profile)
    }

    fn opposition(&self, expected: &[Arc<PodInfo>]) -> Result<(), (usize, Refusal)> {
        let Some(spec) = &self.load.spec else { return Ok(()) };
        let node = Candidate { spec, load: &self.load };
        let (shape, namespaces) = (&self.evaluation.shape, &self.cluster.namespaces);
        for (index, (_, plugin)) in self.profile.topologies.iter().enumerate() {
            let opposes = |pod: &Arc<PodInfo>| plugin.opposed_by(&pod.shape, shape, node, namespaces);
            if let Some(refusal) = expected.iter().find_map(opposes) {
                return Err((self.profile.filters.len() + index, refusal));
            }
        }
        Ok(())
    }

    fn shift(&mut self, pod: &Shape, by: i64) {
        for (tally, shift) in self.evaluation.tallies().zip(&mut self.shifts) {
            if self.cluster.counters.counts(tally.counter(), pod, &self.cluster.namespaces) {
                tally.shift(self.slot, by);
                *shift += by;
            }
        }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        for (tally, shift) in self.evaluation.tallies().zip(&self.shifts) {
            tally.shift(self.slot, -shift);
        }
        self.evaluation.prepare();
    }
}
