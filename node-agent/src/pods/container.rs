//! A container as the runtime is to run it: from the pod, its environment, its volumes and its image. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thiserror::Error;
use weir_proto::core::v1::{Container, Pod};
use weir_runtime::{ContainerKey, ContainerSpec, Image, Mount, Propagation, PullPolicy};

use super::env::expand;
use super::volumes::{self, VolumeError};
use super::{probes, resources, termination};

#[derive(Debug, Error)]
pub(super) enum ContainerError {
    #[error("volumeMounts[{index}].{field} is not supported yet")]
    SubPath { index: usize, field: &'static str },
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Probe(#[from] probes::ProbeError),
}

pub(super) fn spec(
    pod: &Pod,
    container: &Container,
    key: ContainerKey,
    image: Image,
    env: Vec<(String, String)>,
    pod_dir: &Path,
    seccomp_dir: &Path,
) -> Result<ContainerSpec, ContainerError> {
    let known: BTreeMap<String, String> = env.iter().cloned().collect();
    let expanded = |words: &[String]| words.iter().map(|word| expand(word, &known)).collect();
    let mut mounts = mounts(pod, container, pod_dir)?;
    mounts.extend(termination::mount(container, pod_dir, &key));
    Ok(ContainerSpec {
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: (!container.working_dir.is_empty()).then(|| container.working_dir.clone()),
        mounts,
        resources: resources::of_container(container),
        security: resources::security(pod.spec(), container, seccomp_dir),
        stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
        env,
        tty: container.tty,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        ..ContainerSpec::new(key, image)
    })
}

/// Refuses what would be wrong to ignore, before anything is made.
pub(super) fn check(container: &Container) -> Result<(), ContainerError> {
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let fields = [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)];
        if let Some((field, _)) = fields.into_iter().find(|(_, path)| !path.is_empty()) {
            return Err(ContainerError::SubPath { index, field });
        }
    }
    probes::check(container)?;
    Ok(())
}

/// Kubernetes' default: an image by tag "latest" may have changed, others not.
pub(super) fn pull_policy(container: &Container) -> PullPolicy {
    match container.image_pull_policy.as_str() {
        "Always" => PullPolicy::Always,
        "Never" => PullPolicy::Never,
        "IfNotPresent" => PullPolicy::IfNotPresent,
        _ => {
            let name = container.image.rsplit('/').next().unwrap_or_default();
            let latest = !name.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
            if latest { PullPolicy::Always } else { PullPolicy::IfNotPresent }
        }
    }
}

fn mounts(pod: &Pod, container: &Container, pod_dir: &Path) -> Result<Vec<Mount>, ContainerError> {
    let mount = |mount: &weir_proto::core::v1::VolumeMount| {
        let volume = pod.spec().volumes.iter().find(|volume| volume.name == mount.name);
        let shows_objects = volume.is_some_and(|volume| {
            volume.config_map.is_some()
                || volume.secret.is_some()
                || volume.downward_api.is_some()
                || volume.projected.is_some()
        });
        Ok(Mount {
            source: volumes::path(pod, pod_dir, &mount.name)?,
            destination: PathBuf::from(&mount.mount_path),
            read_only: mount.read_only || shows_objects,
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::None,
            },
        })
    };
    container.volume_mounts.iter().map(mount).collect()
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::{EmptyDirVolumeSource, Volume, VolumeMount};
    use weir_runtime::images::ImageConfig;

    use super::*;

    fn of(pod: &Pod, container: &Container) -> Result<ContainerSpec, ContainerError> {
        check(container)?;
        let image = Image {
            reference: "i".to_owned(),
            digest: "sha256:0".to_owned(),
            config: ImageConfig::default(),
            layers: vec![],
            size: 0,
        };
        let env = vec![("NAME".to_owned(), "weir".to_owned())];
        spec(
            pod,
            container,
            ContainerKey::new("u", "a", 0),
            image,
            env,
            Path::new("/pod"),
            Path::new("/seccomp"),
        )
    }

    #[test]
    fn arguments_are_expanded_and_volumes_found() {
        let mut pod = Pod::default();
        let empty_dir = Some(EmptyDirVolumeSource::default());
        pod.spec_mut().volumes = vec![Volume { name: "v".to_owned(), empty_dir, ..Volume::default() }];
        let mount =
            VolumeMount { name: "v".to_owned(), mount_path: "/data".to_owned(), ..VolumeMount::default() };
        let container = Container {
            args: vec!["--name=$(NAME)".to_owned(), "$(OTHER)".to_owned()],
            volume_mounts: vec![mount.clone()],
            ..Container::default()
        };
        let spec = of(&pod, &container).expect("a container");
        assert_eq!(spec.args, ["--name=weir", "$(OTHER)"]);
        assert_eq!(spec.mounts[0].source, Path::new("/pod/.volumes/v"));
        let sub = VolumeMount { sub_path: "x".to_owned(), ..mount.clone() };
        let error = of(&pod, &Container { volume_mounts: vec![mount, sub], ..Container::default() });
        assert_eq!(error.expect_err("refused").to_string(), "volumeMounts[1].subPath is not supported yet");
    }

    #[test]
    fn pull_policies_follow_the_tag() {
        let policy =
            |image: &str| pull_policy(&Container { image: image.to_owned(), ..Container::default() });
        assert_eq!(policy("weir.dev/echo:0.1.0"), PullPolicy::IfNotPresent);
        assert_eq!(policy("host:5000/echo"), PullPolicy::Always);
        assert_eq!(policy("echo:latest"), PullPolicy::Always);
        assert_eq!(policy("echo@sha256:00"), PullPolicy::IfNotPresent);
    }
}
