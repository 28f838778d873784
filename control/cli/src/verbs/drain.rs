//! `weir drain`: takes a node out of service. Its pods are chosen first, so that one that must not go stops everything
//! before anything has happened; then they are evicted, all at once, and waited for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::future::join_all;
use weir_client::{Api, DeleteOptions, ListOptions};
use weir_proto::core::v1::Pod;
use weir_proto::meta::v1::{self as meta, ObjectMeta};
use weir_proto::policy::v1::Eviction;

use crate::arguments::DryRun;
use crate::duration;
use crate::failure::Failures;
use crate::selection;
use crate::session::Session;

use super::cordon;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// NODE …
    nodes: Vec<String>,
    /// Nodes whose labels match
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
    /// Only pods whose labels match
    #[arg(long, default_value = "", hide_default_value = true)]
    pod_selector: String,
    /// Leave pods of DaemonSets where they are
    #[arg(long)]
    ignore_daemonsets: bool,
    /// Evict pods whose emptyDir volumes are lost with them
    #[arg(long)]
    delete_emptydir_data: bool,
    /// Evict pods that nobody will replace
    #[arg(long)]
    force: bool,
    /// Delete rather than evict
    #[arg(long)]
    disable_eviction: bool,
    /// Seconds that a pod gets to end; -1: its own
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    grace_period: i64,
    /// How long to wait, as 5m; 0: for ever
    #[arg(long, default_value = "0", hide_default_value = true)]
    timeout: String,
    /// Change nothing
    #[arg(long, value_enum, default_value_t = DryRun::None, num_args = 0..=1, require_equals = true,
        default_missing_value = "client")]
    dry_run: DryRun,
}

/// What is to become of a pod.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Evict,
    /// It stays, for this reason.
    Leave(&'static str),
    /// It goes, but this should be known.
    Warn(&'static str),
    /// It must not go unless a flag says so.
    Refuse(&'static str),
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    let timeout = duration::parse(&options.timeout).context("--timeout")?;
    let mut failures = Failures::default();
    let nodes = cordon::nodes(session, &options.nodes, &options.selector).await?;
    for node in selection::objects(session, nodes, &mut failures).await {
        cordon::set(session, node.as_ref(), true, options.dry_run).await?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let name = &node.meta().name;
        let drained = drain(session, options, name, deadline).await;
        failures.keep(session, drained.with_context(|| format!("unable to drain node {name:?}")));
    }
    failures.finish()
}

async fn drain(session: &Session, options: &Options, node: &str, deadline: Option<Instant>) -> Result<()> {
    let list = ListOptions {
        label_selector: options.pod_selector.clone(),
        field_selector: format!("spec.nodeName={node}"),
        ..ListOptions::default()
    };
    let mut pods = session.client.api::<Pod>().list(&list).await?.items;
    pods.retain(|pod| pod.spec().node_name == node);
    let pods = choose(session, options, pods)?;
    if options.dry_run == DryRun::None {
        let evictions = join_all(pods.iter().map(|pod| evict(session, options, pod, deadline))).await;
        evictions.into_iter().collect::<Result<Vec<()>>>()?;
    } else {
        for pod in &pods {
            session.say(format_args!("evicting pod {} (dry run)", place(pod)))?;
        }
    }
    let note = if options.dry_run == DryRun::None { "" } else { " (dry run)" };
    session.say(format_args!("node/{node} drained{note}"))
}

/// The pods that go; an error when one must not.
fn choose(session: &Session, options: &Options, pods: Vec<Pod>) -> Result<Vec<Pod>> {
    let mut chosen = Vec::new();
    let mut refused: Vec<(&str, Vec<String>)> = Vec::new();
    for pod in pods {
        match verdict(&pod, options) {
            Verdict::Evict => chosen.push(pod),
            Verdict::Leave("") => {}
            Verdict::Leave(why) => session.note(format_args!("Warning: {why}: {}", place(&pod))),
            Verdict::Warn(why) => {
                session.note(format_args!("Warning: {why}: {}", place(&pod)));
                chosen.push(pod);
            }
            Verdict::Refuse(why) => match refused.iter_mut().find(|(known, _)| *known == why) {
                Some((_, places)) => places.push(place(&pod)),
                None => refused.push((why, vec![place(&pod)])),
            },
        }
    }
    if refused.is_empty() {
        return Ok(chosen);
    }
    let reasons = refused.iter().map(|(why, places)| format!("cannot delete {why}: {}", places.join(", ")));
    bail!("{}", reasons.collect::<Vec<_>>().join("; "))
}

fn verdict(pod: &Pod, options: &Options) -> Verdict {
    let finished = matches!(pod.status().phase.as_str(), "Succeeded" | "Failed");
    if pod.meta().annotations.contains_key("kubernetes.io/config.mirror") {
        return Verdict::Leave("");
    }
    let controller = pod.meta().owner_references.iter().find(|owner| owner.controller == Some(true));
    if controller.is_some_and(|owner| owner.kind == "DaemonSet") && !finished {
        return match options.ignore_daemonsets {
            true => Verdict::Leave("ignoring DaemonSet-managed Pods"),
            false => Verdict::Refuse("DaemonSet-managed Pods (use --ignore-daemonsets to ignore)"),
        };
    }
    let has_data = pod.spec().volumes.iter().any(|volume| volume.empty_dir.is_some());
    if has_data && !finished && !options.delete_emptydir_data {
        return Verdict::Refuse("Pods with local storage (use --delete-emptydir-data to override)");
    }
    match (controller.is_some() || finished, options.force) {
        (true, _) => Verdict::Evict,
        (false, true) => Verdict::Warn("deleting Pods that declare no controller"),
        (false, false) => Verdict::Refuse("Pods that declare no controller (use --force to override)"),
    }
}

/// Evicts a pod and waits until it is gone; an eviction that would break a promise is asked for again.
async fn evict(session: &Session, options: &Options, pod: &Pod, deadline: Option<Instant>) -> Result<()> {
    let meta = pod.meta();
    let api = session.client.namespaced::<Pod>(&meta.namespace);
    session.say(format_args!("evicting pod {}", place(pod)))?;
    loop {
        match ask(&api, options, pod).await {
            Ok(()) => break,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) if error.api().is_some_and(|status| status.reason() == "TooManyRequests") => {
                session.note(format_args!(
                    "error when evicting pods/{:?} (will retry after 5s): {error}",
                    meta.name
                ));
                pause(deadline, Duration::from_secs(5), pod).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    while api.get_opt(&meta.name).await?.is_some_and(|now| now.meta().uid == meta.uid) {
        pause(deadline, Duration::from_millis(200), pod).await?;
    }
    let done = if options.disable_eviction { "deleted" } else { "evicted" };
    session.say(format_args!("pod/{} {done}", meta.name))
}

async fn ask(api: &Api<Pod>, options: &Options, pod: &Pod) -> weir_client::Result<()> {
    let meta = pod.meta();
    let grace_period_seconds = (options.grace_period >= 0).then_some(options.grace_period);
    if options.disable_eviction {
        let delete = DeleteOptions { grace_period_seconds, ..DeleteOptions::only(&meta.uid) };
        return api.delete(&meta.name, &delete).await.map(drop);
    }
    let eviction = Eviction {
        metadata: Some(ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            ..ObjectMeta::default()
        }),
        delete_options: Some(meta::DeleteOptions { grace_period_seconds, ..meta::DeleteOptions::default() }),
    };
    api.evict(&meta.name, &eviction).await
}

async fn pause(deadline: Option<Instant>, pause: Duration, pod: &Pod) -> Result<()> {
    if deadline.is_some_and(|deadline| Instant::now() + pause > deadline) {
        bail!("global timeout reached while waiting for pod {}", place(pod));
    }
    tokio::time::sleep(pause).await;
    Ok(())
}

fn place(pod: &Pod) -> String {
    format!("{}/{}", pod.meta().namespace, pod.meta().name)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;
    use weir_proto::Resource;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        options: Options,
    }

    fn options(flags: &[&str]) -> Options {
        Flags::parse_from(["drain"].iter().chain(flags)).options
    }

    fn pod(owner: Option<&str>, empty_dir: bool, phase: &str) -> Pod {
        let owners = owner.map(|kind| json!({"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "u", "controller": true}));
        let volumes = empty_dir.then(|| json!({"name": "v", "emptyDir": {}}));
        let value = json!({
            "metadata": {"name": "p", "ownerReferences": owners.into_iter().collect::<Vec<_>>()},
            "spec": {"containers": [], "volumes": volumes.into_iter().collect::<Vec<_>>()},
            "status": {"phase": phase},
        });
        let object = Pod::KIND.from_json(&value, &mut Vec::new()).unwrap();
        object.downcast_ref::<Pod>().unwrap().clone()
    }

    #[test]
    fn only_pods_that_somebody_replaces_go_without_a_flag() {
        let replaced = pod(Some("ReplicaSet"), false, "Running");
        let of_daemon = pod(Some("DaemonSet"), false, "Running");
        let lone = pod(None, false, "Running");
        let finished = pod(None, true, "Succeeded");
        let with_data = pod(Some("ReplicaSet"), true, "Running");
        for (pod, flags, want) in [
            (&replaced, &[][..], "Evict"),
            (&finished, &[], "Evict"),
            (&of_daemon, &[], "Refuse"),
            (&of_daemon, &["--ignore-daemonsets"], "Leave"),
            (&with_data, &[], "Refuse"),
            (&with_data, &["--delete-emptydir-data"], "Evict"),
            (&lone, &[], "Refuse"),
            (&lone, &["--force"], "Warn"),
        ] {
            let verdict = format!("{:?}", verdict(pod, &options(flags)));
            assert!(verdict.starts_with(want), "{flags:?}: {verdict}");
        }
    }
}
