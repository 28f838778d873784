//! A pod's volumes: directories below `.volumes/` in the pod's directory, paths of the node, files of images.
//!
//! Making them again keeps what containers wrote. What shows objects (ConfigMaps, Secrets, fields of the pod) is written by
//! [`payload`] all at once, and kept in step with them by [`refresh`]. Secrets lie in memory only.
//!
//! Left out: volumes that others provide (persistentVolumeClaim, csi, nfs, …), which are refused by name.

mod empty_dir;
mod host_path;
mod payload;
mod refresh;

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use thiserror::Error;
use weir_proto::core::v1::{Pod, Volume};

use super::downward::Surroundings;
use super::projection::{self, File, ProjectionError};
use super::sources::Sources;

pub(super) use refresh::Refresher;

/// Why a volume could not be made. The words before the problem are the kubelet's.
#[derive(Debug, Error)]
pub(super) enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {problem}")]
    SetUp { volume: String, problem: Problem },
    #[error("volume {volume:?} is not one of the pod's")]
    Unknown { volume: String },
}

#[derive(Debug, Error)]
pub(super) enum Problem {
    #[error(
        "{0} is not supported; this node offers emptyDir, hostPath, configMap, secret, downwardAPI, projected and image"
    )]
    Unsupported(&'static str),
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    #[error(transparent)]
    Payload(#[from] payload::PayloadError),
    #[error(transparent)]
    EmptyDir(#[from] empty_dir::EmptyDirError),
    #[error(transparent)]
    HostPath(#[from] host_path::HostPathError),
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

/// Where a volume of the pod in `pod_dir` lies.
pub(super) fn path(pod: &Pod, pod_dir: &Path, name: &str) -> Result<PathBuf, VolumeError> {
    let volume = find(pod, name).ok_or_else(|| VolumeError::Unknown { volume: name.to_owned() })?;
    Ok(match &volume.host_path {
        Some(host) => PathBuf::from(&host.path),
        None if volume.image.is_some() => weir_runtime::image_volume(pod_dir, name),
        None => directory(pod_dir, volume),
    })
}

pub(super) fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a Volume> {
    pod.spec().volumes.iter().find(|volume| volume.name == name)
}

/// Whether the volume's files are made from objects; containers only read them.
pub(super) fn shows_objects(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// Makes all volumes of the pod, but those that show images: these wait for whoever mounts them. Blocks.
pub(super) fn make(
    pod: &Pod,
    pod_dir: &Path,
    sources: &Sources,
    around: &Surroundings,
) -> Result<(), VolumeError> {
    let group = fs_group(pod);
    for volume in &pod.spec().volumes {
        let dir = directory(pod_dir, volume);
        let made = if let Some(source) = &volume.empty_dir {
            empty_dir::make(pod, source, &dir, group).map_err(Problem::from)
        } else if let Some(source) = &volume.host_path {
            host_path::make(source).map_err(Problem::from)
        } else if volume.image.is_some() {
            Ok(())
        } else {
            let files = projection::files(pod, volume, sources, around).map_err(Problem::from);
            files.and_then(|files| {
                let files = files.ok_or_else(|| Problem::Unsupported(kind(volume)))?;
                prepare(volume, &dir)?;
                Ok(payload::write(&dir, &files, group).map(drop)?)
            })
        };
        made.map_err(|problem| VolumeError::SetUp { volume: volume.name.clone(), problem })?;
    }
    Ok(())
}

/// Writes anew what a volume shows, if that has changed; returns whether it has. The volume was made before. Blocks.
fn show(pod: &Pod, pod_dir: &Path, volume: &Volume, files: &[File]) -> Result<bool, Problem> {
    let dir = directory(pod_dir, volume);
    if in_memory(volume) && !is_mount(&dir) {
        // About to be removed, or lost: nothing of it may go to the disk.
        return Ok(false);
    }
    Ok(payload::write(&dir, files, fs_group(pod))?)
}

fn directory(pod_dir: &Path, volume: &Volume) -> PathBuf {
    pod_dir.join(".volumes").join(&volume.name)
}

/// Makes the directory of a volume that shows objects.
fn prepare(volume: &Volume, dir: &Path) -> Result<(), Problem> {
    fs::create_dir_all(dir).map_err(failed("make", dir))?;
    if in_memory(volume) && !is_mount(dir) {
        mount_memory(dir, None).map_err(failed("mount memory at", dir))?;
    }
    own(dir, 0o755, None).map_err(failed("change the mode of", dir))
}

/// Whether it may show what must not lie on the disk.
fn in_memory(volume: &Volume) -> bool {
    let secret = |part: &weir_proto::core::v1::VolumeProjection| {
        part.secret.is_some() || part.service_account_token.is_some()
    };
    volume.secret.is_some() || volume.projected.iter().flat_map(|projected| &projected.sources).any(secret)
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec().security_context.as_ref().and_then(|context| context.fs_group);
    group.and_then(|group| u32::try_from(group).ok())
}

fn own(path: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    if group.is_some() {
        chown(path, None, group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Memory that is never swapped out, where the kernel can promise that (6.4).
fn mount_memory(dir: &Path, limit: Option<u64>) -> io::Result<()> {
    let size = limit.map(|bytes| format!("size={bytes}"));
    let kept = size.iter().map(String::as_str).chain(["noswap"]).collect::<Vec<_>>().join(",");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let with = |options: Option<&str>| mount(Some("tmpfs"), dir, Some("tmpfs"), flags, options);
    match with(Some(&kept)) {
        Err(Errno::EINVAL) => Ok(with(size.as_deref())?),
        mounted => Ok(mounted?),
    }
}

/// Whether a directory lies on another file system than its parent.
fn is_mount(dir: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    device(dir).is_some() && dir.parent().is_some_and(|parent| device(parent) != device(dir))
}

/// The field that is set and that no code here serves.
fn kind(volume: &Volume) -> &'static str {
    let kinds = [
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("csi", volume.csi.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("cephfs", volume.cephfs.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("fc", volume.fc.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
    ];
    kinds.into_iter().find(|(_, set)| *set).map_or("this kind of volume", |(kind, _)| kind)
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Problem + use<> {
    let path = path.to_owned();
    move |source| Problem::Io { operation, path, source }
}

/// A path below a volume: relative, never up, and not one of the names that files are laid out with.
pub(super) fn stays_below(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use weir_proto::core::v1::{
        ConfigMap, ConfigMapVolumeSource, EmptyDirVolumeSource, HostPathVolumeSource,
        PersistentVolumeClaimVolumeSource, PodSecurityContext,
    };

    use super::*;
    use crate::pods::downward::surroundings;

    fn pod(volume: Volume) -> Pod {
        let mut pod = Pod::default();
        pod.spec_mut().volumes = vec![Volume { name: "v".to_owned(), ..volume }];
        pod
    }

    fn make_in(dir: &Path, pod: &Pod) -> Result<(), VolumeError> {
        let data = BTreeMap::from([("key".to_owned(), "value".to_owned())]);
        let map = ConfigMap { data, ..ConfigMap::default() };
        let sources =
            Sources { config_maps: BTreeMap::from([("map".to_owned(), map)]), ..Sources::default() };
        make(pod, dir, &sources, &surroundings())
    }

    fn shows_map(mode: i32) -> Volume {
        let source =
            ConfigMapVolumeSource { name: "map".to_owned(), default_mode: Some(mode), ..Default::default() };
        Volume { config_map: Some(source), ..Volume::default() }
    }

    #[test]
    fn an_empty_dir_keeps_its_content_when_made_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let pod = pod(Volume { empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() });
        make_in(dir.path(), &pod).expect("made");
        let path = path(&pod, dir.path(), "v").expect("a path");
        fs::write(path.join("file"), "kept").expect("written");
        make_in(dir.path(), &pod).expect("made again");
        assert_eq!(fs::read_to_string(path.join("file")).expect("there"), "kept");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o777);
    }

    #[test]
    fn a_config_map_becomes_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let pod = pod(shows_map(0o600));
        make_in(dir.path(), &pod).expect("made");
        let file = dir.path().join(".volumes/v/key");
        assert_eq!(fs::read_to_string(&file).expect("there"), "value");
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        make_in(dir.path(), &pod).expect("made again");
    }

    #[test]
    fn a_pods_group_reads_what_is_shown_and_writes_what_is_empty() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let mut pod = pod(shows_map(0o400));
        let empty_dir = Some(EmptyDirVolumeSource::default());
        pod.spec_mut().volumes.push(Volume { name: "e".to_owned(), empty_dir, ..Volume::default() });
        let context = PodSecurityContext { fs_group: Some(2000), ..PodSecurityContext::default() };
        pod.spec_mut().security_context = Some(context);
        make_in(dir.path(), &pod).expect("made");
        let of = |path: &str| {
            let metadata = fs::metadata(dir.path().join(".volumes").join(path)).expect("there");
            (metadata.gid(), metadata.mode() & 0o7777)
        };
        assert_eq!(of("v/key"), (2000, 0o440));
        assert_eq!(of("v/..data"), (2000, 0o2775));
        assert_eq!(of("e"), (2000, 0o2777));
    }

    #[test]
    fn what_is_wrong_with_a_volume_is_told_with_its_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let of = |volume: Volume| make_in(dir.path(), &pod(volume)).expect_err("refused").to_string();
        let claim = PersistentVolumeClaimVolumeSource { claim_name: "c".to_owned(), read_only: false };
        let error = of(Volume { persistent_volume_claim: Some(claim), ..Volume::default() });
        assert!(
            error.starts_with(
                "MountVolume.SetUp failed for volume \"v\" : persistentVolumeClaim is not supported; this node offers \
                 emptyDir,"
            ),
            "{error}"
        );
        let host =
            HostPathVolumeSource { path: "/dev/null".to_owned(), r#type: Some("Directory".to_owned()) };
        let error = of(Volume { host_path: Some(host), ..Volume::default() });
        assert!(error.ends_with("hostPath type check failed: /dev/null is not a directory"), "{error}");
    }

    #[test]
    fn file_paths_stay_below_the_volume() {
        for (path, below) in [
            ("a", true),
            ("a/b", true),
            ("../a", false),
            ("/a", false),
            ("a/../b", false),
            ("", false),
            ("..data", false),
            ("a/..b", true),
        ] {
            assert_eq!(stays_below(path), below, "{path}");
        }
    }
}
