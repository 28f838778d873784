//! What the server counts about itself, under the names by which Kubernetes' dashboards know it; `weir_*` where
//! Kubernetes has none.
//!
//! **Invariant:** labels take their values from the table of kinds and from lists in this crate, never from what a client
//! sent: their number is bounded whatever comes in.

mod request;
mod store;

use std::sync::LazyLock;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};

pub(crate) use request::{Class, long_running, note, note_dry_run, note_size, noting};
pub(crate) use store::Measured;

/// Kubernetes' buckets of request latencies, in seconds.
const REQUEST_SECONDS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
const STORE_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 4.0, 8.0, 15.0,
    30.0, 60.0,
];
const SIZES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// From expired to a year and more, in seconds.
const LIFETIMES: &[f64] = &[
    0.0,
    1800.0,
    3600.0,
    7200.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    345_600.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
];

/// Names and labels are constants of this file: what cannot be registered is found out by the first test.
fn registered<C: Collector + Clone + 'static>(metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("a metric is named as Prometheus allows");
    prometheus::register(Box::new(metric.clone())).expect("a metric is registered once");
    metric
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(IntGaugeVec::new(Opts::new(name, help), labels))
}

fn histograms(name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    registered(HistogramVec::new(options, labels))
}

type Counters = LazyLock<IntCounterVec>;
type Gauges = LazyLock<IntGaugeVec>;
type Histograms = LazyLock<HistogramVec>;

pub(crate) static REQUESTS: Counters = LazyLock::new(|| {
    let labels =
        ["verb", "group", "version", "resource", "subresource", "scope", "code", "dry_run", "component"];
    counters(
        "apiserver_request_total",
        "Requests answered, by what they were about and by HTTP code.",
        &labels,
    )
});

pub(crate) static REQUEST_DURATION: Histograms = LazyLock::new(|| {
    let labels = ["verb", "group", "version", "resource", "subresource", "scope", "dry_run", "component"];
    let help = "Seconds until an answer began.";
    histograms("apiserver_request_duration_seconds", help, REQUEST_SECONDS, &labels)
});

pub(crate) static RESPONSE_SIZES: Histograms = LazyLock::new(|| {
    let labels = ["verb", "group", "version", "resource", "subresource", "scope", "component"];
    histograms("apiserver_response_sizes", "Bytes of answers to gets and lists.", SIZES, &labels)
});

pub(crate) static INFLIGHT: Gauges = LazyLock::new(|| {
    let help = "Requests being worked on, by readOnly and mutating.";
    gauges("apiserver_current_inflight_requests", help, &["request_kind"])
});

pub(crate) static LONG_RUNNING: Gauges = LazyLock::new(|| {
    let labels = ["verb", "group", "version", "resource", "subresource", "scope", "component"];
    gauges("apiserver_longrunning_requests", "Watches, logs and other streams that are open.", &labels)
});

pub(crate) static TERMINATIONS: Counters = LazyLock::new(|| {
    let labels = ["verb", "group", "version", "resource", "subresource", "scope", "code", "component"];
    let help = "Requests that the server ended to protect itself: over a limit, or out of time.";
    counters("apiserver_request_terminations_total", help, &labels)
});

/// Which limit it was.
pub(crate) static REJECTED: Counters = LazyLock::new(|| {
    let help = "Requests refused by a limit: rate, concurrency-readOnly, concurrency-mutating, timeout.";
    counters("weir_requests_rejected_total", help, &["reason"])
});

pub(crate) static STORAGE_OBJECTS: Gauges = LazyLock::new(|| {
    gauges(
        "apiserver_storage_objects",
        "Objects stored, by kind; as the watch cache shows them.",
        &["resource"],
    )
});

pub(crate) static WATCH_EVENTS: Counters = LazyLock::new(|| {
    let help = "Events sent to watchers.";
    counters("apiserver_watch_events_total", help, &["group", "version", "kind"])
});

pub(crate) static CACHE_DISPATCHED: Counters = LazyLock::new(|| {
    let help = "Changes that the watch cache handed to its watchers.";
    counters("apiserver_watch_cache_events_dispatched_total", help, &["group", "resource"])
});

pub(crate) static CACHE_CAPACITY: Gauges = LazyLock::new(|| {
    let help = "Changes that the watch cache keeps for those who resume.";
    gauges("apiserver_watch_cache_capacity", help, &["group", "resource"])
});

pub(crate) static CACHE_REVISION: Gauges = LazyLock::new(|| {
    let help = "The store revision that the watch cache shows.";
    gauges("apiserver_watch_cache_resource_version", help, &["group", "resource"])
});

pub(crate) static CACHE_CUT: Counters = LazyLock::new(|| {
    let help = "Watchers cut because they did not keep up.";
    counters("apiserver_terminated_watchers_total", help, &["group", "resource"])
});

pub(crate) static STORE_DURATION: Histograms = LazyLock::new(|| {
    let help = "Seconds that the store took, whichever it is.";
    histograms("etcd_request_duration_seconds", help, STORE_SECONDS, &["operation", "type"])
});

pub(crate) static STORE_ERRORS: Counters = LazyLock::new(|| {
    counters("etcd_request_errors_total", "Operations at which the store failed.", &["operation", "type"])
});

pub(crate) static CERTIFICATE_LIFETIME: LazyLock<Histogram> = LazyLock::new(|| {
    let name = "apiserver_client_certificate_expiration_seconds";
    let help = "Seconds left to the certificates that clients connected with.";
    registered(Histogram::with_opts(HistogramOpts::new(name, help).buckets(LIFETIMES.to_vec())))
});

pub(crate) static CONNECTIONS: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new("weir_connections_open", "Connections accepted and not yet closed."))
});

pub(crate) static CONNECTIONS_REFUSED: Counters = LazyLock::new(|| {
    let help = "Connections closed by a limit: total, peer, anonymous, or handshake (failed or too slow).";
    counters("weir_connections_refused_total", help, &["reason"])
});

pub(crate) static CLIENTS: LazyLock<IntGauge> = LazyLock::new(|| {
    registered(IntGauge::new("weir_rate_limited_clients", "Clients whose rate of requests is being watched."))
});

pub(crate) static EVENT_LEASES: LazyLock<IntCounter> = LazyLock::new(|| {
    registered(IntCounter::new("weir_event_leases_total", "Leases taken for Events to expire with."))
});

pub(crate) static AUTHENTICATION_ATTEMPTS: Counters = LazyLock::new(|| {
    let help = "Requests whose token was checked, by how that ended: success, failure, or error.";
    counters("authentication_attempts", help, &["result"])
});

pub(crate) static AUTHENTICATION_DURATION: Histograms = LazyLock::new(|| {
    let help = "Seconds that the checking of a request's token took.";
    histograms("authentication_duration_seconds", help, REQUEST_SECONDS, &["result"])
});

/// Names of users are not labels here: there may be as many as there are service accounts.
pub(crate) static AUTHENTICATED_REQUESTS: Counters = LazyLock::new(|| {
    let help = "Requests from users who are known, by kind of user: node, serviceaccount, or other.";
    counters("authenticated_user_requests", help, &["username"])
});

pub(crate) static TOKENS_ISSUED: LazyLock<IntCounter> = LazyLock::new(|| {
    registered(IntCounter::new("serviceaccount_tokens_issued_total", "Tokens of service accounts given out."))
});

pub(crate) static TOKENS_VALID: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Requests with a valid token of a service account.";
    registered(IntCounter::new("serviceaccount_valid_tokens_total", help))
});

/// Everything that this process counts, as text.
pub(crate) fn text() -> prometheus::Result<String> {
    prometheus::TextEncoder::new().encode_to_string(&prometheus::gather())
}
