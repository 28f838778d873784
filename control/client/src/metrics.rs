//! Metrics of the client, under Kubernetes' names, in the default registry.

use std::sync::LazyLock;

use prometheus::{IntGaugeVec, Opts};

static MASTER_STATUS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates \
                master. 'name' is the string used to identify the lease.";
    let gauge = IntGaugeVec::new(Opts::new("leader_election_master_status", help), &["name"])
        .expect("a metric of this file is well formed");
    if let Err(error) = prometheus::register(Box::new(gauge.clone())) {
        tracing::warn!(%error, "a metric is not served");
    }
    gauge
});

/// Whether this process leads by the Lease.
pub(crate) fn leads(lease: &str, leads: bool) {
    MASTER_STATUS.with_label_values(&[lease]).set(leads.into());
}
