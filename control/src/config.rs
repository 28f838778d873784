//! The command line.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, ValueEnum};
use weir_api::allocate::{Cidr, Ranges, parse_ports};
use weir_client::election;
use weir_store::etcd;

use crate::limits::{LimitFlags, duration};

/// The part of the machine's addresses that is served when nothing else is said.
const DEFAULT_LISTEN: &str = "127.0.0.1:6443";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Component {
    Api,
    Scheduler,
    Controllers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreKind {
    /// One file in the data directory.
    Embedded,
    /// An etcd cluster.
    Etcd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Weir's control plane: API server, scheduler and controllers.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "weir-control",
    version,
    after_help = "`weir-control store` backs up, restores, migrates and verifies stores; see its --help."
)]
pub(crate) struct Config {
    /// Holds the keys, the bootstrap token and the embedded store
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,

    /// Address to serve the API on, repeatable [default: 127.0.0.1:6443, unless sockets are inherited]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Vec<SocketAddr>,

    /// URL by which clients reach the API, repeatable: ours first, then other instances'; written into the kubeconfig
    /// [default: the first address served]
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(crate) advertise: Vec<String>,

    /// Where objects are stored
    #[arg(long, value_enum, default_value = "embedded")]
    pub(crate) store: StoreKind,

    #[command(flatten)]
    pub(crate) etcd: Etcd,

    /// Where to write an administrator's kubeconfig; without the component api: the one to connect with
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// Addresses of pods
    #[arg(long, value_name = "CIDR", default_value = "10.32.0.0/16")]
    pub(crate) cluster_cidr: String,

    /// Addresses of services
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/16")]
    pub(crate) service_cidr: String,

    /// Ports that services may open on nodes
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767")]
    pub(crate) node_port_range: String,

    /// Weights and arguments of the scheduler's plugins: a KubeSchedulerConfiguration
    #[arg(long, value_name = "FILE")]
    pub(crate) scheduler_config: Option<PathBuf>,

    /// What to run
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["api", "scheduler", "controllers"])]
    pub(crate) components: Vec<Component>,

    /// How long an Event stays after it was last heard of
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub(crate) event_ttl: Duration,

    /// Told to stop: how long to serve on while /readyz already says no
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub(crate) shutdown_delay_duration: Duration,

    /// How long others wait before they take over from a leader that is not heard of
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub(crate) leader_elect_lease_duration: Duration,

    /// How long a leader tries to renew its lease before it gives up
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) leader_elect_renew_deadline: Duration,

    /// How often leaders renew and the others look
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub(crate) leader_elect_retry_period: Duration,

    #[arg(long, value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,

    #[command(flatten)]
    pub(crate) limits: LimitFlags,
}

/// How to reach an etcd cluster.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Etcd {
    /// etcd's members, separated by commas
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    pub(crate) etcd_endpoints: Vec<String>,

    /// Authority of etcd's certificates
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_ca: Option<PathBuf>,

    /// Our certificate for etcd
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    pub(crate) etcd_cert: Option<PathBuf>,

    /// Key of our certificate for etcd
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    pub(crate) etcd_key: Option<PathBuf>,
}

impl Etcd {
    pub(crate) fn tls(&self) -> Result<Option<etcd::Tls>> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
        let Some(ca) = &self.etcd_ca else { return Ok(None) };
        let identity = match (&self.etcd_cert, &self.etcd_key) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            _ => None,
        };
        Ok(Some(etcd::Tls { ca_pem: read(ca)?, identity, server_name: None }))
    }

    pub(crate) async fn connect(&self) -> Result<etcd::Etcd> {
        let connected = etcd::connect(&self.etcd_endpoints, self.tls()?.as_ref()).await;
        connected.with_context(|| format!("connect to etcd at {}", self.etcd_endpoints.join(", ")))
    }
}

impl Config {
    /// What the syntax of the flags alone cannot say.
    pub(crate) fn check(&self) -> Result<()> {
        self.ranges()?;
        self.scheduler()?;
        self.limits.check()?;
        if self.event_ttl < Duration::from_secs(1) {
            bail!("--event-ttl must be at least 1s");
        }
        let components: BTreeSet<_> = self.components.iter().collect();
        if components.len() != self.components.len() {
            bail!("--components names one of them twice");
        }
        if self.store == StoreKind::Etcd && self.etcd.etcd_endpoints.is_empty() {
            bail!("--store etcd needs --etcd-endpoints");
        }
        if self.store == StoreKind::Embedded && !self.etcd.etcd_endpoints.is_empty() {
            bail!("--etcd-endpoints needs --store etcd");
        }
        if !self.runs(Component::Api) && self.kubeconfig.is_none() {
            bail!("without the component api, --kubeconfig must say how to reach it");
        }
        self.election("", "").check().context("--leader-elect-…")?;
        for url in &self.advertise {
            host_of(url)
                .with_context(|| format!("--advertise {url:?} is not of the form https://host:port"))?;
        }
        Ok(())
    }

    pub(crate) fn runs(&self, component: Component) -> bool {
        self.components.contains(&component)
    }

    pub(crate) fn ranges(&self) -> Result<Ranges> {
        let cluster_ips: Cidr = self.service_cidr.parse().context("--service-cidr")?;
        let node_ports = parse_ports(&self.node_port_range).context("--node-port-range")?;
        Ok(Ranges { cluster_ips, node_ports })
    }

    pub(crate) fn scheduler(&self) -> Result<weir_scheduler::Config> {
        let Some(path) = &self.scheduler_config else { return Ok(weir_scheduler::Config::default()) };
        let at = || format!("--scheduler-config {}", path.display());
        let text = fs::read_to_string(path).with_context(at)?;
        weir_scheduler::configuration::parse(&text).with_context(at)
    }

    /// What to listen on, given that `inherited` sockets are there already.
    pub(crate) fn addresses(&self, inherited: usize) -> Vec<SocketAddr> {
        match DEFAULT_LISTEN.parse() {
            Ok(default) if self.listen.is_empty() && inherited == 0 => vec![default],
            _ => self.listen.clone(),
        }
    }

    /// How to compete for a Lease.
    pub(crate) fn election(&self, lease: &str, identity: &str) -> election::Config {
        election::Config {
            lease_duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
            ..election::Config::new(lease, identity)
        }
    }

    /// Several instances may stand over one etcd; the embedded store is ours alone.
    pub(crate) fn may_have_rivals(&self) -> bool {
        self.store == StoreKind::Etcd || !self.runs(Component::Api)
    }
}

/// The host of `https://host:port`, without the brackets of an IPv6 address.
pub(crate) fn host_of(url: &str) -> Option<String> {
    let authority = url.strip_prefix("https://")?.trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty() && !host.contains('/')).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Config> {
        let config = Config::try_parse_from(["weir-control", "--data-dir", "/d"].iter().chain(arguments))?;
        config.check()?;
        Ok(config)
    }

    #[test]
    fn a_data_directory_is_all_it_takes() {
        let config = parsed(&[]).unwrap();
        assert!(config.runs(Component::Api) && config.runs(Component::Scheduler));
        assert_eq!(config.addresses(0).len(), 1);
        assert_eq!(config.addresses(1).len(), 0);
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for arguments in [
            &["--store", "etcd"][..],
            &["--etcd-endpoints", "http://e:2379"],
            &["--service-cidr", "10.96.0.1/16"],
            &["--node-port-range", "2-1"],
            &["--components", "scheduler"],
            &["--components", "api,api"],
            &["--components", "cooks"],
            &["--advertise", "weir.example"],
            &["--listen", "here"],
            &["--scheduler-config", "/nowhere"],
            &["--event-ttl", "0s"],
            &["--max-connections", "0"],
            &["--client-burst", "0"],
            &["--request-timeout", "soon"],
            &["--leader-elect-lease-duration", "10s"],
            &["--leader-elect-retry-period", "soon"],
        ] {
            assert!(parsed(arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn a_scheduler_configuration_is_checked_before_anything_starts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("scheduler.yaml");
        let with = |profile: &str| {
            let header = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration";
            fs::write(&path, format!("{header}\nprofiles: [{profile}]")).unwrap();
            parsed(&["--scheduler-config", path.to_str().unwrap()])
        };
        let config = with("{schedulerName: packer}").unwrap();
        assert_eq!(config.scheduler().unwrap().scheduler_name, "packer");
        let error = format!("{:#}", with("{schedulerName: 7}").unwrap_err());
        assert!(error.contains("scheduler.yaml: profiles[0]: invalid type"), "{error}");
    }

    #[test]
    fn hosts_are_read_from_urls() {
        assert_eq!(host_of("https://127.0.0.1:6443").as_deref(), Some("127.0.0.1"));
        assert_eq!(host_of("https://[::1]:6443/").as_deref(), Some("::1"));
        assert_eq!(host_of("http://a:1"), None);
        assert_eq!(host_of("https://a"), None);
    }
}
