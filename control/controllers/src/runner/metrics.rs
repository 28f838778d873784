//! Metrics of the controllers' queues, under Kubernetes' names, in the default registry.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    exponential_buckets,
};
use weir_client::metrics::registered;

static DEPTH: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    registered(IntGaugeVec::new(Opts::new("workqueue_depth", "Current depth of workqueue"), &["name"]))
});

static ADDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Total number of adds handled by workqueue";
    registered(IntCounterVec::new(Opts::new("workqueue_adds_total", help), &["name"]))
});

static RETRIES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Total number of retries handled by workqueue";
    registered(IntCounterVec::new(Opts::new("workqueue_retries_total", help), &["name"]))
});

static WAITED: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "How long in seconds an item stays in workqueue before being requested.";
    durations("workqueue_queue_duration_seconds", help)
});

static WORKED: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "How long in seconds processing an item from workqueue takes.";
    durations("workqueue_work_duration_seconds", help)
});

/// The metrics of one queue.
#[derive(Debug)]
pub(super) struct Metrics {
    depth: IntGauge,
    adds: IntCounter,
    retries: IntCounter,
    waited: Histogram,
    worked: Histogram,
}

impl Metrics {
    pub(super) fn of(queue: &str) -> Self {
        let name = [queue];
        Self {
            depth: DEPTH.with_label_values(&name),
            adds: ADDS.with_label_values(&name),
            retries: RETRIES.with_label_values(&name),
            waited: WAITED.with_label_values(&name),
            worked: WORKED.with_label_values(&name),
        }
    }

    pub(super) fn added(&self, keys: usize) {
        self.adds.inc_by(keys as u64);
    }

    pub(super) fn retried(&self) {
        self.retries.inc();
    }

    /// A key was taken that had waited so long.
    pub(super) fn taken(&self, waited: Duration) {
        self.waited.observe(waited.as_secs_f64());
    }

    pub(super) fn worked(&self, took: Duration) {
        self.worked.observe(took.as_secs_f64());
    }

    pub(super) fn depth(&self, keys: usize) {
        self.depth.set(i64::try_from(keys).unwrap_or(i64::MAX));
    }
}

fn durations(name: &str, help: &str) -> HistogramVec {
    let options = |buckets| HistogramOpts::new(name, help).buckets(buckets);
    let buckets = exponential_buckets(10e-9, 10.0, 12);
    registered(buckets.and_then(|buckets| HistogramVec::new(options(buckets), &["name"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_well_formed_and_served() {
        let metrics = Metrics::of("test");
        metrics.added(1);
        metrics.retried();
        metrics.taken(Duration::from_millis(1));
        metrics.worked(Duration::from_millis(1));
        metrics.depth(3);
        let served: Vec<String> =
            prometheus::gather().iter().map(|family| family.name().to_owned()).collect();
        for name in [
            "workqueue_depth",
            "workqueue_adds_total",
            "workqueue_retries_total",
            "workqueue_queue_duration_seconds",
            "workqueue_work_duration_seconds",
        ] {
            assert!(served.iter().any(|family| family == name), "{name} in {served:?}");
        }
    }
}
