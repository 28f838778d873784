//! Metrics of the scheduler, under Kubernetes' names, in the default registry.
//!
//! Children of labelled metrics are looked up once: what a decision costs is a few atomic additions.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    exponential_buckets,
};
use weir_client::metrics::registered;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    Scheduled,
    Unschedulable,
    Error,
}

/// Where pods wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    Active,
    Backoff,
    Unschedulable,
    Gated,
}

const WAITING: [(Waiting, &str); 4] = [
    (Waiting::Active, "active"),
    (Waiting::Backoff, "backoff"),
    (Waiting::Unschedulable, "unschedulable"),
    (Waiting::Gated, "gated"),
];

/// What brought a pod into a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Brought {
    PodAdd,
    PodUpdate,
    ScheduleAttemptFailure,
    BackoffComplete,
    UnschedulableTimeout,
    ClusterEvent,
}

const BROUGHT: [(Brought, &str); 6] = [
    (Brought::PodAdd, "PodAdd"),
    (Brought::PodUpdate, "PodUpdate"),
    (Brought::ScheduleAttemptFailure, "ScheduleAttemptFailure"),
    (Brought::BackoffComplete, "BackoffComplete"),
    (Brought::UnschedulableTimeout, "UnschedulableTimeout"),
    (Brought::ClusterEvent, "ClusterEvent"),
];

static SCHEDULE_ATTEMPTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be \
                scheduled, while 'error' means an internal scheduler problem.";
    counters("scheduler_schedule_attempts_total", help, &["result", "profile"])
});

static ATTEMPT_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Scheduling attempt latency in seconds (scheduling algorithm + binding)";
    let name = "scheduler_scheduling_attempt_duration_seconds";
    histograms(name, help, &["result", "profile"], exponential_buckets(0.001, 2.0, 15))
});

static POD_SLI: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might \
                involve multiple scheduling attempts.";
    let name = "scheduler_pod_scheduling_sli_duration_seconds";
    histograms(name, help, &["attempts"], exponential_buckets(0.01, 2.0, 20))
});

static PENDING: LazyLock<[IntGauge; 4]> = LazyLock::new(|| {
    let help = "Number of pending pods, by the queue type.";
    let pending = gauges("scheduler_pending_pods", help, &["queue"]);
    WAITING.map(|(_, queue)| pending.with_label_values(&[queue]))
});

static INCOMING: LazyLock<[[IntCounter; 6]; 4]> = LazyLock::new(|| {
    let help = "Number of pods added to scheduling queues by event and queue type.";
    let incoming = counters("scheduler_queue_incoming_pods_total", help, &["queue", "event"]);
    WAITING.map(|(_, queue)| BROUGHT.map(|(_, event)| incoming.with_label_values(&[queue, event])))
});

static ALGORITHM_DURATION: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "Scheduling algorithm latency in seconds";
    let name = "scheduler_scheduling_algorithm_duration_seconds";
    histogram(name, help, exponential_buckets(0.000_001, 4.0, 12))
});

static POST_FILTER_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Latency for running all plugins of a specific extension point.";
    let name = "scheduler_framework_extension_point_duration_seconds";
    histograms(name, help, &["extension_point", "status", "profile"], exponential_buckets(0.0001, 2.0, 12))
});

static PREEMPTION_ATTEMPTS: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Total preemption attempts in the cluster till now";
    registered(IntCounter::new("scheduler_preemption_attempts_total", help))
});

static PREEMPTION_VICTIMS: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "Number of selected preemption victims";
    histogram("scheduler_preemption_victims", help, exponential_buckets(1.0, 2.0, 7))
});

/// The metrics that name a profile, with the name filled in.
#[derive(Clone, Debug)]
pub(crate) struct OfProfile {
    attempts: [(IntCounter, Histogram); 3],
    bind: Histogram,
    preempted: Histogram,
    not_preempted: Histogram,
}

impl OfProfile {
    pub(crate) fn new(profile: &str) -> Self {
        let of = |result: &str| {
            let labels = [result, profile];
            (SCHEDULE_ATTEMPTS.with_label_values(&labels), ATTEMPT_DURATION.with_label_values(&labels))
        };
        let point =
            |point: &str, status: &str| POST_FILTER_DURATION.with_label_values(&[point, status, profile]);
        Self {
            attempts: [of("scheduled"), of("unschedulable"), of("error")],
            bind: point("Bind", "Success"),
            preempted: point("PostFilter", "Success"),
            not_preempted: point("PostFilter", "Unschedulable"),
        }
    }

    /// An attempt ended that took so long, binding included.
    pub(crate) fn attempted(&self, attempt: Attempt, took: Duration) {
        let (count, durations) = &self.attempts[attempt as usize];
        count.inc();
        durations.observe(took.as_secs_f64());
    }

    pub(crate) fn bound(&self, took: Duration) {
        self.bind.observe(took.as_secs_f64());
    }

    /// It was worked out whether others can make room; so many have to.
    pub(crate) fn preempted(&self, victims: usize, took: Duration) {
        PREEMPTION_ATTEMPTS.inc();
        if victims > 0 {
            PREEMPTION_VICTIMS.observe(victims as f64);
        }
        let histogram = if victims > 0 { &self.preempted } else { &self.not_preempted };
        histogram.observe(took.as_secs_f64());
    }
}

pub(crate) fn decided(took: Duration) {
    ALGORITHM_DURATION.observe(took.as_secs_f64());
}

/// A pod has got its node, so long after it was first seen and at this attempt.
pub(crate) fn scheduled(attempts: u32, took: Duration) {
    static FIRST: LazyLock<Histogram> = LazyLock::new(|| POD_SLI.with_label_values(&["1"]));
    let seconds = took.as_secs_f64();
    match attempts {
        1 => FIRST.observe(seconds),
        // Kubernetes' label has no end either; few pods get that far.
        2..=15 => POD_SLI.with_label_values(&[&attempts.to_string()]).observe(seconds),
        _ => POD_SLI.with_label_values(&["16+"]).observe(seconds),
    }
}

pub(crate) fn pending(waiting: Waiting, pods: usize) {
    PENDING[waiting as usize].set(i64::try_from(pods).unwrap_or(i64::MAX));
}

pub(crate) fn incoming(waiting: Waiting, brought: Brought) {
    INCOMING[waiting as usize][brought as usize].inc();
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(IntGaugeVec::new(Opts::new(name, help), labels))
}

fn histogram(name: &str, help: &str, buckets: prometheus::Result<Vec<f64>>) -> Histogram {
    registered(
        buckets.and_then(|buckets| Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))),
    )
}

fn histograms(
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: prometheus::Result<Vec<f64>>,
) -> HistogramVec {
    registered(
        buckets
            .and_then(|buckets| HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_well_formed_and_served() {
        let profile = OfProfile::new("default-scheduler");
        profile.attempted(Attempt::Scheduled, Duration::from_millis(3));
        profile.bound(Duration::from_millis(1));
        profile.preempted(2, Duration::from_millis(1));
        decided(Duration::from_micros(5));
        scheduled(1, Duration::from_millis(5));
        scheduled(99, Duration::from_secs(500));
        for (waiting, _) in WAITING {
            pending(waiting, 7);
            for (brought, _) in BROUGHT {
                incoming(waiting, brought);
            }
        }
        let served: Vec<String> =
            prometheus::gather().iter().map(|family| family.name().to_owned()).collect();
        for name in [
            "scheduler_schedule_attempts_total",
            "scheduler_scheduling_attempt_duration_seconds",
            "scheduler_scheduling_algorithm_duration_seconds",
            "scheduler_pending_pods",
            "scheduler_queue_incoming_pods_total",
            "scheduler_preemption_attempts_total",
            "scheduler_preemption_victims",
            "scheduler_pod_scheduling_sli_duration_seconds",
            "scheduler_framework_extension_point_duration_seconds",
        ] {
            assert!(served.iter().any(|family| family == name), "{name} in {served:?}");
        }
    }
}
