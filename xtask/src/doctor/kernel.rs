//! What only the kernel and its configuration can give.

use std::fs;

use super::{Need, Purpose, Remedy};

/// TCX and bpf links at every hook that Weir uses.
const MINIMUM: (u32, u32) = (6, 6);

pub(super) const NEEDS: &[Need] = &[
    Need {
        name: "root",
        why: "network namespaces, cgroups, mounts and eBPF",
        purpose: Purpose::Run,
        remedy: Remedy::Advice("run as root"),
        probe: || {
            if nix::unistd::geteuid().is_root() { Ok("uid 0".to_owned()) } else { Err("not root".to_owned()) }
        },
    },
    Need {
        name: "kernel 6.6 or later",
        why: "TCX and bpf links at every hook",
        purpose: Purpose::Run,
        remedy: Remedy::Advice("boot a newer kernel"),
        probe: kernel_version,
    },
    Need {
        name: "kernel BTF",
        why: "typed maps, and programs that load on any kernel",
        purpose: Purpose::Run,
        remedy: Remedy::Advice("a kernel with CONFIG_DEBUG_INFO_BTF"),
        probe: || exists("/sys/kernel/btf/vmlinux"),
    },
    Need {
        name: "bpf file system",
        why: "pinned maps and programs outlive the agent",
        purpose: Purpose::Run,
        remedy: Remedy::Advice("a kernel with CONFIG_BPF_SYSCALL"),
        probe: || file_system("bpf"),
    },
    Need {
        name: "overlayfs",
        why: "containers' root file systems",
        purpose: Purpose::Run,
        remedy: Remedy::Advice("a kernel with CONFIG_OVERLAY_FS, or `modprobe overlay`"),
        probe: || file_system("overlay"),
    },
    Need {
        name: "cgroup2 hierarchy",
        why: "cgroup eBPF programs see the pods' sockets",
        purpose: Purpose::Run,
        remedy: Remedy::Advice("mount -t cgroup2 none /sys/fs/cgroup (or …/unified beside v1)"),
        probe: || {
            let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
            mounts
                .lines()
                .find_map(|line| {
                    let mut words = line.split(' ').skip(1);
                    let path = words.next()?;
                    (words.next()? == "cgroup2").then(|| path.to_owned())
                })
                .ok_or_else(|| "no cgroup2 is mounted".to_owned())
        },
    },
    Need {
        name: "network namespaces",
        why: "pods, and nodes on one machine",
        purpose: Purpose::Run,
        remedy: Remedy::Advice("a kernel with CONFIG_NET_NS"),
        probe: || exists("/proc/self/ns/net"),
    },
    Need {
        name: "BPF JIT",
        why: "the dataplane's speed",
        purpose: Purpose::Run,
        remedy: Remedy::Advice("sysctl -w net.core.bpf_jit_enable=1"),
        probe: || match fs::read_to_string("/proc/sys/net/core/bpf_jit_enable") {
            Ok(value) if value.trim() != "0" => Ok("on".to_owned()),
            Ok(_) => Err("off".to_owned()),
            Err(error) => Err(error.to_string()),
        },
    },
];

fn kernel_version() -> Result<String, String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").map_err(|error| error.to_string())?;
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= MINIMUM { Ok(release.to_owned()) } else { Err(format!("this is {release}")) }
}

fn exists(path: &str) -> Result<String, String> {
    if fs::metadata(path).is_ok() { Ok(path.to_owned()) } else { Err(format!("no {path}")) }
}

fn file_system(name: &str) -> Result<String, String> {
    let known = fs::read_to_string("/proc/filesystems").map_err(|error| error.to_string())?;
    if known.split_whitespace().any(|word| word == name) {
        Ok(name.to_owned())
    } else {
        Err(format!("the kernel does not know {name}"))
    }
}
