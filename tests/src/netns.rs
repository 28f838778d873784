//! Network namespaces without names or mounts: the kernel frees each with the last descriptor or thread that holds
//! it, whatever happens to the test.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace that lives as long as this, and as long as threads, processes or sockets are in it.
#[derive(Debug)]
pub struct NetNs {
    descriptor: OwnedFd,
}

impl NetNs {
    /// With nothing but a loopback that is down. A second must pass before TCP sends a segment again: what is lost is
    /// noticed, and what a busy machine delivers late does not look lost.
    pub fn bare() -> Self {
        // A thread of its own leaves the caller in the namespace where it is.
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
            fs::write("/proc/sys/net/ipv4/tcp_early_retrans", "0").expect("no probes of the tail");
            // Kernels before 6.11 keep their 200 ms.
            let _ = fs::write("/proc/sys/net/ipv4/tcp_rto_min_us", "1000000");
            OwnedFd::from(File::open("/proc/thread-self/ns/net").expect("the namespace"))
        };
        Self { descriptor: joined(thread::spawn(make).join()) }
    }

    /// A machine of an IPv4 network: its loopback is up, it forwards, it does not filter by reverse path, and it
    /// leaves the ports from 49152 on to others.
    pub fn machine() -> Self {
        let ns = Self::bare();
        ns.ip("link set lo up");
        for (key, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/ip_local_port_range", "32768 49151"),
            ("ipv6/conf/all/disable_ipv6", "1"),
        ] {
            ns.sysctl(key, value);
        }
        ns
    }

    /// Runs `action` inside, on a thread of its own, and waits for it. Its panic is the caller's.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = || {
                setns(&self.descriptor, CloneFlags::CLONE_NEWNET).expect("entered");
                action()
            };
            joined(scope.spawn(inside).join())
        })
    }

    /// Runs `action` inside, on a thread of its own, while the caller goes on.
    pub fn spawn<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let descriptor = self.descriptor.try_clone().expect("a descriptor");
        thread::spawn(move || {
            setns(descriptor, CloneFlags::CLONE_NEWNET).expect("entered");
            action()
        })
    }

    /// A path by which other threads and processes find the namespace.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.descriptor.as_raw_fd()).into()
    }

    /// `ip` commands, one a line.
    pub fn ip(&self, commands: &str) {
        self.run(|| {
            let mut ip =
                Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip runs");
            // The pipe is closed at the end of the statement, which ends the batch.
            ip.stdin.take().expect("a pipe").write_all(commands.as_bytes()).expect("commands written");
            assert!(ip.wait().expect("ip ends").success(), "ip failed on:\n{commands}");
        });
    }

    /// `ethtool -K`: turns offloads of an interface on and off, as in "gro on".
    pub fn offload(&self, interface: &str, setting: &str) {
        self.run(|| {
            let arguments = ["-K", interface].into_iter().chain(setting.split(' '));
            let done = Command::new("ethtool").args(arguments).output().expect("ethtool runs");
            assert!(done.status.success(), "ethtool: {}", String::from_utf8_lossy(&done.stderr));
        });
    }

    /// Writes a setting below `/proc/sys/net`.
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/net/{key}");
        if let Err(error) = self.run(|| fs::write(&path, value)) {
            panic!("cannot write {value:?} to {path}: {error}");
        }
    }

    /// The index of an interface.
    pub fn index_of(&self, interface: &str) -> u32 {
        self.run(|| nix::net::if_::if_nametoindex(interface).expect("an interface of that name"))
    }

    /// TCP segments and UDP datagrams that arrived with a wrong checksum, and segments sent again; only what is not
    /// zero.
    pub fn complaints(&self) -> Vec<(&'static str, u64)> {
        let table = self.run(|| fs::read_to_string("/proc/thread-self/net/snmp").expect("the counters"));
        let of = |(protocol, name): (&str, &'static str)| {
            let mut lines = table.lines().filter(|line| line.starts_with(protocol));
            let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
            let pair = names.split(' ').zip(values.split(' ')).find(|pair| pair.0 == name);
            (name, pair.expect("the counter").1.parse().expect("a count"))
        };
        let counted = [("Tcp:", "InCsumErrors"), ("Udp:", "InCsumErrors"), ("Tcp:", "RetransSegs")];
        counted.map(of).into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

fn joined<T>(ended: thread::Result<T>) -> T {
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
