//! A pod's volumes: directories below `.volumes/` in the pod's directory, or paths of the node.
//!
//! Making them again keeps what containers wrote. Secrets lie in memory only.
//!
//! Left out: other kinds (refused by name), following later changes of ConfigMaps and Secrets, size limits of emptyDir
//! on disk, subPath.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};
use thiserror::Error;
use weir_proto::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume};

use super::projection::{self, File, ProjectionError};
use super::sources::Sources;
use crate::pods::downward::Surroundings;

#[derive(Debug, Error)]
pub(super) enum VolumeError {
    #[error("volume {volume:?}: {kind} is not supported yet")]
    Unsupported { volume: String, kind: &'static str },
    #[error("volume {volume:?}: {source}")]
    Projection { volume: String, source: ProjectionError },
    #[error("volume {volume:?}: hostPath {} is not a {wanted}", path.display())]
    HostPath { volume: String, path: PathBuf, wanted: String },
    #[error("volume {volume:?}: hostPath type {kind:?} is not known")]
    HostPathType { volume: String, kind: String },
    #[error("volume {volume:?}: cannot {operation} {}: {source}", path.display())]
    Io { volume: String, operation: &'static str, path: PathBuf, source: io::Error },
    #[error("volume {volume:?} is not one of the pod's")]
    Unknown { volume: String },
}

/// Where a volume of the pod in `pod_dir` lies.
pub(super) fn path(pod: &Pod, pod_dir: &Path, name: &str) -> Result<PathBuf, VolumeError> {
    let volume = pod.spec().volumes.iter().find(|volume| volume.name == name);
    let volume = volume.ok_or_else(|| VolumeError::Unknown { volume: name.to_owned() })?;
    Ok(match &volume.host_path {
        Some(host) => PathBuf::from(&host.path),
        None => directory(pod_dir, volume),
    })
}

/// Makes all volumes of the pod. Blocks.
pub(super) fn make(
    pod: &Pod,
    pod_dir: &Path,
    sources: &Sources,
    around: &Surroundings,
) -> Result<(), VolumeError> {
    let group = pod.spec().security_context.as_ref().and_then(|context| context.fs_group);
    let group = group.and_then(|group| u32::try_from(group).ok());
    for volume in &pod.spec().volumes {
        let dir = directory(pod_dir, volume);
        if let Some(empty_dir) = &volume.empty_dir {
            make_empty_dir(volume, empty_dir, &dir, group)?;
        } else if let Some(host) = &volume.host_path {
            check_host_path(volume, host)?;
        } else {
            let in_memory = volume.secret.is_some()
                || volume
                    .projected
                    .iter()
                    .flat_map(|projected| &projected.sources)
                    .any(|part| part.secret.is_some());
            let failed = |source| VolumeError::Projection { volume: volume.name.clone(), source };
            let files = projection::files(pod, volume, sources, around).map_err(failed)?;
            let files = files.ok_or_else(|| VolumeError::Unsupported {
                volume: volume.name.clone(),
                kind: kind(volume),
            })?;
            write_files(volume, &dir, &files, in_memory, group)?;
        }
    }
    Ok(())
}

fn directory(pod_dir: &Path, volume: &Volume) -> PathBuf {
    pod_dir.join(".volumes").join(&volume.name)
}

fn make_empty_dir(
    volume: &Volume,
    source: &EmptyDirVolumeSource,
    dir: &Path,
    group: Option<u32>,
) -> Result<(), VolumeError> {
    if dir.exists() && (source.medium != "Memory" || is_mount(dir)) {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(failed(volume, "make", dir))?;
    if source.medium == "Memory" {
        let limit = source.size_limit.as_ref().map(|limit| limit.value()).filter(|limit| *limit > 0);
        mount_tmpfs(volume, dir, limit)?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    own(volume, dir, mode, group)
}

fn check_host_path(volume: &Volume, source: &HostPathVolumeSource) -> Result<(), VolumeError> {
    let path = Path::new(&source.path);
    let kind = source.r#type.as_deref().unwrap_or_default();
    let found = fs::metadata(path).ok().map(|metadata| metadata.file_type());
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(test);
    let fits = match kind {
        "" => found.is_some(),
        "DirectoryOrCreate" if found.is_none() => {
            fs::create_dir_all(path).map_err(failed(volume, "make", path))?;
            true
        }
        "FileOrCreate" if found.is_none() => {
            fs::write(path, "").map_err(failed(volume, "make", path))?;
            true
        }
        "Directory" | "DirectoryOrCreate" => is(fs::FileType::is_dir),
        "File" | "FileOrCreate" => is(fs::FileType::is_file),
        "Socket" => is(FileTypeExt::is_socket),
        "CharDevice" => is(FileTypeExt::is_char_device),
        "BlockDevice" => is(FileTypeExt::is_block_device),
        other => {
            return Err(VolumeError::HostPathType { volume: volume.name.clone(), kind: other.to_owned() });
        }
    };
    if fits {
        return Ok(());
    }
    let wanted = if kind.is_empty() { "path that exists" } else { kind };
    Err(VolumeError::HostPath {
        volume: volume.name.clone(),
        path: path.to_owned(),
        wanted: wanted.to_owned(),
    })
}

fn write_files(
    volume: &Volume,
    dir: &Path,
    files: &[File],
    in_memory: bool,
    group: Option<u32>,
) -> Result<(), VolumeError> {
    fs::create_dir_all(dir).map_err(failed(volume, "make", dir))?;
    if in_memory && !is_mount(dir) {
        mount_tmpfs(volume, dir, None)?;
    }
    own(volume, dir, 0o755, group)?;
    for file in files {
        let path = dir.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed(volume, "make", parent))?;
        }
        let beside = path.with_extension("weir-new");
        fs::write(&beside, &file.data).map_err(failed(volume, "write", &beside))?;
        let mode = if group.is_some() { file.mode | 0o040 } else { file.mode };
        own(volume, &beside, mode, group)?;
        fs::rename(&beside, &path).map_err(failed(volume, "write", &path))?;
    }
    Ok(())
}

fn own(volume: &Volume, path: &Path, mode: u32, group: Option<u32>) -> Result<(), VolumeError> {
    if group.is_some() {
        chown(path, None, group).map_err(failed(volume, "change the group of", path))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed(
        volume,
        "change the mode of",
        path,
    ))
}

fn mount_tmpfs(volume: &Volume, dir: &Path, limit: Option<i128>) -> Result<(), VolumeError> {
    let options = limit.map(|bytes| format!("size={bytes}"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), dir, Some("tmpfs"), flags, options.as_deref())
        .map_err(|errno| failed(volume, "mount memory at", dir)(errno.into()))
}

/// Whether a directory lies on another file system than its parent.
fn is_mount(dir: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    dir.parent().is_some_and(|parent| device(parent) != device(dir))
}

/// The field that is set and that no code here serves.
fn kind(volume: &Volume) -> &'static str {
    let kinds = [
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("csi", volume.csi.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("image", volume.image.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("cephfs", volume.cephfs.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("fc", volume.fc.is_some()),
    ];
    kinds.into_iter().find(|(_, set)| *set).map_or("this kind of volume", |(kind, _)| kind)
}

fn failed(volume: &Volume, operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let (volume, path) = (volume.name.clone(), path.to_owned());
    move |source| VolumeError::Io { volume, operation, path, source }
}

/// A path below a volume: relative, and never up.
pub(super) fn stays_below(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use weir_proto::core::v1::{ConfigMap, ConfigMapVolumeSource, PersistentVolumeClaimVolumeSource};

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
        let source =
            ConfigMapVolumeSource { name: "map".to_owned(), default_mode: Some(0o600), ..Default::default() };
        let pod = pod(Volume { config_map: Some(source), ..Volume::default() });
        make_in(dir.path(), &pod).expect("made");
        let file = dir.path().join(".volumes/v/key");
        assert_eq!(fs::read_to_string(&file).expect("there"), "value");
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        make_in(dir.path(), &pod).expect("made again");
    }

    #[test]
    fn paths_of_the_node_are_checked_for_their_type() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = |path: &Path, kind: &str| {
            let source =
                HostPathVolumeSource { path: path.display().to_string(), r#type: Some(kind.to_owned()) };
            make_in(dir.path(), &pod(Volume { host_path: Some(source), ..Volume::default() }))
        };
        host(dir.path(), "Directory").expect("a directory");
        host(&dir.path().join("new"), "DirectoryOrCreate").expect("made");
        let error = host(dir.path(), "Socket").expect_err("not a socket").to_string();
        assert!(error.ends_with("is not a Socket"), "{error}");
        let error = host(&dir.path().join("none"), "").expect_err("nothing there").to_string();
        assert!(error.ends_with("is not a path that exists"), "{error}");
    }

    #[test]
    fn kinds_that_nothing_serves_are_refused_by_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let claim = PersistentVolumeClaimVolumeSource { claim_name: "c".to_owned(), read_only: false };
        let error =
            make_in(dir.path(), &pod(Volume { persistent_volume_claim: Some(claim), ..Volume::default() }));
        let error = error.expect_err("refused").to_string();
        assert_eq!(error, "volume \"v\": persistentVolumeClaim is not supported yet");
    }

    #[test]
    fn file_paths_stay_below_the_volume() {
        for (path, below) in
            [("a", true), ("a/b", true), ("../a", false), ("/a", false), ("a/../b", false), ("", false)]
        {
            assert_eq!(stays_below(path), below, "{path}");
        }
    }
}
