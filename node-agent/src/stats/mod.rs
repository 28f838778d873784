//! What the node, its pods and their containers use, measured when somebody asks.
//!
//! A rate takes two measurements: every [`INTERVAL`] the CPU counters are noted, and an answer relates to what was noted
//! last. What began since then is related to its beginning. Walking a container's files is slow: their sizes are as old as
//! [`DISK_INTERVAL`] at most.
//!
//! Left out: devices, accelerators, user-defined metrics, and the figures of single processes.

mod metrics;
mod network;
mod node;
mod summary;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use weir_client::Informer;
use weir_proto::core::v1::Pod;
use weir_proto::weir::v1 as pb;
use weir_runtime::cgroup::Usage;
use weir_runtime::{ContainerKey, DiskUsage, Runtime};

use crate::pods::mirror::local_uid;

pub(crate) use metrics::text as metrics;
pub(crate) use node::memory;
pub(crate) use summary::json as summary;

const INTERVAL: Duration = Duration::from_secs(10);
const DISK_INTERVAL: Duration = Duration::from_secs(60);
/// Below this a rate says more about the clock than about the work.
const SHORTEST: Duration = Duration::from_millis(500);
/// The key of the node itself among the groups.
const NODE: &str = "";

/// Measures one node.
#[derive(Debug)]
pub struct Stats {
    node_name: String,
    runtime: Arc<Runtime>,
    pods: Informer<Pod>,
    uplink: String,
    state_dir: PathBuf,
    noted: Mutex<HashMap<String, Noted>>,
    disk: Mutex<HashMap<ContainerKey, DiskUsage>>,
}

/// A CPU counter at a time. By pod uid, by container id, or of the node.
#[derive(Debug, Clone, Copy)]
struct Noted {
    at: Instant,
    cpu: Duration,
}

impl Stats {
    pub fn new(
        node_name: String,
        runtime: Arc<Runtime>,
        pods: Informer<Pod>,
        uplink: String,
        state_dir: PathBuf,
    ) -> Self {
        let (noted, disk) = (Mutex::default(), Mutex::default());
        Self { node_name, runtime, pods, uplink, state_dir, noted, disk }
    }

    /// Notes counters until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut disk_at = None;
        loop {
            let stats = Arc::clone(&self);
            let disk_due = disk_at.is_none_or(|at: Instant| at.elapsed() >= DISK_INTERVAL);
            let measure = move || {
                stats.note();
                if disk_due {
                    stats.walk();
                }
            };
            if disk_due {
                disk_at = Some(Instant::now());
            }
            // A panic there is logged by the runtime; the next round tries again.
            let _ = tokio::task::spawn_blocking(measure).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    fn note(&self) {
        let at = Instant::now();
        let mut noted = HashMap::new();
        noted.insert(NODE.to_owned(), Noted { at, cpu: node::cpu() });
        for pod in self.runtime.usage() {
            for container in &pod.containers {
                noted.insert(container.key.id(), Noted { at, cpu: container.usage.cpu });
            }
            noted.insert(pod.uid, Noted { at, cpu: pod.usage.cpu });
        }
        *self.noted.lock().unwrap_or_else(PoisonError::into_inner) = noted;
    }

    fn walk(&self) {
        let keys = self.runtime.usage().into_iter().flat_map(|pod| pod.containers).map(|found| found.key);
        let disk = keys.filter_map(|key| Some((key.clone(), self.runtime.disk_usage(&key).ok()?))).collect();
        *self.disk.lock().unwrap_or_else(PoisonError::into_inner) = disk;
    }

    /// Measures now. Reads files: blocks for milliseconds.
    pub(crate) fn measure(&self) -> pb::NodeStats {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let rates = Rates { noted, at: Instant::now(), time: Timestamp::now() };
        let mut pods = Vec::new();
        for found in self.runtime.usage() {
            let pod = self.pods.list().into_iter().find(|pod| local_uid(pod) == found.uid);
            // One that the API does not know any more is about to be removed.
            let Some(pod) = pod else { continue };
            let began = found.containers.iter().map(|container| container.started_at).min();
            let containers = found.containers.iter().map(|container| pb::ContainerStats {
                name: container.key.name.clone(),
                usage: Some(rates.usage(&container.key.id(), &container.usage, Some(container.started_at))),
                rootfs_used_bytes: disk.get(&container.key).map(|disk| disk.rootfs),
                logs_used_bytes: disk.get(&container.key).map(|disk| disk.log),
                started_nanos: nanos(container.started_at),
            });
            pods.push(pb::PodStats {
                namespace: pod.meta().namespace.clone(),
                name: pod.meta().name.clone(),
                uid: found.uid.clone(),
                usage: Some(rates.usage(&found.uid, &found.usage, began)),
                network: if pod.spec().host_network { None } else { network::of_process(found.pid, "eth0") },
                containers: containers.collect(),
            });
        }
        pb::NodeStats {
            node_name: self.node_name.clone(),
            time_nanos: nanos(rates.time),
            usage: Some(rates.usage(NODE, &node::usage(), None)),
            network: network::of_process(std::process::id().cast_signed(), &self.uplink),
            filesystem: node::filesystem(&self.state_dir),
            pods,
        }
    }
}

/// What counters are related to.
struct Rates {
    noted: HashMap<String, Noted>,
    at: Instant,
    time: Timestamp,
}

impl Rates {
    fn usage(&self, key: &str, usage: &Usage, began: Option<Timestamp>) -> pb::Usage {
        let since_noted = self.noted.get(key).and_then(|noted| {
            let window = self.at.duration_since(noted.at);
            (window >= SHORTEST).then(|| (usage.cpu.saturating_sub(noted.cpu), window))
        });
        let since_began = || {
            let window = Duration::try_from(self.time.duration_since(began?)).ok()?;
            (window >= SHORTEST).then_some((usage.cpu, window))
        };
        let rate = since_noted.or_else(since_began);
        let cores = rate.map(|(cpu, window)| cpu.as_nanos() * 1_000_000_000 / window.as_nanos().max(1));
        let whole = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        pb::Usage {
            cpu_nano_cores: cores.map(whole),
            cpu_nanoseconds: whole(usage.cpu.as_nanos()),
            window_nanos: rate.map_or(0, |(_, window)| whole(window.as_nanos())),
            memory_usage_bytes: usage.memory,
            memory_working_set_bytes: usage.memory_working_set,
            memory_rss_bytes: usage.memory_rss,
            memory_available_bytes: usage
                .memory_limit
                .map(|limit| limit.saturating_sub(usage.memory_working_set)),
            page_faults: usage.page_faults,
            major_page_faults: usage.major_page_faults,
        }
    }
}

fn nanos(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_relates_to_what_was_noted_or_else_to_the_beginning() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let noted = Noted { at: now, cpu: second };
        let rates = |after: Duration| Rates {
            noted: [("known".to_owned(), noted)].into(),
            at: now + after,
            time: Timestamp::from_second(1000).expect("a time"),
        };
        let usage = Usage { cpu: 2 * second, memory: 10, memory_working_set: 8, ..Usage::default() };
        let began = Timestamp::from_second(980).ok();
        let of = |rates: &Rates, key: &str, began| rates.usage(key, &usage, began).cpu_nano_cores;
        assert_eq!(of(&rates(10 * second), "known", began), Some(100_000_000));
        assert_eq!(of(&rates(10 * second), "new", began), Some(100_000_000));
        assert_eq!(of(&rates(second / 10), "known", None), None, "too short");
        assert_eq!(of(&rates(10 * second), "new", None), None);
    }
}
