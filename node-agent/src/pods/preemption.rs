//! Room for a critical pod: who has to go where resources do not suffice, as the kubelet chooses.
//!
//! A static pod, or one of priority 2,000,000,000 and above, is not refused for want of resources while pods that matter
//! less have them. Best-effort pods go first, then burstable, guaranteed ones last, and of each as few as will do: the
//! pod whose requests come nearest to what is missing, the smaller of two that are equally near.
//!
//! They end as the kubelet has it: with reason Preempting, and with their own grace period; the critical pod's worker
//! begins when their containers have ended. Nothing of that is kept: an agent that is killed meanwhile finds the same
//! shortage, and the same victims.

use std::collections::BTreeMap;
use std::time::Duration;

use weir_proto::core::v1::Pod;
use weir_runtime::cgroup::QosClass;
use weir_runtime::{ContainerState, Runtime};

use super::eviction::{Ending, Endings, own_grace};
use super::fit::{Lack, requests};
use super::mirror::is_critical;
use super::resources;
use crate::metrics::PREEMPTIONS;

const REASON: &str = "Preempting";
const MESSAGE: &str = "Preempted in order to admit critical pod";
/// How often it is looked whether the victims have ended.
const LOOK: Duration = Duration::from_millis(50);

/// What is missing, by resource, in the units of [`requests`]; nothing of it is 0 or less.
type Missing = BTreeMap<String, i128>;

/// A pod that may have to go.
#[derive(Clone, Debug)]
struct Candidate<'a> {
    pod: &'a Pod,
    requests: BTreeMap<String, i128>,
}

impl Candidate<'_> {
    fn holds(&self, resource: &str) -> i128 {
        // Of places for pods it has one.
        if resource == "pods" { 1 } else { self.requests.get(resource).copied().unwrap_or(0) }
    }

    fn take_from(&self, missing: &mut Missing) {
        missing.retain(|resource, amount| {
            *amount -= self.holds(resource);
            *amount > 0
        });
    }

    /// How much would still be missing without it: 0, and 1 for each resource of which it has nothing.
    fn distance(&self, missing: &Missing) -> f64 {
        let left = |(resource, amount): (&String, &i128)| {
            let left = (amount - self.holds(resource)).max(0);
            (left as f64 / *amount as f64).powi(2)
        };
        missing.iter().map(left).sum()
    }

    fn size(&self) -> (i128, i128) {
        (self.holds("memory"), self.holds("cpu"))
    }
}

/// The pods that have to go for a pod that lacks something here; `Err` says what no pod that matters less has. Pure.
pub(super) fn victims<'a>(
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod>,
    lacks: &[Lack],
) -> Result<Vec<&'a Pod>, String> {
    let missing: Missing = lacks.iter().map(|lack| (lack.resource.clone(), lack.missing())).collect();
    let [mut best_effort, mut burstable, mut guaranteed] = [const { Vec::new() }; 3];
    for other in others.filter(|other| is_preemptable(pod, other)) {
        let class = match resources::qos(other.spec()) {
            QosClass::BestEffort => &mut best_effort,
            QosClass::Burstable => &mut burstable,
            QosClass::Guaranteed => &mut guaranteed,
        };
        class.push(Candidate { pod: other, requests: requests(other.spec()) });
    }
    let without = |gone: &[&[Candidate<'a>]]| {
        let mut left = missing.clone();
        gone.iter().copied().flatten().for_each(|candidate| candidate.take_from(&mut left));
        left
    };
    let unmet = without(&[&best_effort, &burstable, &guaranteed]);
    if !unmet.is_empty() {
        let listed = unmet.iter().map(|(resource, amount)| format!("(res: {resource}, q: {amount}), "));
        let listed: String = listed.collect();
        return Err(format!(
            "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of \
             pods to preempt: no set of running pods found to reclaim resources: [{listed}]"
        ));
    }
    let guaranteed = nearest(guaranteed, without(&[&best_effort, &burstable]));
    let burstable = nearest(burstable, without(&[&best_effort, &guaranteed]));
    let best_effort = nearest(best_effort, without(&[&burstable, &guaranteed]));
    Ok([best_effort, burstable, guaranteed].into_iter().flatten().map(|candidate| candidate.pod).collect())
}

fn is_preemptable(pod: &Pod, other: &Pod) -> bool {
    let by_priority = pod.spec().priority.zip(other.spec().priority).is_some_and(|(own, its)| own > its);
    is_critical(pod) && !is_critical(other) || by_priority
}

/// As few as will do, of candidates that suffice.
fn nearest<'a>(mut candidates: Vec<Candidate<'a>>, mut missing: Missing) -> Vec<Candidate<'a>> {
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let order = |(_, a): &(usize, &Candidate<'_>), (_, b): &(usize, &Candidate<'_>)| {
            a.distance(&missing).total_cmp(&b.distance(&missing)).then_with(|| a.size().cmp(&b.size()))
        };
        let Some((index, _)) = candidates.iter().enumerate().min_by(order) else { return chosen };
        let candidate = candidates.swap_remove(index);
        candidate.take_from(&mut missing);
        chosen.push(candidate);
    }
    chosen
}

/// Tells the victims to end. `lacks` is what they end for.
pub(super) fn order(endings: &Endings, victims: &[&Pod], lacks: &[Lack]) {
    for pod in victims {
        endings.order(&pod.meta().uid, Ending::of_running(REASON, MESSAGE, own_grace(pod)));
        if let Some(first) = lacks.first() {
            PREEMPTIONS.with_label_values(&[&first.resource]).inc();
        }
    }
}

/// Returns when nothing of these pods runs any more.
pub(super) async fn gone(runtime: &Runtime, uids: &[String]) {
    let runs = |uid: &String| {
        runtime.list_pod(uid).iter().any(|run| !matches!(run.state, ContainerState::Exited(_)))
    };
    while uids.iter().any(runs) {
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::yaml;

    use super::*;

    fn pod(name: &str, spec: &str) -> Pod {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {spec}\n");
        let document = yaml::documents(&text).expect("YAML").remove(0);
        let kind = <Pod as weir_proto::Resource>::KIND;
        let object = kind.from_json(&document.value, &mut Vec::new()).expect("a pod");
        object.downcast_ref::<Pod>().expect("a pod").clone()
    }

    /// Requests of CPU and memory; with limits of the same, a guaranteed pod.
    fn asking(name: &str, class: &str, cpu: u32, memory: u32) -> Pod {
        let amounts = format!("{{cpu: {cpu}m, memory: {memory}Mi}}");
        let resources = match class {
            "guaranteed" => format!("{{requests: {amounts}, limits: {amounts}}}"),
            "burstable" => format!("{{requests: {amounts}}}"),
            _ => "{}".to_owned(),
        };
        pod(name, &format!("{{priority: 0, containers: [{{name: a, image: x, resources: {resources}}}]}}"))
    }

    fn critical() -> Pod {
        pod("critical", "{priority: 2000001000, containers: [{name: a, image: x}]}")
    }

    fn lack(resource: &str, missing: i128) -> Lack {
        Lack { resource: resource.to_owned(), requested: missing + 10, used: 10, capacity: 20 }
    }

    fn chosen(others: &[Pod], lacks: &[Lack]) -> Result<Vec<String>, String> {
        let victims = victims(&critical(), others.iter(), lacks)?;
        Ok(victims.into_iter().map(|pod| pod.meta().name.clone()).collect())
    }

    const MI: i128 = 1 << 20;

    #[test]
    fn guaranteed_pods_go_last_and_of_each_class_as_few_as_will_do() {
        let others = [
            asking("g-small", "guaranteed", 100, 100),
            asking("g-large", "guaranteed", 1000, 1000),
            asking("b-small", "burstable", 100, 100),
            asking("b-large", "burstable", 200, 400),
            asking("b-other", "burstable", 50, 300),
            asking("none", "best-effort", 0, 0),
        ];
        let cases: [(&[Lack], &[&str]); 8] = [
            // One alone suffices: the one of least memory that does.
            (&[lack("cpu", 40)], &["b-small"]),
            (&[lack("cpu", 100)], &["b-small"]),
            (&[lack("cpu", 150)], &["b-large"]),
            (&[lack("cpu", 100), lack("memory", 350 * MI)], &["b-large"]),
            // Two of them, before any guaranteed one.
            (&[lack("memory", 650 * MI)], &["b-large", "b-other"]),
            // What all of the others do not have.
            (&[lack("cpu", 400)], &["b-large", "b-small", "g-small"]),
            (&[lack("cpu", 900)], &["g-large"]),
            (&[lack("pods", 1)], &["none"]),
        ];
        for (lacks, expected) in cases {
            let mut chosen = chosen(&others, lacks).expect("victims");
            chosen.sort_unstable();
            let mut expected = expected.to_vec();
            expected.sort_unstable();
            assert_eq!(chosen, expected, "{lacks:?}");
        }
    }

    #[test]
    fn nobody_goes_in_vain_and_no_pod_that_matters_as_much() {
        let equal = pod(
            "equal",
            "{priority: 2000001000, containers: [{name: a, image: x, resources: {requests: {cpu: 1}}}]}",
        );
        let there = [equal, asking("b", "burstable", 500, 1)];
        assert_eq!(chosen(&there, &[lack("cpu", 500)]), Ok(vec!["b".to_owned()]));
        let refused = chosen(&there, &[lack("cpu", 600)]).expect_err("too much");
        assert!(
            refused.ends_with("no set of running pods found to reclaim resources: [(res: cpu, q: 100), ]")
        );
    }
}
