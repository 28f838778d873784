//! The `mounts` of `config.json`, in the order they are made.

use std::path::{Component, Path};

use serde_json::{Value, json};

use super::{BundleError, subpath};
use crate::container::{ContainerSpec, Mount, Propagation};
use crate::mounts::{self, Peers};
use crate::sandbox::Sandbox;

/// `dir` is the container's directory, where parts of volumes are mounted first.
pub(super) fn mounts(spec: &ContainerSpec, sandbox: &Sandbox, dir: &Path) -> Result<Vec<Value>, BundleError> {
    let access = if spec.security.privileged { "rw" } else { "ro" };
    let system = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    let mut mounts = vec![
        system("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        system("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        system(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        system("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        system("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        // On version 1 libcontainer ignores `ro` here: `linux.readonlyPaths` makes it so.
        system("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ];
    let shm = if sandbox.spec.host_ipc { Path::new("/dev/shm").to_owned() } else { sandbox.file("shm") };
    let mut files = vec![(shm, "/dev/shm", "rw")];
    let etc = if spec.security.read_only_root { "ro" } else { "rw" };
    files.push((sandbox.file("hostname"), "/etc/hostname", etc));
    if !sandbox.spec.hosts.is_empty() {
        files.push((sandbox.file("hosts"), "/etc/hosts", etc));
    }
    if !sandbox.spec.resolv_conf.is_empty() {
        files.push((sandbox.file("resolv.conf"), "/etc/resolv.conf", etc));
    }
    for (source, destination, access) in files {
        // A volume there wins, as in Kubernetes.
        if !spec.mounts.iter().any(|mount| mount.destination == Path::new(destination)) {
            mounts.push(system(
                destination,
                "bind",
                &source.to_string_lossy(),
                &["rbind", "rprivate", access],
            ));
        }
    }
    // Outer before inner, whatever the order in the manifest.
    let mut volumes: Vec<&Mount> = spec.mounts.iter().collect();
    volumes.sort_by_key(|mount| mount.destination.components().count());
    for (index, mount) in volumes.into_iter().enumerate() {
        mounts.push(volume(mount, index, dir, of_root(spec))?);
    }
    Ok(mounts)
}

/// What passes through the container's mounts at most: what the one asks for that asks for most.
pub(super) fn of_root(spec: &ContainerSpec) -> &'static str {
    let any = |propagation| spec.mounts.iter().any(|mount| mount.propagation == propagation);
    if any(Propagation::Bidirectional) {
        "shared"
    } else if any(Propagation::HostToContainer) {
        "slave"
    } else {
        "private"
    }
}

/// What is mounted later comes through only where the node's mount passes it on.
fn check_propagation(mount: &Mount) -> Result<(), BundleError> {
    let (kind, passes): (_, fn(&Peers) -> bool) = match mount.propagation {
        Propagation::None => return Ok(()),
        Propagation::HostToContainer => ("HostToContainer", |peers| peers.shared || peers.slave),
        Propagation::Bidirectional => ("Bidirectional", |peers| peers.shared),
    };
    let peers = mounts::peers(&mount.source).map_err(|source| BundleError::Root {
        operation: "find the mount of",
        path: mount.source.clone(),
        source,
    })?;
    if passes(&peers) {
        return Ok(());
    }
    let (destination, path, point) = (mount.destination.clone(), mount.source.clone(), peers.point);
    Err(BundleError::NotShared { destination, path, kind, point })
}

fn volume(mount: &Mount, index: usize, dir: &Path, root: &str) -> Result<Value, BundleError> {
    let path = &mount.destination;
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(BundleError::BadMountPath { path: path.clone() });
    }
    if !mount.source.exists() {
        return Err(BundleError::NoMountSource { destination: path.clone(), path: mount.source.clone() });
    }
    check_propagation(mount)?;
    let propagation = match mount.propagation {
        Propagation::None => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match (mount.read_only, mount.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    // libcontainer gives all mounts the propagation of the root: one that is to have less gets it beforehand.
    let less = match mount.propagation {
        Propagation::None => root != "private",
        Propagation::HostToContainer => root == "shared",
        Propagation::Bidirectional => false,
    };
    let staged = less || mount.sub_path.is_some();
    let source = if staged { subpath::stage(mount, index, dir)? } else { mount.source.clone() };
    Ok(json!({ "destination": path, "type": "bind", "source": source,
        "options": ["rbind", propagation, access] }))
}
