//! The agent's life: open what the node has, run its pods, serve and follow until told to stop; beside that join and
//! register, when the control plane is there.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::SignedDuration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weir_client::{Client, Informer, Recorder, informer};
use weir_network::Network;
use weir_proto::core::v1::{ContainerImage, Pod};
use weir_runtime::Runtime;
use weir_runtime::cgroup::Group;
use weir_runtime::images::{CollectionPolicy, LayerLimits, RegistrySettings};
use weir_runtime::logs::RotationPolicy;

use crate::config::Config;
use crate::eviction::{self, Eviction};
use crate::identity::{self, Identity};
use crate::membership::{Membership, PodRange};
use crate::node::{Machine, Readiness, Reporter};
use crate::shutdown::Shutdown;
use crate::static_pods::{self, Wanted};
use crate::stats::Stats;
use crate::upkeep::Upkeep;
use crate::{dataplane, dns, metrics, node, pods, server};

/// Returns when told to stop, or with what the agent cannot live without. Containers and dataplane stay.
///
/// `power_fails`: the machine is about to go, and its pods are to be told.
pub async fn run(
    config: Config,
    shutdown: CancellationToken,
    power_fails: CancellationToken,
) -> anyhow::Result<()> {
    // Whoever was first has installed the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    metrics::introduce();
    let config = Arc::new(config);
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("cannot make {}", config.state_dir.display()))?;
    let mut tasks = JoinSet::new();
    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        outcome = live(&config, &mut tasks, &shutdown, &power_fails) => outcome,
    };
    shutdown.cancel();
    tasks.shutdown().await;
    outcome
}

async fn live(
    config: &Arc<Config>,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    shutdown: &CancellationToken,
    power_fails: &CancellationToken,
) -> anyhow::Result<()> {
    // Before anything that needs the control plane.
    let dns = dns::start(config, tasks, shutdown)?;
    let cluster_dns = match &dns {
        Some(dns) => dns.addresses(),
        None => watch::channel(Some(config.cluster_dns.clone())).1,
    };
    let policy = eviction_policy(config)?;
    let (ready, readiness) = watch::channel(Readiness::Starting);
    let (present_images, images) = watch::channel(Vec::new());
    let (pressing, pressures) = watch::channel(BTreeSet::new());
    let identity = Identity::present(config)?;
    let to =
        identity.as_ref().map_or_else(|| identity::stranger(config), |own| Ok(own.client_config(config)))?;
    let client = Client::new(&to)?.with_field_manager("weir-agent");

    let (known, present) = watch::channel(identity);
    let (registered, mut is_registered) = watch::channel(false);
    let membership = Membership {
        reporter: Reporter::new(client.clone(), Arc::clone(config), readiness, images, pressures.clone()),
        config: Arc::clone(config),
        client: client.clone(),
        identity: known,
        registered,
    };
    tasks.spawn(membership.keep(shutdown.clone()));
    let range = PodRange::of(config);
    let node = match range.known(config) {
        Some(_) => node::follow(&client, &config.node_name),
        None => {
            tracing::info!("waiting for the control plane: this node has no pod range yet (see --pod-cidr)");
            tokio::select! {
                // What the control plane has against this node, it says here.
                Some(ended) = tasks.join_next() => return ended?,
                registered = is_registered.wait_for(|is| *is) => drop(registered?),
            }
            let node = node::follow(&client, &config.node_name);
            range.save(&node::pod_cidr(&node, &config.node_name).await);
            node
        }
    };
    let in_use = range.known(config).context("the node's pod range cannot be kept in the state directory")?;
    let gate = pods::Gate {
        max_pods: config.max_pods,
        node: node.clone(),
        pressures,
        shutting_down: Arc::default(),
    };
    let context = Arc::new(open(config, &in_use, client.clone(), gate, cluster_dns).await?);
    tasks.spawn(range.hold(in_use, node));

    let options = informer::Options::default().fields(format!("spec.nodeName={}", config.node_name));
    let bound = Informer::<Pod>::start(client.api(), options);
    let static_pods = follow_static_pods(config, &context, tasks, shutdown);
    let stats = Arc::new(Stats::new(
        config.node_name.clone(),
        Arc::clone(&context.runtime),
        bound.clone(),
        config.uplink.clone(),
        config.state_dir.clone(),
    ));
    tasks.spawn(done(Arc::clone(&stats).run(shutdown.clone())));
    let sources = server::Sources {
        node_name: config.node_name.clone(),
        runtime: Arc::clone(&context.runtime),
        pods: bound.clone(),
        dataplane: context.dataplane.clone(),
        stats,
    };
    let serving = server::serve(config.listen, present, sources, shutdown.clone());
    tasks.spawn(async move { Ok(serving.await?) });
    if let Some(dns) = &dns {
        let report = dns.clone().report(context.recorder.clone(), config.node_name.clone());
        tasks.spawn(done(report));
    }
    let sync = dataplane::Sync {
        client,
        node: config.node_name.clone(),
        dataplane: context.dataplane.clone(),
        network: Arc::clone(&context.network),
        dns,
        ready: ready.clone(),
    };
    tasks.spawn(done(sync.run(shutdown.clone())));
    tasks.spawn(done(upkeep(config, &context, present_images).run(shutdown.clone())));
    let eviction = Eviction {
        node_name: config.node_name.clone(),
        policy,
        measure: eviction::Measure {
            state_dir: config.state_dir.clone(),
            group: Group::at(&config.cgroup_parent).ok(),
            runtime: Arc::clone(&context.runtime),
        },
        pods: bound.clone(),
        endings: context.endings.clone(),
        recorder: context.recorder.clone(),
        pressures: pressing,
    };
    tasks.spawn(done(eviction.run(shutdown.clone())));
    let going = Shutdown {
        grace: config.shutdown_grace_period,
        critical_grace: config.shutdown_grace_period_critical_pods,
        pods: bound.clone(),
        static_pods: static_pods.clone(),
        runtime: Arc::clone(&context.runtime),
        endings: context.endings.clone(),
        shutting_down: Arc::clone(&context.gate.shutting_down),
        ready,
    };
    tasks.spawn(done(pods::run(context, bound, static_pods, shutdown.clone())));
    // None of the tasks ends before the agent does.
    let ended = tokio::select! {
        ended = tasks.join_next() => ended,
        () = power_fails.cancelled() => {
            going.perform().await;
            return Ok(());
        }
    };
    match ended {
        Some(Ok(Err(error))) => Err(error),
        Some(Err(error)) if error.is_panic() => anyhow::bail!("a part of the agent failed: {error}"),
        _ if shutdown.is_cancelled() => Ok(()),
        _ => anyhow::bail!("a part of the agent ended"),
    }
}

/// The static pods there are to be; none without a directory.
fn follow_static_pods(
    config: &Config,
    context: &pods::Context,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    shutdown: &CancellationToken,
) -> watch::Receiver<Option<Wanted>> {
    let Some(path) = config.pod_manifest_path.clone() else { return watch::channel(Some(Wanted::new())).1 };
    let (wanted, static_pods) = watch::channel(None);
    let source = static_pods::Source::new(config.node_name.clone(), path, context.recorder.clone());
    tasks.spawn(done(source.run(wanted, shutdown.clone())));
    static_pods
}

fn eviction_policy(config: &Config) -> anyhow::Result<eviction::Policy> {
    let thresholds = eviction::signals::thresholds(
        &config.eviction_hard,
        &config.eviction_soft,
        &config.eviction_soft_grace_period,
        &config.eviction_minimum_reclaim,
    );
    Ok(eviction::Policy {
        thresholds: thresholds.map_err(anyhow::Error::msg)?,
        transition: config.eviction_pressure_transition_period,
        max_pod_grace: Duration::from_secs(config.eviction_max_pod_grace_period),
    })
}

/// Network, dataplane and runtime of this node: what an earlier agent left is taken up.
async fn open(
    config: &Config,
    pod_cidr: &str,
    client: Client,
    gate: pods::Gate,
    cluster_dns: dns::Addresses,
) -> anyhow::Result<pods::Context> {
    let uplink = weir_network::interface(&config.uplink).await.context("cannot find the uplink")?;
    weir_network::prepare_node().context("cannot prepare the node's network")?;
    let network = Network::open(weir_network::Config {
        state_dir: config.state_dir.join("network"),
        pod_cidr: pod_cidr.parse().with_context(|| format!("the node's pod range {pod_cidr:?}"))?,
        mtu: config.mtu.unwrap_or(uplink.mtu),
    });
    let network = network.await.context("cannot open the pod network")?;
    let dataplane = dataplane::Handle::open(weir_dataplane::Config {
        bpffs: config.bpffs.clone(),
        cgroup: dataplane::node_cgroup(&config.cgroup_parent)?,
        uplink: uplink.index,
        node_addresses: vec![config.node_ip],
        xdp: config.xdp,
        sizes: weir_dataplane::Sizes::default(),
    });
    let dataplane = dataplane.await.context("cannot open the dataplane")?;
    let runtime_config = weir_runtime::Config {
        state_dir: config.state_dir.clone(),
        cgroup_parent: format!("{}/pods", config.cgroup_parent.trim_end_matches('/')),
        agent_exe: PathBuf::from("/proc/self/exe"),
        image_sources: config.image_source.clone(),
        registries: Some(RegistrySettings {
            config_dir: Some(config.registry_config_dir.clone()),
            parallel_pulls: config.max_parallel_image_pulls,
            ..RegistrySettings::default()
        }),
        layer_limits: LayerLimits { bytes: config.image_layer_max_size, ..LayerLimits::default() },
    };
    let runtime = tokio::task::spawn_blocking(move || Runtime::open(runtime_config)).await?;
    let runtime = runtime.context("cannot open the container runtime")?;
    let (_, allocatable) = node::resources(config, &Machine::of(config));
    Ok(pods::Context {
        node_name: config.node_name.clone(),
        node_ip: config.node_ip,
        allocatable,
        names: pods::Names {
            // Filled in where it is needed: it may be learned later.
            cluster_dns: Vec::new(),
            cluster_domain: config.cluster_domain.clone(),
            resolv_conf: std::fs::read_to_string(&config.resolv_conf).unwrap_or_default(),
            hosts: std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
            hostname: Machine::host_name(),
        },
        cluster_dns,
        seccomp_dir: config.state_dir.join("seccomp"),
        rules: pods::Rules { unsafe_sysctls: config.allowed_unsafe_sysctls.clone() },
        pod_max_pids: config.pod_max_pids,
        recorder: Recorder::new(&client, "weir-agent", &config.node_name),
        client,
        runtime: Arc::new(runtime),
        network: Arc::new(network),
        tokens: pods::Tokens::default(),
        dataplane,
        endings: pods::Endings::default(),
        feeds: pods::Feeds::default(),
        services: pods::Services::default(),
        end_limit: SignedDuration::try_from(config.end_acknowledgement_timeout)
            .unwrap_or(SignedDuration::MAX),
        gate,
        static_records: config.state_dir.join("static-pods"),
    })
}

fn upkeep(
    config: &Config,
    context: &pods::Context,
    present_images: watch::Sender<Vec<ContainerImage>>,
) -> Upkeep {
    Upkeep {
        present_images,
        node_name: config.node_name.clone(),
        runtime: Arc::clone(&context.runtime),
        recorder: context.recorder.clone(),
        images: CollectionPolicy {
            high_threshold: config.image_gc_high_threshold,
            low_threshold: config.image_gc_low_threshold.min(config.image_gc_high_threshold),
            minimum_age: config.minimum_image_ttl_duration,
            maximum_age: config.image_maximum_gc_age,
        },
        logs: RotationPolicy {
            max_size: config.container_log_max_size,
            max_files: config.container_log_max_files,
        },
    }
}

async fn done(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}
