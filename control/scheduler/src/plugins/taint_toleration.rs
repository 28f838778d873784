//! Taints keep pods off a node (`NoSchedule`, `NoExecute`) or make it less welcome (`PreferNoSchedule`), unless
//! tolerated.

use crate::cluster::Cluster;
use crate::framework::{Events, Filter, MAX_SCORE, Reads, Reason, Refusal, Score, stretch};
use crate::node::Candidate;
use crate::pod::{Effect, Shape, Taint};

#[derive(Clone, Copy, Debug)]
pub struct TaintToleration;

const NAME: &str = "TaintToleration";

impl TaintToleration {
    /// The first taint that forbids the node to the pod.
    pub fn forbids<'a>(pod: &Shape, node: Candidate<'a>) -> Option<&'a Taint> {
        let mut hard = node.spec.taints.iter().filter(|taint| taint.effect != Effect::PreferNoSchedule);
        hard.find(|taint| !tolerates(pod, taint))
    }
}

fn tolerates(pod: &Shape, taint: &Taint) -> bool {
    pod.tolerations.iter().any(|toleration| toleration.tolerates(taint))
}

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }

    fn helped_by(&self) -> Events {
        Events::NODE_ADDED | Events::NODE_UNTAINTED
    }

    fn filter(&self, pod: &Shape, node: Candidate<'_>) -> Result<(), Refusal> {
        match Self::forbids(pod, node) {
            None => Ok(()),
            Some(Taint { key, value, .. }) => {
                let words = format!("node(s) had untolerated taint {{{key}: {value}}}");
                Err(Refusal::lasting(Reason::new(words)))
            }
        }
    }
}

impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }

    fn score(&self, pod: &Shape, node: Candidate<'_>, _cluster: &Cluster) -> i64 {
        let soft = node.spec.taints.iter().filter(|taint| taint.effect == Effect::PreferNoSchedule);
        soft.filter(|taint| !tolerates(pod, taint)).count() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        stretch(scores);
        for score in scores {
            *score = MAX_SCORE - *score;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Toleration;
    use crate::testing::{NodeBuilder, shape};

    fn taint(key: &str, value: &str, effect: Effect) -> Taint {
        Taint { key: key.to_owned(), value: value.to_owned(), effect }
    }

    fn toleration(key: &str, value: Option<&str>, effect: Option<Effect>) -> Toleration {
        Toleration { key: key.to_owned(), value: value.map(str::to_owned), effect }
    }

    #[test]
    fn taints_hold_unless_key_value_and_effect_are_tolerated() {
        let gpu = taint("gpu", "yes", Effect::NoSchedule);
        let cases = [
            (gpu.clone(), vec![], false),
            (gpu.clone(), vec![toleration("gpu", Some("yes"), None)], true),
            (gpu.clone(), vec![toleration("gpu", Some("no"), None)], false),
            (gpu.clone(), vec![toleration("gpu", None, None)], true),
            (gpu.clone(), vec![toleration("gpu", None, Some(Effect::NoExecute))], false),
            (gpu.clone(), vec![toleration("", None, None)], true),
            (gpu, vec![toleration("disk", None, None)], false),
            (taint("dying", "", Effect::NoExecute), vec![], false),
            (taint("slow", "", Effect::PreferNoSchedule), vec![], true),
        ];
        for (taint, tolerations, fits) in cases {
            let node = NodeBuilder::new("one").change(|spec| spec.taints = vec![taint.clone()]).build();
            let pod = Shape { tolerations: tolerations.clone(), ..shape() };
            let verdict = TaintToleration.filter(&pod, node.candidate().unwrap());
            assert_eq!(verdict.is_ok(), fits, "{taint:?} {tolerations:?}");
        }
    }

    #[test]
    fn the_reason_names_the_taint() {
        let taints = vec![taint("gpu", "yes", Effect::NoSchedule)];
        let node = NodeBuilder::new("one").change(|spec| spec.taints = taints).build();
        let refusal = TaintToleration.filter(&shape(), node.candidate().unwrap()).unwrap_err();
        assert_eq!(refusal.reasons[0].to_string(), "node(s) had untolerated taint {gpu: yes}");
    }

    #[test]
    fn nodes_without_unwelcoming_taints_score_best() {
        let soft = |count: usize| {
            (0..count).map(|i| taint(&format!("k{i}"), "", Effect::PreferNoSchedule)).collect()
        };
        let cluster = Cluster::default();
        let score = |count| {
            let node = NodeBuilder::new("one").change(|spec| spec.taints = soft(count)).build();
            TaintToleration.score(&shape(), node.candidate().unwrap(), &cluster)
        };
        let mut scores = [score(0), score(1), score(2)];
        TaintToleration.normalize(&mut scores);
        assert_eq!(scores, [MAX_SCORE, MAX_SCORE / 2, 0]);
    }
}
