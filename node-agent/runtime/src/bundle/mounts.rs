//! The `mounts` of `config.json`, in the order they are made.

use std::path::{Component, Path};

use serde_json::{Value, json};

use super::BundleError;
use crate::container::{ContainerSpec, Mount, Propagation};
use crate::sandbox::Sandbox;

pub(super) fn mounts(spec: &ContainerSpec, sandbox: &Sandbox) -> Result<Vec<Value>, BundleError> {
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
    for mount in volumes {
        mounts.push(volume(mount)?);
    }
    Ok(mounts)
}

fn volume(mount: &Mount) -> Result<Value, BundleError> {
    let path = &mount.destination;
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(BundleError::BadMountPath { path: path.clone() });
    }
    if !mount.source.exists() {
        return Err(BundleError::NoMountSource { destination: path.clone(), path: mount.source.clone() });
    }
    let propagation = match mount.propagation {
        Propagation::None => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = if mount.read_only { "ro" } else { "rw" };
    Ok(json!({ "destination": path, "type": "bind", "source": mount.source,
        "options": ["rbind", propagation, access] }))
}
