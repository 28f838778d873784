//! The agent's flags.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use weir_dataplane::XdpMode;
use weir_proto::Quantity;

use crate::eviction::signals::{Amount, Limit, Signal};

/// The node agent of Weir: runs this node's pods and programs its kernel.
///
/// It must be started in the node's network namespace.
#[derive(Clone, Debug, Parser)]
#[command(name = "weir-agent", version = crate::VERSION)]
pub struct Config {
    /// Name of the Node object
    #[arg(long)]
    pub node_name: String,
    /// API server, https://host:port; several are tried in turn
    #[arg(long, required = true, value_delimiter = ',')]
    pub server: Vec<String>,
    /// Certificate authority of the cluster, PEM
    #[arg(long, value_name = "FILE")]
    pub ca: PathBuf,
    /// Token for joining; needed until the node has its certificate
    #[arg(long, value_name = "FILE")]
    pub bootstrap_token_file: Option<PathBuf>,
    /// Everything the agent keeps
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// The node's cgroup, relative to the root of each hierarchy
    #[arg(long, value_name = "PATH", default_value = "weir/node")]
    pub cgroup_parent: String,
    /// Directory on a bpffs for the pinned dataplane
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/weir/node")]
    pub bpffs: PathBuf,
    /// Interface towards the other nodes
    #[arg(long, value_name = "IFNAME")]
    pub uplink: String,
    /// Address of this node on the uplink
    #[arg(long, value_name = "IP")]
    pub node_ip: IpAddr,
    /// OCI image layout, directory or archive; may be given several times
    #[arg(long, value_name = "PATH")]
    pub image_source: Vec<PathBuf>,
    /// Directory of directories by registry with hosts.toml and *.crt, as containerd's certs.d
    #[arg(long, value_name = "DIR", default_value = "/etc/weir/certs.d")]
    pub registry_config_dir: PathBuf,
    /// Images pulled at the same time
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub max_parallel_image_pulls: usize,
    /// Percent of the disk in use from which unused images are removed; 100 for never
    #[arg(long, value_name = "PERCENT", default_value_t = 85, value_parser = clap::value_parser!(u8).range(..=100))]
    pub image_gc_high_threshold: u8,
    /// Percent of the disk in use down to which unused images are removed
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(..=100))]
    pub image_gc_low_threshold: u8,
    /// Images used more recently are not removed
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    pub minimum_image_ttl_duration: Duration,
    /// Images not used for longer are removed, however much room there is; 0s for never
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub image_maximum_gc_age: Duration,
    /// Size at which a container's log is rotated
    #[arg(long, value_name = "QUANTITY", default_value = "10Mi", value_parser = bytes)]
    pub container_log_max_size: u64,
    /// Files kept of a container's log, the one being written included
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..))]
    pub container_log_max_files: u32,
    /// How long the end of a pod behind a Service waits for all nodes to stop sending it new connections; at most half of
    /// its grace period
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub end_acknowledgement_timeout: Duration,
    /// Where the API server asks for logs and views
    #[arg(long, value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// Labels of the Node object, beside the usual ones
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Most bytes of an image's layer, unpacked
    #[arg(long, value_name = "QUANTITY", default_value = "32Gi", value_parser = bytes)]
    pub image_layer_max_size: u64,
    /// Kernel parameters that pods may set beside the safe ones; a * stands for every ending
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Most processes of a pod; as many as the node takes by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub pod_max_pids: Option<u64>,
    /// How many pods the node takes
    #[arg(long, default_value_t = 110)]
    pub max_pods: u32,
    /// MTU of pod links; the uplink's by default
    #[arg(long)]
    pub mtu: Option<u32>,
    /// Directory of static pods: a file a pod, YAML or JSON; they run with or without a control plane
    #[arg(long, value_name = "DIR")]
    pub pod_manifest_path: Option<PathBuf>,
    /// Pod range of this node, until the control plane has given it one
    #[arg(long, value_name = "CIDR")]
    pub pod_cidr: Option<String>,
    /// What the system keeps for itself: cpu=500m,memory=1Gi
    #[arg(long, value_name = "RESOURCE=QUANTITY", value_delimiter = ',', value_parser = reserved)]
    pub system_reserved: Vec<(String, Quantity)>,
    /// What Weir keeps for itself: cpu=100m,memory=200Mi
    #[arg(long, value_name = "RESOURCE=QUANTITY", value_delimiter = ',', value_parser = reserved)]
    pub kube_reserved: Vec<(String, Quantity)>,
    /// Below what pods are evicted at once; signals: memory, nodefs, imagefs and pid .available, nodefs and imagefs
    /// .inodesFree
    #[arg(long, value_name = "SIGNAL<AMOUNT", value_delimiter = ',', default_value = EVICTION_HARD)]
    pub eviction_hard: Vec<Limit>,
    /// Below what pods are evicted after a while
    #[arg(long, value_name = "SIGNAL<AMOUNT", value_delimiter = ',')]
    pub eviction_soft: Vec<Limit>,
    /// How long a soft threshold may be crossed
    #[arg(long, value_name = "SIGNAL=DURATION", value_delimiter = ',', value_parser = signal_duration)]
    pub eviction_soft_grace_period: Vec<(Signal, Duration)>,
    /// How much more than its threshold must be there again
    #[arg(long, value_name = "SIGNAL=AMOUNT", value_delimiter = ',', value_parser = signal_amount)]
    pub eviction_minimum_reclaim: Vec<(Signal, Amount)>,
    /// What pods get at most, in seconds, to end because of a soft threshold
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub eviction_max_pod_grace_period: u64,
    /// How long a pressure shows after it was there last
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub eviction_pressure_transition_period: Duration,
    /// What pods get to end when the machine shuts down (SIGPWR); 0s for nothing
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub shutdown_grace_period: Duration,
    /// The part of it that is for critical pods, which end last
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub shutdown_grace_period_critical_pods: Duration,
    /// Addresses of cluster DNS, which this node serves by itself: nameservers of pods with dnsPolicy ClusterFirst. By
    /// default what the Service kube-system/kube-dns says
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,
    /// Cluster DNS is served by somebody else: only tell pods of it
    #[arg(long, requires = "cluster_dns")]
    pub external_cluster_dns: bool,
    /// Whom cluster DNS asks for other names; by default the nameservers of the resolv.conf
    #[arg(long, value_name = "IP[:PORT]", value_delimiter = ',', value_parser = name_server)]
    pub dns_upstream: Vec<SocketAddr>,
    /// The node's own resolver: what pods with dnsPolicy Default get
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Domain of the cluster's services
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// The uplink's XDP accelerator: off, native, native-redirect (for a veth) or generic
    #[arg(long, default_value = "off")]
    pub xdp: XdpMode,
}

/// The kubelet's on Linux.
const EVICTION_HARD: &str = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%";

fn reserved(text: &str) -> Result<(String, Quantity), String> {
    let (name, amount) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form resource=quantity"))?;
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage" | "pods" | "pid") {
        return Err(format!("{name:?} cannot be reserved; cpu, memory, ephemeral-storage, pods and pid can"));
    }
    let amount: Quantity = amount.parse().map_err(|error| format!("{text:?}: {error}"))?;
    if amount.is_negative() {
        return Err(format!("{text:?} is negative"));
    }
    Ok((name.to_owned(), amount))
}

fn signal_duration(text: &str) -> Result<(Signal, Duration), String> {
    let (signal, time) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form signal=duration"))?;
    Ok((signal.parse()?, duration(time)?))
}

fn signal_amount(text: &str) -> Result<(Signal, Amount), String> {
    let (signal, amount) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form signal=amount"))?;
    Ok((signal.parse()?, amount.parse()?))
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form key=value"))?;
    if key.is_empty() {
        return Err(format!("{text:?} has no key"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// An address, with DNS' port unless another is given.
fn name_server(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, 53));
    }
    text.parse().map_err(|_| format!("{text:?} is neither an address nor of the form address:port"))
}

/// `90s`, `2m`, `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
    Duration::try_from(parsed).map_err(|_| format!("{text:?} is negative"))
}

fn bytes(text: &str) -> Result<u64, String> {
    let quantity: Quantity = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
    u64::try_from(quantity.value()).map_err(|_| format!("{text:?} is negative or too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: &[&str] = &[
        "weir-agent",
        "--node-name=n",
        "--server=https://10.31.0.1:6443",
        "--ca=/ca",
        "--state-dir=/s",
        "--uplink=eth0",
        "--node-ip=10.31.0.11",
        "--listen=10.31.0.11:10250",
    ];

    #[test]
    fn the_flags_of_a_cluster_are_read() {
        let config = Config::try_parse_from(REQUIRED.iter().chain(&[
            "--labels=zone=a,disk=",
            "--image-source=/one",
            "--image-source=/two",
        ]))
        .expect("valid flags");
        assert_eq!(config.labels, [("zone".into(), "a".into()), ("disk".into(), String::new())]);
        assert_eq!(config.image_source.len(), 2);
    }

    #[test]
    fn what_the_disk_is_kept_by_has_the_kubelets_defaults_and_forms() {
        let config = Config::try_parse_from(REQUIRED).expect("valid flags");
        assert_eq!((config.image_gc_high_threshold, config.image_gc_low_threshold), (85, 80));
        assert_eq!(config.minimum_image_ttl_duration, Duration::from_secs(120));
        assert_eq!((config.container_log_max_size, config.container_log_max_files), (10 << 20, 5));
        let with = |flag: &str| Config::try_parse_from(REQUIRED.iter().chain(&[flag]));
        let config = with("--image-maximum-gc-age=1h30m").expect("valid flags");
        assert_eq!(config.image_maximum_gc_age, Duration::from_secs(5400));
        for wrong in
            ["--container-log-max-size=many", "--image-gc-high-threshold=101", "--container-log-max-files=1"]
        {
            assert!(with(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn name_servers_may_have_a_port() {
        let with = |flag: &str| Config::try_parse_from(REQUIRED.iter().chain(&[flag]));
        let config =
            with("--dns-upstream=192.0.2.1,192.0.2.2:5353,fd00::1,[fd00::2]:53").expect("valid flags");
        let servers: Vec<_> = config.dns_upstream.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "192.0.2.2:5353", "[fd00::1]:53", "[fd00::2]:53"]);
        let error = with("--dns-upstream=dns.example.com").expect_err("refused").to_string();
        assert!(error.contains("neither an address nor of the form address:port"), "{error}");
    }

    #[test]
    fn a_label_without_a_value_is_named() {
        let error = Config::try_parse_from(REQUIRED.iter().chain(&["--labels=zone"])).expect_err("refused");
        assert!(error.to_string().contains("\"zone\" is not of the form key=value"), "{error}");
    }

    #[test]
    fn what_the_node_keeps_for_itself_is_checked() {
        let config = Config::try_parse_from(REQUIRED).expect("valid flags");
        assert_eq!(config.eviction_hard.len(), 5);
        for bad in [
            "--eviction-hard=memory.available<lots",
            "--eviction-hard=swap.available<1Gi",
            "--system-reserved=gpu=1",
            "--kube-reserved=cpu",
            "--eviction-soft-grace-period=memory.available=soon",
        ] {
            assert!(Config::try_parse_from(REQUIRED.iter().chain(&[bad])).is_err(), "{bad}");
        }
    }
}
