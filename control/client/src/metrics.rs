//! Metrics of those who speak to the API: how each registers its own, and what the client counts itself, under
//! Kubernetes' names, in the default registry.

use std::sync::LazyLock;

use prometheus::core::Collector;
use prometheus::{IntGaugeVec, Opts};

/// Puts a metric into the default registry.
///
/// # Panics
///
/// If its name, labels or buckets are not as Prometheus wants them. They are constants: whoever defines metrics has a
/// test that makes all of them.
pub fn registered<M: Collector + Clone + 'static>(metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("names, labels and buckets of metrics are well formed");
    if let Err(error) = prometheus::register(Box::new(metric.clone())) {
        tracing::warn!(%error, "a metric is not served");
    }
    metric
}

static MASTER_STATUS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates \
                master. 'name' is the string used to identify the lease.";
    registered(IntGaugeVec::new(Opts::new("leader_election_master_status", help), &["name"]))
});

/// Whether this process leads by the Lease.
pub(crate) fn leads(lease: &str, leads: bool) {
    MASTER_STATUS.with_label_values(&[lease]).set(leads.into());
}
