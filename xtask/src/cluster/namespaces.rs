//! Network namespaces, named under `/run/netns` so that `ip -n NAME …` finds them, and the links between them.
//!
//! They are made here rather than by `ip netns add`, which leaves a mount on `/run/netns` behind for good.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::layout::{BRIDGE, CLIENT_ADDRESS, HUB_ADDRESS, Layout};
use crate::shell::output;

const DIRECTORY: &str = "/run/netns";

/// A named network namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Makes it, with the loopback up. An existing one of that name is an error.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(DIRECTORY)?;
        let path = self.path();
        File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        let target = path.clone();
        // The namespace is the thread's alone; the bind mount keeps it when the thread is gone.
        let made = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare the network namespace")?;
            mount(Some("/proc/thread-self/ns/net"), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("bind the namespace to {}", target.display()))
        })
        .join()
        .map_err(|_| anyhow!("the thread that makes a namespace panicked"))?;
        made?;
        self.ip(&["link", "set", "lo", "up"])
    }

    /// Removes the name; the namespace goes with the last process in it. True where there was one.
    pub fn remove(&self) -> Result<bool> {
        let path = self.path();
        if !path.exists() {
            return Ok(false);
        }
        // EINVAL: a file that no namespace was bound to, after a crash between the two.
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL) => {}
            Err(error) => return Err(error).with_context(|| format!("unmount {}", path.display())),
        }
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        // Fails while others' namespaces are there, as it should.
        let _ = fs::remove_dir(DIRECTORY);
        Ok(true)
    }

    /// `ip -n NAME …`.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        output(Command::new("ip").arg("-n").arg(&self.name).args(arguments)).map(drop)
    }

    /// A program inside, for tools that know no `-n`.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command.args(arguments);
        output(enter(&mut command, &self.path())?)
    }
}

/// Every namespace of a cluster that is there now, whether or not its layout is known.
pub(super) fn existing(cluster: &str) -> Result<Vec<Namespace>> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return Ok(Vec::new()) };
    let prefix = format!("{cluster}-");
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let rest = name.strip_prefix(&prefix);
        if rest.is_some_and(|rest| rest == "hub" || rest == "client" || rest.starts_with("node-")) {
            found.push(Namespace { name });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Makes a child of `command` start in the network namespace at `path`, and nothing else of it changed: `ip netns
/// exec` would remount /sys and lose the cgroup and bpf file systems.
pub fn enter<'a>(command: &'a mut Command, path: &Path) -> Result<&'a mut Command> {
    use std::os::unix::process::CommandExt;
    let file = File::open(path).with_context(|| format!("open the namespace {}", path.display()))?;
    // SAFETY: setns on an open descriptor is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(move || setns(&file, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from));
    }
    Ok(command)
}

/// The bridge in the hub, and a link from it to the client and to each node.
pub(super) fn connect(layout: &Layout) -> Result<()> {
    let hub = Namespace::named(layout.hub());
    hub.create()?;
    hub.ip(&["link", "add", BRIDGE, "type", "bridge", "stp_state", "0"])?;
    hub.ip(&["address", "add", &format!("{HUB_ADDRESS}/24"), "dev", BRIDGE])?;
    hub.ip(&["link", "set", BRIDGE, "up"])?;
    attach(&hub, &Namespace::named(layout.client()), "client", CLIENT_ADDRESS)?;
    for node in layout.node_names() {
        let namespace = Namespace::named(layout.namespace_of(&node));
        attach(&hub, &namespace, &node, layout.address_of(&node))?;
    }
    Ok(())
}

/// From the hub to the pods of a node.
pub(super) fn lead(layout: &Layout, pods: &str, node: Ipv4Addr) -> Result<()> {
    Namespace::named(layout.hub()).ip(&["route", "replace", pods, "via", &node.to_string()])
}

/// A new namespace with `eth0`, whose other end is a port of the hub's bridge.
pub(super) fn attach(hub: &Namespace, namespace: &Namespace, port: &str, address: Ipv4Addr) -> Result<()> {
    namespace.create()?;
    namespace.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", &hub.name])?;
    namespace.ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"])?;
    // Frames on this wire carry whole checksums, as on a real one: XDP would lose the partial ones.
    namespace.run("ethtool", &["--offload", "eth0", "tx", "off"])?;
    // A veth takes what its peer's XDP program sends only while it polls, which GRO makes it do, and the peer learns of
    // that when it comes up. What GRO put together must leave with whole checksums again.
    hub.run("ethtool", &["--offload", port, "gro", "on", "tx", "off"])?;
    namespace.ip(&["link", "set", "eth0", "up"])?;
    hub.ip(&["link", "set", port, "master", BRIDGE, "up"])
}
