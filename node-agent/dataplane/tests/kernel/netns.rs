//! Network namespaces without names: they end with their descriptor, whatever happens to the test.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

#[derive(Debug)]
pub(crate) struct NetNs {
    descriptor: OwnedFd,
}

impl NetNs {
    /// A new namespace with its loopback interface up, that forwards and does not filter by reverse path.
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
        };
        let ns = Self { descriptor: thread::spawn(make).join().unwrap() };
        ns.ip("link set lo up");
        ns.run(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
            fs::write("/proc/sys/net/ipv4/conf/default/rp_filter", "0").unwrap();
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", "32768 49151").unwrap();
            fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        });
        ns
    }

    /// Runs on a thread of its own inside the namespace.
    pub(crate) fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = || {
                setns(&self.descriptor, CloneFlags::CLONE_NEWNET).unwrap();
                action()
            };
            scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `ip` commands, one a line.
    pub(crate) fn ip(&self, commands: &str) {
        self.run(|| {
            let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
            ip.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
            assert!(ip.wait().unwrap().success(), "ip failed on:\n{commands}");
        });
    }

    /// TCP segments and UDP datagrams that arrived with a wrong checksum, and segments sent again.
    pub(crate) fn complaints(&self) -> Vec<(&'static str, u64)> {
        let table = self.run(|| fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
        let counted = [("Tcp:", "InCsumErrors"), ("Udp:", "InCsumErrors"), ("Tcp:", "RetransSegs")];
        let of = |(protocol, name): (&str, &'static str)| {
            let mut lines = table.lines().filter(|line| line.starts_with(protocol));
            let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
            let index = names.split(' ').position(|field| field == name).unwrap();
            (name, values.split(' ').nth(index).unwrap().parse().unwrap())
        };
        counted.map(of).into_iter().filter(|(_, count)| *count > 0).collect()
    }

    pub(crate) fn index_of(&self, interface: &str) -> u32 {
        self.run(|| nix::net::if_::if_nametoindex(interface).unwrap())
    }

    /// A path by which `ip link set … netns` finds the namespace.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.descriptor.as_raw_fd())
    }
}
