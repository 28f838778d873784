//! The agent's life: join, register, open what the node has, serve and follow until told to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weir_client::{Client, Informer, Recorder, informer};
use weir_network::Network;
use weir_proto::core::v1::{ContainerImage, Pod};
use weir_runtime::Runtime;
use weir_runtime::images::{CollectionPolicy, LayerLimits, RegistrySettings};
use weir_runtime::logs::RotationPolicy;

use crate::config::Config;
use crate::identity::Identity;
use crate::node::{Machine, Readiness, Reporter};
use crate::stats::Stats;
use crate::upkeep::Upkeep;
use crate::{dataplane, dns, node, pods, server};

/// How often it is looked whether the certificate is to be renewed.
const RENEWAL_LOOK: Duration = Duration::from_secs(3600);

/// Returns when told to stop, or with what the agent cannot live without. Containers and dataplane stay.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    // Whoever was first has installed the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Arc::new(config);
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("cannot make {}", config.state_dir.display()))?;
    let mut tasks = JoinSet::new();
    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        outcome = live(&config, &mut tasks, &shutdown) => outcome,
    };
    shutdown.cancel();
    tasks.shutdown().await;
    outcome
}

async fn live(
    config: &Arc<Config>,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    // Before anything that needs the control plane.
    let dns = dns::start(config, tasks, shutdown)?;
    let identity = Identity::obtain(config).await?;
    let client = Client::new(&identity.client_config(config))?.with_field_manager("weir-agent");
    let (ready, readiness) = watch::channel(Readiness::NotReady("the agent is starting".to_owned()));
    let (present_images, images) = watch::channel(Vec::new());
    let reporter = Reporter::new(client.clone(), Arc::clone(config), readiness, images);
    reporter.register().await.context("cannot register the node")?;
    let (node, stop) = (config.node_name.clone(), shutdown.clone());
    tasks.spawn(done(node::keep_lease(client.clone(), node, stop)));
    tasks.spawn(done(reporter.run(shutdown.clone())));
    let (known, present) = watch::channel(identity);
    tasks.spawn(done(renew(Arc::clone(config), client.clone(), known)));

    let context = Arc::new(open(config, client.clone()).await?);
    let options = informer::Options::default().fields(format!("spec.nodeName={}", config.node_name));
    let bound = Informer::<Pod>::start(client.api(), options);
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
    };
    tasks.spawn(done(sync.run(shutdown.clone())));
    tasks.spawn(done(upkeep(config, &context, present_images).run(shutdown.clone())));
    tasks.spawn(done(pods::run(context, bound, shutdown.clone())));
    ready.send_replace(Readiness::Ready);
    tracing::info!(node = config.node_name, "the node is ready");
    // None of these ends before the agent does.
    match tasks.join_next().await {
        Some(Ok(Err(error))) => Err(error),
        Some(Err(error)) if error.is_panic() => anyhow::bail!("a part of the agent failed: {error}"),
        _ if shutdown.is_cancelled() => Ok(()),
        _ => anyhow::bail!("a part of the agent ended"),
    }
}

/// Network, dataplane and runtime of this node: what an earlier agent left is taken up.
async fn open(config: &Config, client: Client) -> anyhow::Result<pods::Context> {
    let pod_cidr = node::pod_cidr(&client, &config.node_name).await;
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
    let machine = Machine::look(&config.state_dir);
    Ok(pods::Context {
        node_name: config.node_name.clone(),
        node_ip: config.node_ip,
        allocatable: machine.resources(0),
        names: pods::Names {
            cluster_dns: config.cluster_dns.clone(),
            cluster_domain: config.cluster_domain.clone(),
            resolv_conf: std::fs::read_to_string(&config.resolv_conf).unwrap_or_default(),
            hosts: std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
        },
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

/// Renews the certificate in time, for the client and for whoever serves with it.
async fn renew(config: Arc<Config>, client: Client, identity: watch::Sender<Identity>) {
    loop {
        let present = identity.borrow().clone();
        let due = present.renew_at().is_ok_and(|at| at <= Timestamp::now());
        if due {
            match present.renew(&config).await {
                Ok(renewed) => {
                    if let Err(error) = client.reconnect(&renewed.client_config(&config)) {
                        tracing::warn!(%error, "cannot use the renewed certificate");
                    }
                    tracing::info!("renewed the node's certificate");
                    identity.send_replace(renewed);
                }
                Err(error) => tracing::warn!(%error, "cannot renew the node's certificate"),
            }
        }
        tokio::time::sleep(RENEWAL_LOOK).await;
    }
}

async fn done(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}
