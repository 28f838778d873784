//! How many durable transactions a store takes each second, and how long one takes.
//!
//! ```text
//! cargo run --release -p weir-store --example throughput -- FILE|ETCD-URL [WRITERS [SECONDS [BYTES]]]
//! ```
//!
//! Each writer creates a key and then changes it by compare-and-swap, each time waiting for the answer.

#![expect(clippy::print_stdout, reason = "prints its result")]

use std::{
    env,
    sync::Arc,
    time::{Duration, Instant},
};

use weir_store::{Store, Txn, embedded, etcd};

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |index: usize, default: u64| {
        arguments.get(index).map_or(default, |text| text.parse().expect("a number"))
    };
    let target = arguments.first().expect("FILE or ETCD-URL");
    let (writers, seconds, bytes) = (number(1, 64), number(2, 5), number(3, 1000));
    let store: Arc<dyn Store> = if target.contains("://") {
        Arc::new(etcd::connect([target], None).await.expect("etcd"))
    } else {
        Arc::new(embedded::open(target).expect("store"))
    };
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let tasks: Vec<_> =
        (0..writers).map(|writer| tokio::spawn(write(Arc::clone(&store), writer, bytes, end))).collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("writer"));
    }
    latencies.sort_unstable();
    let per_second = latencies.len() as f64 / start.elapsed().as_secs_f64();
    let quantile =
        |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
    println!(
        "{writers} writers, {bytes} bytes: {per_second:.0} txn/s, median {:.1} ms, 99% {:.1} ms",
        quantile(0.5),
        quantile(0.99)
    );
}

async fn write(store: Arc<dyn Store>, writer: u64, bytes: u64, end: Instant) -> Vec<Duration> {
    let key = format!("/throughput/{}/{writer}", std::process::id());
    let (mut revision, mut latencies) = (0, Vec::new());
    while Instant::now() < end {
        let value = vec![b'x'; bytes as usize];
        let asked = Instant::now();
        let outcome = store.txn(Txn::new().unchanged(key.as_str(), revision).put(key.as_str(), value)).await;
        let outcome = outcome.expect("transaction");
        assert!(outcome.committed);
        latencies.push(asked.elapsed());
        revision = outcome.revision;
    }
    latencies
}
