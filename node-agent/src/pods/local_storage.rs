//! Limits of what pods write to the node's disk: `sizeLimit` of emptyDirs, `ephemeral-storage` of containers and pods. Who
//! goes beyond one is evicted, in the kubelet's words.
//!
//! Measuring means walking files, so only pods with limits are measured, one after the other, on a thread of its own, and
//! never more than a tenth of the time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_client::Informer;
use weir_proto::Quantity;
use weir_proto::core::v1::{Container, Pod, Volume};
use weir_runtime::{ContainerKey, Runtime, disk_usage};

use super::observed::is_sidecar;
use super::{Context, Ending, volumes};

/// As the kubelet looks.
const INTERVAL: Duration = Duration::from_secs(10);
const RESOURCE: &str = "ephemeral-storage";
/// What the kubelet leaves to containers that go on filling the disk meanwhile.
const GRACE: Duration = Duration::from_secs(1);

/// Bytes on the disk, by name.
#[derive(Debug, Default)]
struct Usage {
    containers: BTreeMap<String, u64>,
    volumes: BTreeMap<String, u64>,
}

/// Measures and evicts for as long as it is polled.
pub(super) async fn watch(context: Arc<Context>, pods: Informer<Pod>) {
    let mut pause = INTERVAL;
    loop {
        tokio::time::sleep(pause).await;
        let begun = Instant::now();
        for pod in pods.list().into_iter().filter(|pod| is_limited(pod) && is_at_work(pod)) {
            let (runtime, measured) = (Arc::clone(&context.runtime), Arc::clone(&pod));
            let Ok(usage) = tokio::task::spawn_blocking(move || measure(&runtime, &measured)).await else {
                continue;
            };
            if let Some(message) = excess(&pod, &usage) {
                let ending = Ending::at_once("Evicted", message, GRACE);
                context.endings.order(&pod.meta().uid, ending);
            }
        }
        pause = INTERVAL.max(begun.elapsed() * 9);
    }
}

fn is_at_work(pod: &Pod) -> bool {
    pod.meta().deletion_timestamp.is_none() && !matches!(pod.status().phase.as_str(), "Succeeded" | "Failed")
}

fn is_limited(pod: &Pod) -> bool {
    let spec = pod.spec();
    spec.volumes.iter().any(|volume| size_limit(volume).is_some())
        || spec.containers.iter().chain(&spec.init_containers).any(|container| limit(container).is_some())
}

/// Of an emptyDir on the disk; the kernel keeps the others in their bounds.
fn size_limit(volume: &Volume) -> Option<&Quantity> {
    let source = volume.empty_dir.as_ref().filter(|source| source.medium.is_empty())?;
    source.size_limit.as_ref().filter(|limit| limit.value() > 0)
}

fn limit(container: &Container) -> Option<&Quantity> {
    container.resources.as_ref()?.limits.get(RESOURCE).filter(|limit| limit.value() > 0)
}

fn measure(runtime: &Runtime, pod: &Pod) -> Usage {
    let mut latest = BTreeMap::<String, ContainerKey>::new();
    for run in runtime.list().into_iter().filter(|run| run.key.pod_uid == pod.meta().uid) {
        let known = latest.entry(run.key.name.clone()).or_insert_with(|| run.key.clone());
        if known.restart < run.key.restart {
            *known = run.key;
        }
    }
    let used = |key: &ContainerKey| runtime.disk_usage(key).map_or(0, |disk| disk.rootfs + disk.log);
    let containers = latest.iter().map(|(name, key)| (name.clone(), used(key))).collect();
    let dir = runtime.pod_directory(&pod.meta().uid);
    let on_disk = |volume: &&Volume| volume.empty_dir.as_ref().is_some_and(|source| source.medium.is_empty());
    let place =
        |volume: &Volume| -> Option<PathBuf> { volumes::path(pod, dir.as_ref().ok()?, &volume.name).ok() };
    let volumes = pod.spec().volumes.iter().filter(on_disk);
    let volumes = volumes.filter_map(|volume| Some((volume.name.clone(), disk_usage(&place(volume)?))));
    Usage { containers, volumes: volumes.collect() }
}

/// What to tell of a pod that goes beyond a limit.
fn excess(pod: &Pod, usage: &Usage) -> Option<String> {
    let beyond = |used: u64, limit: &Quantity| i128::from(used) > limit.value();
    for volume in &pod.spec().volumes {
        let Some(limit) = size_limit(volume) else { continue };
        if usage.volumes.get(&volume.name).is_some_and(|used| beyond(*used, limit)) {
            return Some(format!(
                "Usage of EmptyDir volume {:?} exceeds the limit {:?}.",
                volume.name,
                limit.to_string()
            ));
        }
    }
    if let Some(limit) = pod_limit(pod) {
        let used: u64 = usage.containers.values().chain(usage.volumes.values()).sum();
        if beyond(used, &limit) {
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {limit}."
            ));
        }
    }
    let all = pod.spec().containers.iter().chain(&pod.spec().init_containers);
    for container in all {
        let Some(limit) = limit(container) else { continue };
        if usage.containers.get(&container.name).is_some_and(|used| beyond(*used, limit)) {
            return Some(format!(
                "Container {} exceeded its local ephemeral storage limit {:?}.",
                container.name,
                limit.to_string()
            ));
        }
    }
    None
}

/// The sum over the containers that run together, or what an init container may use alone.
fn pod_limit(pod: &Pod) -> Option<Quantity> {
    let spec = pod.spec();
    let sidecars = spec.init_containers.iter().filter(|container| is_sidecar(container));
    let together: Vec<_> = spec.containers.iter().chain(sidecars).filter_map(limit).collect();
    let sum = together.iter().map(|limit| limit.value()).sum::<i128>();
    let alone = spec.init_containers.iter().filter_map(limit).map(Quantity::value).max().unwrap_or(0);
    let most = sum.max(alone);
    (most > 0).then(|| Quantity::from_bytes(i64::try_from(most).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::{EmptyDirVolumeSource, ResourceRequirements};

    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().expect("a quantity")
    }

    fn pod(volume: Option<&str>, containers: &[(&str, Option<&str>)]) -> Pod {
        let mut pod = Pod::default();
        let source = EmptyDirVolumeSource { medium: String::new(), size_limit: volume.map(quantity) };
        pod.spec_mut().volumes =
            vec![Volume { name: "x".to_owned(), empty_dir: Some(source), ..Volume::default() }];
        let container = |(name, limit): &(&str, Option<&str>)| {
            let limits = limit.iter().map(|text| (RESOURCE.to_owned(), quantity(text))).collect();
            let resources = Some(ResourceRequirements { limits, ..Default::default() });
            Container { name: (*name).to_owned(), resources, ..Container::default() }
        };
        pod.spec_mut().containers = containers.iter().map(container).collect();
        pod
    }

    fn usage(volume: u64, containers: &[(&str, u64)]) -> Usage {
        Usage {
            containers: containers.iter().map(|(name, used)| ((*name).to_owned(), *used)).collect(),
            volumes: BTreeMap::from([("x".to_owned(), volume)]),
        }
    }

    #[test]
    fn who_goes_beyond_a_limit_is_told_which() {
        const MEBI: u64 = 1 << 20;
        let limited = pod(Some("1Mi"), &[("a", Some("4Mi")), ("b", None)]);
        for (used, expected) in [
            (usage(MEBI, &[("a", MEBI)]), None),
            (usage(MEBI + 1, &[]), Some("Usage of EmptyDir volume \"x\" exceeds the limit \"1Mi\".")),
            (
                usage(0, &[("a", 3 * MEBI), ("b", 2 * MEBI)]),
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 4Mi."),
            ),
        ] {
            assert_eq!(excess(&limited, &used).as_deref(), expected);
        }
        let two = pod(None, &[("a", Some("1Mi")), ("b", Some("9Mi"))]);
        assert_eq!(
            excess(&two, &usage(0, &[("a", 2 * MEBI)])).as_deref(),
            Some("Container a exceeded its local ephemeral storage limit \"1Mi\".")
        );
        let free = pod(None, &[("a", None)]);
        assert!(!is_limited(&free) && excess(&free, &usage(1 << 40, &[("a", 1 << 40)])).is_none());
    }
}
