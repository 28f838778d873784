//! The agent's side of a sandbox: directories, files, the helper's run, the way back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::statfs;

use super::helper::Request;
use super::pause;
use super::{Sandbox, SandboxError, SandboxSpec, io_error};
use crate::cgroup::PodCgroups;
use crate::error::{Error, Result};
use crate::json_file;
use crate::mounts;
use crate::shim::Program;
use crate::shim::process::InitProcess;

/// `NSFS_MAGIC` of linux/magic.h: what a pinned namespace lies on.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Makes the sandbox in `dir`; returns it as it is when it is complete.
pub(crate) fn create(
    spec: &SandboxSpec,
    dir: &Path,
    cgroups: &PodCgroups,
    program: &Program,
) -> Result<Sandbox> {
    refuse_unsupported(spec)?;
    if let Some(sandbox) = load(dir)? {
        return Ok(sandbox);
    }
    let before = dir.join(".sandbox");
    if before.exists() {
        // Left by a run that was cut short, or by the time before a reboot. Where the record was damaged, containers
        // may run on in namespaces that nobody can find any more.
        cgroups.remove(&spec.uid)?;
        mounts::unmount_below(&before)?;
    }
    let namespaces = namespaces(spec);
    let cgroup = cgroups.create(&spec.uid, spec.qos, &spec.resources)?;
    let sandbox = Sandbox {
        netns: (!spec.host_network).then(|| dir.join(".sandbox/ns/net")),
        dir: dir.to_owned(),
        cgroup2: cgroups.hierarchies().unified_dir(&cgroup),
        cgroup,
        spec: spec.clone(),
    };
    let ns = sandbox.file("ns");
    fs::create_dir_all(&ns).map_err(io_error("create", &ns))?;
    for namespace in &namespaces {
        write(&ns.join(namespace), "")?;
    }
    write_files(&sandbox)?;
    write(&sandbox.file("hostname"), &format!("{}\n", spec.hostname))?;
    if !spec.host_ipc {
        mount_shm(&sandbox.file("shm"))?;
    }
    if !namespaces.is_empty() {
        let request = Request {
            directory: ns,
            hostname: spec.hostname.clone(),
            namespaces: namespaces.into_iter().map(str::to_owned).collect(),
            sysctls: spec.sysctls.clone(),
        };
        program
            .run_sandbox_helper(&request)
            .map_err(|problem| SandboxError::Helper { uid: spec.uid.clone(), problem })?;
    }
    ensure_pause(&sandbox, cgroups, program)?;
    record(&sandbox)?;
    Ok(sandbox)
}

/// Makes the shared process namespace, where the pod has one and its first process does not live. The kernel has killed
/// whatever was in the old one.
pub(crate) fn ensure_pause(sandbox: &Sandbox, cgroups: &PodCgroups, program: &Program) -> Result<()> {
    if !sandbox.shares_processes() {
        return Ok(());
    }
    let record = sandbox.file("pause.json");
    if json_file::read::<InitProcess>(&record).is_ok_and(|process| process.is_alive()) {
        return Ok(());
    }
    let failed = |problem| SandboxError::Helper { uid: sandbox.spec.uid.clone(), problem };
    let pin = sandbox.namespace("pid");
    mounts::unmount_below(&pin)?;
    write(&pin, "")?;
    let request = pause::Request {
        pin,
        join: namespaces(&sandbox.spec).into_iter().map(|kind| sandbox.namespace(kind)).collect(),
        cgroups: cgroups.hierarchies().dirs(&format!("{}/pause", sandbox.cgroup)).collect(),
    };
    let process = program.start_pause(&request).map_err(failed)?;
    json_file::write(&record, &process).map_err(failed)?;
    Ok(())
}

/// Replaces `/etc/hosts` and `/etc/resolv.conf` of the pod's containers.
pub(crate) fn set_files(mut sandbox: Sandbox, hosts: &str, resolv_conf: &str) -> Result<Sandbox> {
    hosts.clone_into(&mut sandbox.spec.hosts);
    resolv_conf.clone_into(&mut sandbox.spec.resolv_conf);
    write_files(&sandbox)?;
    record(&sandbox)?;
    Ok(sandbox)
}

/// In place: containers have these very files mounted, and would not see others of the same name.
fn write_files(sandbox: &Sandbox) -> Result<()> {
    write(&sandbox.file("hosts"), &sandbox.spec.hosts)?;
    write(&sandbox.file("resolv.conf"), &sandbox.spec.resolv_conf)
}

fn record(sandbox: &Sandbox) -> Result<()> {
    json_file::write(&sandbox.file("sandbox.json"), sandbox)
        .map_err(|problem| SandboxError::Helper { uid: sandbox.spec.uid.clone(), problem }.into())
}

/// The sandbox in `dir`, if it is complete.
pub(crate) fn load(dir: &Path) -> Result<Option<Sandbox>> {
    let path = dir.join(".sandbox/sandbox.json");
    let json = match fs::read(&path) {
        Ok(json) => json,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", &path)(error).into()),
    };
    // Written by another version, or cut short: made anew.
    let Ok(sandbox) = serde_json::from_slice::<Sandbox>(&json) else { return Ok(None) };
    let pinned = namespaces(&sandbox.spec).iter().all(|kind| is_namespace(&sandbox.namespace(kind)));
    Ok(pinned.then_some(sandbox))
}

/// Unmounts and removes everything in `dir`, and the pod's cgroup with whatever runs in it.
pub(crate) fn remove(uid: &str, dir: &Path, cgroups: &PodCgroups) -> Result<()> {
    cgroups.remove(uid)?;
    mounts::unmount_below(dir)?;
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", dir)(error)),
        _ => Ok(()),
    }
}

fn refuse_unsupported(spec: &SandboxSpec) -> Result<()> {
    if spec.user_namespace {
        return Err(Error::NotSupported { field: "spec.hostUsers: false" });
    }
    for name in spec.sysctls.keys() {
        let net = name.starts_with("net.") && !spec.host_network;
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix))
            || name == "kernel.sem";
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if !plain || name.contains("..") || !(net || ipc && !spec.host_ipc) {
            return Err(SandboxError::Sysctl { uid: spec.uid.clone(), name: name.clone() }.into());
        }
    }
    Ok(())
}

fn namespaces(spec: &SandboxSpec) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    if !spec.host_network {
        kinds.extend(["net", "uts"]);
    }
    if !spec.host_ipc {
        kinds.push("ipc");
    }
    kinds
}

fn is_namespace(path: &PathBuf) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type().0 == NSFS_MAGIC)
}

fn mount_shm(path: &PathBuf) -> Result<()> {
    fs::create_dir_all(path).map_err(io_error("create", path))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("shm"), path, Some("tmpfs"), flags, Some("mode=1777,size=65536k"))
        .map_err(|errno| io_error("mount", path)(errno.into()).into())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| io_error("write", path)(error).into())
}
