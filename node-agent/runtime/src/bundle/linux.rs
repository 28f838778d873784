//! The `linux` of `config.json`: namespaces, resources, devices, seccomp, masked paths.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::{major, minor};
use serde_json::{Value, json};

use super::{BundleError, mounts, seccomp};
use crate::cgroup::{CPU_PERIOD, Hierarchies, cpu_quota, cpu_shares, huge_page_limits, page_size_name};
use crate::container::{ContainerSpec, Resources};
use crate::sandbox::Sandbox;

const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub(super) fn linux(
    spec: &ContainerSpec,
    sandbox: &Sandbox,
    cgroup: &str,
    hierarchies: &Hierarchies,
    processes: Option<&Path>,
) -> Result<Value, BundleError> {
    let privileged = spec.security.privileged;
    let mut resources = resources(&spec.resources, hierarchies);
    // Denied first; libcontainer then allows what every container has (null, zero, random, tty, pts, …).
    resources["devices"] = json!([{ "allow": privileged, "access": "rwm" }]);
    let mut linux = json!({
        // Absolute and unique: an empty path would mean the shim's own group, and removing that kills the shim.
        "cgroupsPath": format!("/{cgroup}"),
        "namespaces": namespaces(sandbox, processes),
        "resources": resources,
        "rootfsPropagation": mounts::of_root(spec),
    });
    if privileged {
        linux["devices"] = devices(Path::new("/dev")).into();
        return Ok(linux);
    }
    linux["maskedPaths"] = json!(MASKED);
    let cgroups = hierarchies.v1_mount_points().iter().filter_map(|path| path.to_str());
    // Controllers before the directory that holds them: binding the latter takes them along as they are.
    let read_only: Vec<&str> = READ_ONLY.into_iter().chain(cgroups).chain(["/sys/fs/cgroup"]).collect();
    linux["readonlyPaths"] = json!(read_only);
    if let Some(profile) = seccomp::profile(&spec.security)? {
        linux["seccomp"] = profile;
    }
    Ok(linux)
}

/// `processes` is the process namespace of others that the container joins.
fn namespaces(sandbox: &Sandbox, processes: Option<&Path>) -> Vec<Value> {
    let mut namespaces = vec![json!({ "type": "mount" }), json!({ "type": "cgroup" })];
    let pinned = |kind: &str, file: &str| json!({ "type": kind, "path": sandbox.namespace(file) });
    if !sandbox.spec.host_network {
        namespaces.extend([pinned("network", "net"), pinned("uts", "uts")]);
    }
    if !sandbox.spec.host_ipc {
        namespaces.push(pinned("ipc", "ipc"));
    }
    match processes {
        _ if sandbox.spec.host_pid => {}
        Some(path) => namespaces.push(json!({ "type": "pid", "path": path })),
        None if sandbox.shares_processes() => namespaces.push(pinned("pid", "pid")),
        None => namespaces.push(json!({ "type": "pid" })),
    }
    namespaces
}

fn resources(asked: &Resources, hierarchies: &Hierarchies) -> Value {
    let mut cpu = json!({ "shares": cpu_shares(asked.cpu_request.or(asked.cpu_limit)) });
    if let Some(limit) = asked.cpu_limit {
        cpu["quota"] = cpu_quota(limit).into();
        cpu["period"] = CPU_PERIOD.into();
    }
    let mut resources = json!({ "cpu": cpu });
    if let Some(limit) = asked.memory_limit {
        resources["memory"] = json!({ "limit": i64::try_from(limit).unwrap_or(i64::MAX) });
    }
    if let Some(limit) = asked.pids_limit {
        resources["pids"] = json!({ "limit": i64::try_from(limit).unwrap_or(i64::MAX) });
    }
    let huge_pages = huge_page_limits(&asked.huge_pages, hierarchies.limits_huge_pages());
    if !huge_pages.is_empty() {
        let limits = huge_pages.iter();
        let limits = limits.map(|p| json!({ "pageSize": page_size_name(p.page_size), "limit": p.limit }));
        resources["hugepageLimits"] = limits.collect();
    }
    resources
}

/// The node's devices, for privileged containers.
fn devices(directory: &Path) -> Vec<Value> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = entry.metadata() else { continue };
        let kind = metadata.file_type();
        if kind.is_dir() {
            // The container has its own.
            if !["pts", "shm", "mqueue", "fd"].iter().any(|own| entry.file_name() == *own) {
                found.extend(devices(&path));
            }
        } else if (kind.is_char_device() || kind.is_block_device()) && entry.file_name() != "console" {
            found.push(json!({
                "path": path,
                "type": if kind.is_block_device() { "b" } else { "c" },
                "major": major(metadata.rdev()),
                "minor": minor(metadata.rdev()),
                "fileMode": metadata.mode() & 0o7777,
                "uid": metadata.uid(),
                "gid": metadata.gid(),
            }));
        }
    }
    found
}
