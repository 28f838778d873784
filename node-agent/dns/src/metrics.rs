//! What is counted, under CoreDNS' names: its dashboards show these.

use std::sync::LazyLock;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use prometheus::core::Collector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, exponential_buckets,
};

/// # Panics
///
/// If a metric's name, labels or buckets are not as Prometheus wants them. They are constants, and a test makes all.
fn registered<M: Collector + Clone + 'static>(metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("names, labels and buckets of metrics are well formed");
    if let Err(error) = prometheus::register(Box::new(metric.clone())) {
        tracing::warn!(%error, "a metric is not served");
    }
    metric
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(IntCounterVec::new(Opts::new(name, help), labels))
}

fn histograms(name: &str, help: &str, buckets: Vec<f64>, labels: &[&str]) -> HistogramVec {
    registered(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels))
}

/// A quarter of a millisecond to eight seconds, as CoreDNS has them.
fn durations() -> Vec<f64> {
    exponential_buckets(0.000_25, 2.0, 16).unwrap_or_default()
}

fn sizes() -> Vec<f64> {
    vec![0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16e3, 32e3, 48e3, 64e3]
}

static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Counter of DNS requests made per zone, protocol and family.";
    counters("coredns_dns_requests_total", help, &["zone", "proto", "family", "type"])
});

static RESPONSES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("coredns_dns_responses_total", "Counter of response status codes.", &["zone", "rcode", "plugin"])
});

static REQUEST_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Histogram of the time (in seconds) each request took per zone.";
    histograms("coredns_dns_request_duration_seconds", help, durations(), &["zone"])
});

static REQUEST_SIZE: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Size of the EDNS0 UDP buffer in bytes (64K for TCP) per zone and protocol.";
    histograms("coredns_dns_request_size_bytes", help, sizes(), &["zone", "proto"])
});

static RESPONSE_SIZE: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Size of the returned response in bytes.";
    histograms("coredns_dns_response_size_bytes", help, sizes(), &["zone", "proto"])
});

/// By type: `success`, `denial`.
pub(crate) static CACHE_HITS: LazyLock<IntCounterVec> =
    LazyLock::new(|| counters("coredns_cache_hits_total", "The count of cache hits.", &["type"]));

pub(crate) static CACHE_MISSES: LazyLock<IntCounter> =
    LazyLock::new(|| registered(IntCounter::new("coredns_cache_misses_total", "The count of cache misses.")));

pub(crate) static FORWARD_REJECTS: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Counter of the number of queries rejected because the concurrent queries were at maximum.";
    registered(IntCounter::new("coredns_forward_max_concurrent_rejects_total", help))
});

/// By the code that came, or what failed: `timeout`, `error`.
pub(crate) static FORWARD_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Histogram of the time each proxied request took.";
    histograms("coredns_forward_request_duration_seconds", help, durations(), &["rcode"])
});

pub(crate) static TCP_CONNECTIONS: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new("weir_dns_tcp_connections", "TCP connections of clients of cluster DNS."))
});

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered<'a> {
    pub(crate) zone: &'a str,
    /// Who had the answer: `kubernetes`, `cache`, `forward`, or nobody.
    pub(crate) source: &'static str,
    pub(crate) protocol: &'static str,
    pub(crate) is_ipv6: bool,
    pub(crate) kind: Option<RecordType>,
    pub(crate) code: ResponseCode,
    pub(crate) request_size: usize,
    pub(crate) response_size: usize,
    pub(crate) took: Duration,
}

pub(crate) fn answered(answer: &Answered<'_>) {
    let Answered { zone, protocol, .. } = *answer;
    let family = if answer.is_ipv6 { "2" } else { "1" };
    REQUESTS.with_label_values(&[zone, protocol, family, type_label(answer.kind)]).inc();
    RESPONSES.with_label_values(&[zone, code_label(answer.code), answer.source]).inc();
    REQUEST_DURATION.with_label_values(&[zone]).observe(answer.took.as_secs_f64());
    REQUEST_SIZE.with_label_values(&[zone, protocol]).observe(size(answer.request_size));
    RESPONSE_SIZE.with_label_values(&[zone, protocol]).observe(size(answer.response_size));
}

fn size(bytes: usize) -> f64 {
    u32::try_from(bytes).map_or(f64::MAX, f64::from)
}

/// Types that clients ask for; whatever else they send shares a label.
fn type_label(kind: Option<RecordType>) -> &'static str {
    match kind {
        Some(RecordType::A) => "A",
        Some(RecordType::AAAA) => "AAAA",
        Some(RecordType::CNAME) => "CNAME",
        Some(RecordType::HTTPS) => "HTTPS",
        Some(RecordType::MX) => "MX",
        Some(RecordType::NS) => "NS",
        Some(RecordType::PTR) => "PTR",
        Some(RecordType::SOA) => "SOA",
        Some(RecordType::SRV) => "SRV",
        Some(RecordType::SVCB) => "SVCB",
        Some(RecordType::TXT) => "TXT",
        Some(RecordType::ANY) => "ANY",
        _ => "other",
    }
}

pub(crate) fn code_label(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::BADVERS => "BADVERS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_can_be_gathered() {
        answered(&Answered {
            zone: "cluster.local.",
            source: "kubernetes",
            protocol: "udp",
            is_ipv6: false,
            kind: Some(RecordType::A),
            code: ResponseCode::NoError,
            request_size: 50,
            response_size: 90,
            took: Duration::from_micros(20),
        });
        CACHE_HITS.with_label_values(&["success"]).inc();
        CACHE_MISSES.inc();
        FORWARD_REJECTS.inc();
        FORWARD_DURATION.with_label_values(&["NOERROR"]).observe(0.1);
        TCP_CONNECTIONS.set(0);
        let names: Vec<_> = prometheus::gather().iter().map(|family| family.name().to_owned()).collect();
        for name in [
            "coredns_dns_requests_total",
            "coredns_dns_responses_total",
            "coredns_dns_request_duration_seconds",
            "coredns_dns_request_size_bytes",
            "coredns_dns_response_size_bytes",
            "coredns_cache_hits_total",
            "coredns_cache_misses_total",
            "coredns_forward_max_concurrent_rejects_total",
            "coredns_forward_request_duration_seconds",
            "weir_dns_tcp_connections",
        ] {
            assert!(names.iter().any(|found| found == name), "{name} of {names:?}");
        }
    }
}
