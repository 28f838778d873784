//! What the agent counts, under the kubelet's names where it has them.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts};
use weir_client::metrics::registered;

use crate::VERSION;

static BUILD_INFO: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "A metric with a constant '1' value labeled by version and platform of this build.";
    registered(IntGaugeVec::new(Opts::new("kubernetes_build_info", help), &["git_version", "platform"]))
});

static IMAGE_PULLS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets =
        vec![1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 180.0, 300.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0];
    let help = "Duration in seconds to pull an image.";
    let options = HistogramOpts::new("kubelet_image_pull_duration_seconds", help).buckets(buckets);
    registered(HistogramVec::new(options, &["image_size_in_bytes"]))
});

pub(crate) static IMAGE_PULL_FAILURES: LazyLock<IntCounter> = LazyLock::new(|| {
    registered(IntCounter::new("weir_image_pull_failures_total", "Pulls that ended in an error."))
});

/// By reason: `age`, `space`.
pub(crate) static IMAGES_COLLECTED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help =
        "Total number of images garbage collected by the kubelet, whether through disk usage or image age.";
    registered(IntCounterVec::new(Opts::new("kubelet_image_garbage_collected_total", help), &["reason"]))
});

pub(crate) static ENDS_UNACKNOWLEDGED: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Pods that were told to end although not every node had acknowledged to send them no new connections.";
    registered(IntCounter::new("weir_pod_end_unacknowledged_total", help))
});

/// By outcome: `rotated`, `failed`.
pub(crate) static LOG_ROTATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Rotations of containers' logs.";
    registered(IntCounterVec::new(Opts::new("weir_container_log_rotations_total", help), &["outcome"]))
});

/// By address: 1 while its sockets are open.
pub(crate) static DNS_LISTENING: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Whether cluster DNS is served at the address.";
    registered(IntGaugeVec::new(Opts::new("weir_dns_listening", help), &["server"]))
});

/// By the signal that was crossed.
pub(crate) static EVICTIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Cumulative number of pod evictions by eviction signal";
    registered(IntCounterVec::new(Opts::new("kubelet_evictions", help), &["eviction_signal"]))
});

/// By the resource that a critical pod lacked.
pub(crate) static PREEMPTIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Cumulative number of pod preemptions by preemption resource";
    registered(IntCounterVec::new(Opts::new("kubelet_preemptions", help), &["preemption_signal"]))
});

/// Shows which build this is.
pub(crate) fn introduce() {
    let platform = format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH);
    BUILD_INFO.with_label_values(&[&format!("v{VERSION}"), &platform]).set(1);
}

pub(crate) fn pulled(size: u64, took: Duration) {
    const MB: u64 = 1 << 20;
    let range = match size / MB {
        0..10 => "0-10MB",
        10..100 => "10MB-100MB",
        100..500 => "100MB-500MB",
        500..1024 => "500MB-1GB",
        1024..5120 => "1GB-5GB",
        5120..10240 => "5GB-10GB",
        _ => "GT10GB",
    };
    IMAGE_PULLS.with_label_values(&[range]).observe(took.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_can_be_gathered() {
        introduce();
        pulled(3 << 20, Duration::from_secs(2));
        IMAGE_PULL_FAILURES.inc();
        ENDS_UNACKNOWLEDGED.inc();
        IMAGES_COLLECTED.with_label_values(&["space"]).inc();
        LOG_ROTATIONS.with_label_values(&["rotated"]).inc();
        DNS_LISTENING.with_label_values(&["10.96.0.10:53"]).set(1);
        let names: Vec<_> = prometheus::gather().iter().map(|family| family.name().to_owned()).collect();
        for name in ["kubelet_image_pull_duration_seconds", "kubelet_image_garbage_collected_total"] {
            assert!(names.iter().any(|found| found == name), "{names:?}");
        }
    }
}
