//! Keeps the node alive when memory, disk or process ids run out: what nobody needs goes first, then pods, one at a time.
//!
//! Each round measures ([`measure`]), decides (`decide`, pure), and if a threshold is to be kept reclaims what it can and
//! otherwise ends the pod that ranks first (`rank`, pure). Names, messages and order are the kubelet's.
//!
//! Left out: notifications of the kernel (a round takes place every second), and per-pod limits of ephemeral storage,
//! which the pods' own workers watch.

mod decide;
mod measure;
mod rank;
pub mod signals;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weir_client::{Informer, Recorder, Severity};
use weir_proto::core::v1::Pod;
use weir_runtime::images::CollectionPolicy;

pub(crate) use measure::Measure;

use crate::metrics::EVICTIONS;
use crate::node;
use crate::pods::{Ending, Endings};
use decide::{Memory, is_crossed};
use rank::Candidate;
use signals::{Observations, Pressure, Signal, Threshold};

const ROUND: Duration = Duration::from_secs(1);
/// How long nothing is tried after there was nothing left to try: the kubelet's interval.
const IN_VAIN: Duration = Duration::from_secs(10);
/// How long a round waits for the pod that it ended.
const LEAVING: Duration = Duration::from_secs(30);
/// What a pod has that goes because of a hard threshold.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How much there must be, and what to do when there is not.
#[derive(Clone, Debug)]
pub struct Policy {
    pub thresholds: Vec<Threshold>,
    pub transition: Duration,
    /// What a pod has at most that goes because of a soft threshold.
    pub max_pod_grace: Duration,
}

#[derive(Debug)]
pub(crate) struct Eviction {
    pub(crate) node_name: String,
    pub(crate) policy: Policy,
    pub(crate) measure: Measure,
    pub(crate) pods: Informer<Pod>,
    pub(crate) endings: Endings,
    pub(crate) recorder: Recorder,
    pub(crate) pressures: watch::Sender<BTreeSet<Pressure>>,
}

impl Eviction {
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(ROUND);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut memory, mut told, mut idle_until) = (Memory::default(), None, None);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
            }
            let Some(seen) = self.observe().await else { continue };
            let decision =
                memory.decide(&self.policy.thresholds, &seen, self.policy.transition, Timestamp::now());
            self.pressures.send_if_modified(|pressures| {
                let changed = *pressures != decision.pressures;
                *pressures = decision.pressures;
                changed
            });
            let Some(threshold) = decision.act else {
                told = None;
                continue;
            };
            let signal = threshold.limit.signal;
            if told != Some(signal) {
                let message = format!("Attempting to reclaim {}", signal.resource());
                tracing::warn!(threshold = %threshold.limit, "{message}");
                let about = node::reference(&self.node_name);
                self.recorder.tell(about, Severity::Warning, "EvictionThresholdMet", message);
            }
            // What was in vain a moment ago need not be tried every second.
            if idle_until.is_some_and(|until| Instant::now() < until) {
                continue;
            }
            let kept = tokio::select! {
                () = shutdown.cancelled() => return,
                kept = self.keep(&threshold, &seen) => kept,
            };
            if !kept && told != Some(signal) {
                tracing::error!(threshold = %threshold.limit, "no pod is left that may be evicted");
            }
            idle_until = (!kept).then(|| Instant::now() + IN_VAIN);
            told = Some(signal);
        }
    }

    async fn observe(&self) -> Option<Observations> {
        let measure = self.measure.clone();
        tokio::task::spawn_blocking(move || measure.observe()).await.ok()
    }

    /// Whether something was done.
    async fn keep(&self, threshold: &Threshold, seen: &Observations) -> bool {
        let signal = threshold.limit.signal;
        let mut seen = seen.clone();
        if signal.pressure() == Pressure::Disk {
            self.clear_disk(signal).await;
            seen = self.observe().await.unwrap_or(seen);
            if !is_crossed(threshold, &seen, true) {
                return true;
            }
        }
        let (measure, pods) = (self.measure.clone(), self.pods.list());
        let gather = move || measure.candidates(&pods, signal);
        let Ok(candidates) = tokio::task::spawn_blocking(gather).await else { return false };
        let Some(victim) = rank::victim(candidates, signal) else { return false };
        let message = message(threshold, &seen, &victim);
        let (grace, ending) = match threshold.is_hard() {
            // There is no time to lose: not even the dataplane is waited for.
            true => (AT_ONCE, Ending::at_once("Evicted", message, AT_ONCE)),
            false => {
                let grace = self.soft_grace(&victim.uid);
                (grace, Ending::of_running("Evicted", message, grace))
            }
        };
        if !self.endings.order(&victim.uid, ending) {
            return false;
        }
        EVICTIONS.with_label_values(&[signal.as_str()]).inc();
        let gone = async {
            while self.measure.is_here(&victim.uid) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            // What it held is counted as free a moment later.
            tokio::time::sleep(ROUND).await;
        };
        if tokio::time::timeout(grace + LEAVING, gone).await.is_err() {
            tracing::warn!(uid = victim.uid, "an evicted pod is slow to leave");
        }
        true
    }

    fn soft_grace(&self, uid: &str) -> Duration {
        let pods = self.pods.list();
        let own = pods.iter().find(|pod| pod.meta().uid == uid);
        let own = own.and_then(|pod| u64::try_from(pod.spec().termination_grace_period_seconds?).ok());
        self.policy.max_pod_grace.min(own.map_or(Duration::MAX, Duration::from_secs))
    }

    /// What ended pods left, and images that nobody uses.
    async fn clear_disk(&self, signal: Signal) {
        let (measure, pods) = (self.measure.clone(), self.pods.list());
        let clear = move || {
            let images_alone = matches!(signal, Signal::ImageDisk | Signal::ImageInodes);
            if !images_alone || !measure.has_image_disk() {
                let over: BTreeSet<String> = pods
                    .iter()
                    .filter(|pod| measure::is_over(pod))
                    .map(|pod| pod.meta().uid.clone())
                    .collect();
                for run in measure.runtime.list().into_iter().filter(|run| over.contains(&run.key.pod_uid)) {
                    if let Err(error) = measure.runtime.remove_container(&run.key) {
                        tracing::warn!(container = %run.key, %error, "cannot remove an ended container");
                    }
                }
            }
            let all = CollectionPolicy {
                high_threshold: 0,
                low_threshold: 0,
                minimum_age: Duration::ZERO,
                maximum_age: Duration::ZERO,
            };
            measure.runtime.collect_images(&all)
        };
        match tokio::task::spawn_blocking(clear).await {
            Ok(Ok(done)) if done.freed == 0 => {}
            Ok(Ok(done)) => {
                tracing::info!(images = done.removed.len(), bytes = done.freed, "cleared the disk")
            }
            Ok(Err(error)) => tracing::warn!(%error, "cannot clear the disk of images"),
            Err(error) => tracing::error!(%error, "the clearing of the disk was cut off"),
        }
    }
}

/// In the kubelet's words.
fn message(threshold: &Threshold, seen: &Observations, victim: &Candidate) -> String {
    let signal = threshold.limit.signal;
    let resource = signal.resource();
    let mut text = format!("The node was low on resource: {resource}. ");
    if let Some(observation) = seen.get(&signal) {
        let below = signal.quantity(threshold.limit.below.of(observation.capacity));
        let available = signal.quantity(observation.available);
        text.push_str(&format!("Threshold quantity: {below}, available: {available}. "));
    }
    for container in &victim.containers {
        let (used, requested) = (container.used.of(signal), container.requested.of(signal));
        if used > requested {
            let (used, requested) = (signal.quantity(used), signal.quantity(requested));
            let name = &container.name;
            text.push_str(&format!(
                "Container {name} was using {used}, request is {requested}, has larger consumption of {resource}. "
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::rank::{Amounts, Container};
    use super::signals::{Observation, thresholds};
    use super::*;

    #[test]
    fn the_message_is_the_kubelets() {
        let limit = "memory.available<100Mi".parse().expect("a limit");
        let threshold = thresholds(&[limit], &[], &[], &[]).expect("thresholds")[0];
        let seen =
            [(Signal::Memory, Observation { available: 90 << 20, capacity: 1 << 30 })].into_iter().collect();
        let amounts = |memory| Amounts { memory, ..Amounts::default() };
        let container = |name: &str, requested, used| Container {
            name: name.to_owned(),
            requested: amounts(requested),
            used: amounts(used),
        };
        let victim = Candidate {
            containers: vec![container("a", 0, 120 << 20), container("b", 64 << 20, 1 << 20)],
            ..Candidate::default()
        };
        assert_eq!(
            message(&threshold, &seen, &victim),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. Container a was using \
             120Mi, request is 0, has larger consumption of memory. "
        );
    }
}
