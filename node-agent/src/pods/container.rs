//! A container as the runtime is to run it: from the pod, its environment, its volumes and its image. Pure.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;
use weir_proto::core::v1::{Container, Pod, VolumeMount};
use weir_runtime::{ContainerKey, ContainerSpec, Image, Mount, Propagation, PullPolicy, SubPath};

use super::env::{expand, expand_known};
use super::volumes::{self, VolumeError};
use super::{probes, resources, termination};

#[derive(Debug, Error)]
pub(super) enum ContainerError {
    #[error("volumeMounts[{index}].{field}: {path:?} {problem}")]
    SubPath { index: usize, field: &'static str, path: String, problem: String },
    #[error("volumeMounts[{index}].mountPropagation: Bidirectional is for privileged containers only")]
    Propagation { index: usize },
    #[error(
        "volumeMounts[{index}].recursiveReadOnly: {value:?} {problem}; use Disabled, or IfPossible or Enabled with \
         readOnly: true and without mountPropagation"
    )]
    RecursiveReadOnly { index: usize, value: String, problem: &'static str },
    #[error(
        "volumeDevices[{index}] {name:?}: block volumes are not supported; mount a volume by volumeMounts"
    )]
    VolumeDevice { index: usize, name: String },
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
    let mut mounts = mounts(pod, container, &known, pod_dir)?;
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
pub(super) fn check(pod: &Pod, container: &Container) -> Result<(), ContainerError> {
    let privileged = container.security_context.as_ref().is_some_and(|own| own.privileged == Some(true));
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let propagation = mount.mount_propagation.as_deref().unwrap_or("None");
        if propagation == "Bidirectional" && !privileged {
            return Err(ContainerError::Propagation { index });
        }
        let value = mount.recursive_read_only.as_deref().unwrap_or("Disabled");
        let problem = match value {
            "Disabled" => None,
            "IfPossible" | "Enabled" if !mount.read_only => Some("needs readOnly"),
            "IfPossible" | "Enabled" if propagation != "None" => Some("does not go with mountPropagation"),
            "IfPossible" | "Enabled" => None,
            _ => Some("is not known"),
        };
        if let Some(problem) = problem {
            return Err(ContainerError::RecursiveReadOnly { index, value: value.to_owned(), problem });
        }
        if volumes::find(pod, &mount.name).is_none() {
            return Err(VolumeError::Unknown { volume: mount.name.clone() }.into());
        }
    }
    if let Some((index, device)) = container.volume_devices.iter().enumerate().next() {
        return Err(ContainerError::VolumeDevice { index, name: device.name.clone() });
    }
    probes::check(container)?;
    Ok(())
}

/// Kubernetes' default: an image by tag "latest" may have changed, others not.
pub(super) fn pull_policy(image: &str, policy: &str) -> PullPolicy {
    match policy {
        "Always" => PullPolicy::Always,
        "Never" => PullPolicy::Never,
        "IfNotPresent" => PullPolicy::IfNotPresent,
        _ => {
            let name = image.rsplit('/').next().unwrap_or_default();
            let latest = !name.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
            if latest { PullPolicy::Always } else { PullPolicy::IfNotPresent }
        }
    }
}

fn mounts(
    pod: &Pod,
    container: &Container,
    known: &BTreeMap<String, String>,
    pod_dir: &Path,
) -> Result<Vec<Mount>, ContainerError> {
    let mount = |(index, mount): (usize, &VolumeMount)| {
        let fixed = volumes::find(pod, &mount.name)
            .is_some_and(|volume| volumes::shows_objects(volume) || volume.image.is_some());
        let sub_path = sub_path(index, mount, known)?;
        Ok(Mount {
            source: volumes::path(pod, pod_dir, &mount.name)?,
            destination: PathBuf::from(&mount.mount_path),
            read_only: mount.read_only || fixed,
            sub_path: sub_path.map(|path| SubPath { path, create: !fixed }),
            // Kernels that cannot do it are older than those that run the dataplane.
            recursive_read_only: matches!(
                mount.recursive_read_only.as_deref(),
                Some("Enabled" | "IfPossible")
            ),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::None,
            },
        })
    };
    container.volume_mounts.iter().enumerate().map(mount).collect()
}

/// The part of the volume that is to be mounted, if not all of it.
fn sub_path(
    index: usize,
    mount: &VolumeMount,
    known: &BTreeMap<String, String>,
) -> Result<Option<PathBuf>, ContainerError> {
    let (field, path) = match mount.sub_path_expr.as_str() {
        "" => ("subPath", mount.sub_path.clone()),
        template => {
            let expanded = expand_known(template, known).map_err(|name| ContainerError::SubPath {
                index,
                field: "subPathExpr",
                path: template.to_owned(),
                problem: format!("names variable {name:?}, which the container does not have; set it in env"),
            });
            ("subPathExpr", expanded?)
        }
    };
    let refused = |problem: &str| {
        let (path, problem) = (path.clone(), problem.to_owned());
        Err(ContainerError::SubPath { index, field, path, problem })
    };
    if Path::new(&path).is_absolute() {
        return refused("must be a relative path");
    }
    if Path::new(&path).components().any(|part| part == Component::ParentDir) {
        return refused("must not contain \"..\"");
    }
    let path: PathBuf =
        Path::new(&path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    Ok((!path.as_os_str().is_empty()).then_some(path))
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::{EmptyDirVolumeSource, Volume, VolumeMount};
    use weir_runtime::images::ImageConfig;

    use super::*;

    fn of(pod: &Pod, container: &Container) -> Result<ContainerSpec, ContainerError> {
        check(pod, container)?;
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
    }

    #[test]
    fn parts_of_volumes_are_named_by_paths_and_variables_and_stay_inside() {
        let mut pod = Pod::default();
        let empty_dir = Some(EmptyDirVolumeSource::default());
        pod.spec_mut().volumes = vec![Volume { name: "v".to_owned(), empty_dir, ..Volume::default() }];
        let part = |path: &str, template: &str| {
            let mount = VolumeMount {
                name: "v".to_owned(),
                mount_path: "/data".to_owned(),
                sub_path: path.to_owned(),
                sub_path_expr: template.to_owned(),
                ..VolumeMount::default()
            };
            let spec = of(&pod, &Container { volume_mounts: vec![mount], ..Container::default() });
            let path = |spec: ContainerSpec| spec.mounts[0].sub_path.as_ref().map(|sub| sub.path.clone());
            spec.map(path).map_err(|error| error.to_string())
        };
        for (path, template, expected) in [
            ("", "", None),
            (".", "", None),
            ("a/./b/", "", Some("a/b")),
            ("", "x/$(NAME)", Some("x/weir")),
            ("", "$$(NAME)", Some("$(NAME)")),
        ] {
            assert_eq!(part(path, template), Ok(expected.map(PathBuf::from)), "{path} {template}");
        }
        for (path, template, words) in [
            ("../a", "", "volumeMounts[0].subPath: \"../a\" must not contain \"..\""),
            ("/a", "", "must be a relative path"),
            ("", "/$(NAME)", "volumeMounts[0].subPathExpr: \"/weir\" must be a relative path"),
            ("", "$(NAME)/$(NONE)", "names variable \"NONE\", which the container does not have"),
        ] {
            let error = part(path, template).expect_err("refused");
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn what_mounts_cannot_be_is_refused_with_what_to_do() {
        let mut pod = Pod::default();
        let empty_dir = Some(EmptyDirVolumeSource::default());
        pod.spec_mut().volumes = vec![Volume { name: "v".to_owned(), empty_dir, ..Volume::default() }];
        let with = |change: fn(&mut VolumeMount)| {
            let mut mount = VolumeMount {
                name: "v".to_owned(),
                mount_path: "/data".to_owned(),
                ..VolumeMount::default()
            };
            change(&mut mount);
            let spec = of(&pod, &Container { volume_mounts: vec![mount], ..Container::default() });
            spec.map(|spec| spec.mounts[0].recursive_read_only).map_err(|error| error.to_string())
        };
        let refused = |change: fn(&mut VolumeMount)| with(change).expect_err("refused");
        let error = refused(|mount| mount.mount_propagation = Some("Bidirectional".to_owned()));
        assert!(error.contains("privileged containers only"), "{error}");
        let error = refused(|mount| mount.recursive_read_only = Some("Enabled".to_owned()));
        assert!(error.contains("needs readOnly"), "{error}");
        let error = refused(|mount| mount.name = "w".to_owned());
        assert_eq!(error, "volume \"w\" is not one of the pod's");
        let enabled = with(|mount| {
            mount.read_only = true;
            mount.recursive_read_only = Some("Enabled".to_owned());
        });
        assert_eq!(enabled, Ok(true));
        let device = weir_proto::core::v1::VolumeDevice { name: "disk".to_owned(), ..Default::default() };
        let error = of(&pod, &Container { volume_devices: vec![device], ..Container::default() });
        assert!(
            error.expect_err("refused").to_string().contains("\"disk\": block volumes are not supported")
        );
    }

    #[test]
    fn pull_policies_follow_the_tag() {
        let policy = |image: &str| pull_policy(image, "");
        assert_eq!(policy("weir.dev/echo:0.1.0"), PullPolicy::IfNotPresent);
        assert_eq!(policy("host:5000/echo"), PullPolicy::Always);
        assert_eq!(policy("echo:latest"), PullPolicy::Always);
        assert_eq!(policy("echo@sha256:00"), PullPolicy::IfNotPresent);
    }
}
