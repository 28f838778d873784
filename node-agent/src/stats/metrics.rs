//! The figures in Prometheus' text, under the names that dashboards know from the kubelet and cAdvisor. Made anew for each
//! scrape: what is gone is gone from the text too. Behind them, whatever the agent counts besides.

use prometheus::{CounterVec, Encoder, GaugeVec, Opts, Registry, TextEncoder};
use weir_proto::weir::v1::{NodeStats, Usage};

/// The series of a scrape.
struct Series {
    registry: Registry,
}

impl Series {
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<CounterVec> {
        let family = CounterVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        let family = GaugeVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }
}

pub(crate) fn text(stats: &NodeStats) -> prometheus::Result<Vec<u8>> {
    let series = Series { registry: Registry::new() };
    containers(stats, &series)?;
    pods(stats, &series)?;
    if let Some(usage) = &stats.usage {
        let node = [stats.node_name.as_str()];
        let cpu = series.counters("node_cpu_usage_seconds_total", "CPU time of the node", &["node"])?;
        cpu.with_label_values(&node).inc_by(seconds(usage));
        let memory = series.gauges("node_memory_working_set_bytes", "Working set of the node", &["node"])?;
        memory.with_label_values(&node).set(float(usage.memory_working_set_bytes));
    }
    let running = series.gauges("kubelet_running_pods", "Pods with a running container", &[])?;
    running.with_label_values::<&str>(&[]).set(float(stats.pods.len() as u64));
    let count: usize = stats.pods.iter().map(|pod| pod.containers.len()).sum();
    let running = series.gauges("kubelet_running_containers", "Containers by state", &["container_state"])?;
    running.with_label_values(&["running"]).set(float(count as u64));

    let mut families = series.registry.gather();
    families.extend(prometheus::gather());
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text)?;
    Ok(text)
}

fn containers(stats: &NodeStats, series: &Series) -> prometheus::Result<()> {
    let labels = ["namespace", "pod", "container"];
    let cpu = series.counters("container_cpu_usage_seconds_total", "CPU time", &labels)?;
    let usage = series.gauges("container_memory_usage_bytes", "Memory, all of it", &labels)?;
    let working_set =
        series.gauges("container_memory_working_set_bytes", "Memory without inactive file pages", &labels)?;
    let rss = series.gauges("container_memory_rss", "Anonymous memory", &labels)?;
    let disk = series.gauges("container_fs_usage_bytes", "Bytes written to the root file system", &labels)?;
    let started = series.gauges("container_start_time_seconds", "When it started", &labels)?;
    for pod in &stats.pods {
        for container in &pod.containers {
            let of = [pod.namespace.as_str(), pod.name.as_str(), container.name.as_str()];
            let found = container.usage.unwrap_or_default();
            cpu.with_label_values(&of).inc_by(seconds(&found));
            usage.with_label_values(&of).set(float(found.memory_usage_bytes));
            working_set.with_label_values(&of).set(float(found.memory_working_set_bytes));
            rss.with_label_values(&of).set(float(found.memory_rss_bytes));
            started.with_label_values(&of).set(container.started_nanos as f64 / 1e9);
            if let Some(bytes) = container.rootfs_used_bytes {
                disk.with_label_values(&of).set(float(bytes));
            }
        }
    }
    Ok(())
}

fn pods(stats: &NodeStats, series: &Series) -> prometheus::Result<()> {
    let labels = ["namespace", "pod", "interface"];
    let family = |name: &str, help: &str| series.counters(name, help, &labels);
    let received = family("container_network_receive_bytes_total", "Bytes that came into the pod")?;
    let receive_errors = family("container_network_receive_errors_total", "Errors on the way in")?;
    let sent = family("container_network_transmit_bytes_total", "Bytes that left the pod")?;
    let send_errors = family("container_network_transmit_errors_total", "Errors on the way out")?;
    for pod in &stats.pods {
        let Some(network) = &pod.network else { continue };
        let of = [pod.namespace.as_str(), pod.name.as_str(), network.interface.as_str()];
        received.with_label_values(&of).inc_by(float(network.rx_bytes));
        receive_errors.with_label_values(&of).inc_by(float(network.rx_errors));
        sent.with_label_values(&of).inc_by(float(network.tx_bytes));
        send_errors.with_label_values(&of).inc_by(float(network.tx_errors));
    }
    Ok(())
}

fn seconds(usage: &Usage) -> f64 {
    usage.cpu_nanoseconds as f64 / 1e9
}

fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use weir_proto::weir::v1::{ContainerStats, PodStats};

    use super::*;

    #[test]
    fn containers_are_told_by_namespace_pod_and_name() {
        let usage = Some(Usage { cpu_nanoseconds: 1_500_000_000, ..Usage::default() });
        let container = ContainerStats { name: "c".to_owned(), usage, ..ContainerStats::default() };
        let pod = PodStats {
            namespace: "default".to_owned(),
            name: "p".to_owned(),
            containers: vec![container],
            ..PodStats::default()
        };
        let stats = NodeStats { pods: vec![pod], ..NodeStats::default() };
        let text = String::from_utf8(text(&stats).expect("text")).expect("it is text");
        let want = "container_cpu_usage_seconds_total{container=\"c\",namespace=\"default\",pod=\"p\"} 1.5";
        assert!(text.contains(want), "{text}");
        assert!(text.contains("kubelet_running_pods 1"), "{text}");
    }
}
