//! What this machine is, read from the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::sys::utsname::uname;
use weir_proto::Quantity;
use weir_runtime::cgroup::Group;

use crate::config::Config;

/// Facts of the machine. What cannot be read is 0 or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub cpus: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes of the file system that holds the agent's state.
    pub disk: u64,
    /// By size of page: bytes set aside, of what the name of the resource says ("hugepages-2Mi").
    pub huge_pages: BTreeMap<String, u64>,
    /// As Go names it: amd64, arm64.
    pub architecture: &'static str,
    pub kernel: String,
    pub os_image: String,
    pub machine_id: String,
    pub boot_id: String,
}

impl Machine {
    /// The machine, or as much of it as the node's control group leaves it.
    pub fn of(config: &Config) -> Self {
        let mut machine = Self::look(&config.state_dir);
        let group = Group::at(&config.cgroup_parent).ok().and_then(|group| group.memory());
        if let Some(limit) = group.and_then(|memory| memory.limit) {
            machine.memory = machine.memory.min(limit);
        }
        machine
    }

    /// Its own name, as programs on it see it.
    pub fn host_name() -> String {
        uname().map(|name| name.nodename().to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Tasks there are, and may be.
    pub fn tasks() -> (u64, u64) {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let number = |path: &str| line(path).parse().ok();
        let limits =
            ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"].into_iter().filter_map(number);
        (tasks(&line("/proc/loadavg")), limits.min().unwrap_or(0))
    }

    pub fn look(state_dir: &Path) -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        // Before the state directory is made, its nearest parent tells the same.
        let existing = state_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let disk = statvfs(existing).ok();
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
            memory: kibibytes(&meminfo, "MemTotal"),
            disk: disk.map_or(0, |disk| disk.blocks() * disk.fragment_size()),
            huge_pages: huge_pages(),
            architecture: architecture(),
            kernel: uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default(),
            os_image: os_name(&os_release),
            machine_id: line("/etc/machine-id"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
        }
    }
}

impl Machine {
    /// As of a Node's capacity. `memory_reserve` is not for pods, and neither is memory set aside as huge pages; without a
    /// reserve the whole of it is told.
    pub fn resources(&self, memory_reserve: u64) -> BTreeMap<String, Quantity> {
        let signed = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
        let set_aside = if memory_reserve > 0 { self.huge_pages.values().sum() } else { 0 };
        let memory = self.memory.saturating_sub(memory_reserve).saturating_sub(set_aside);
        let mut all = BTreeMap::from([
            ("cpu".to_owned(), Quantity::from_value(signed(self.cpus))),
            ("memory".to_owned(), Quantity::from_bytes(signed(memory))),
            ("ephemeral-storage".to_owned(), Quantity::from_bytes(signed(self.disk))),
        ]);
        all.extend(
            self.huge_pages.iter().map(|(name, bytes)| (name.clone(), Quantity::from_bytes(signed(*bytes)))),
        );
        all
    }
}

fn huge_pages() -> BTreeMap<String, u64> {
    let signed = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
    let sizes = weir_runtime::cgroup::huge_pages_of_node().into_iter();
    sizes.map(|(size, count)| (huge_page_name(signed(size)), size.saturating_mul(count))).collect()
}

fn huge_page_name(size: i64) -> String {
    format!("hugepages-{}", Quantity::from_bytes(size))
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn kibibytes(meminfo: &str, name: &str) -> u64 {
    let value = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

/// From "0.20 0.18 0.12 1/80 11206": 80.
fn tasks(loadavg: &str) -> u64 {
    let field = loadavg.split_whitespace().nth(3);
    field.and_then(|field| field.split_once('/')?.1.parse().ok()).unwrap_or(0)
}

fn os_name(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(kibibytes("MemTotal:       16384 kB\nMemAvailable: 8 kB\n", "MemAvailable"), 8192);
        assert_eq!(tasks("0.20 0.18 0.12 1/80 11206"), 80);
        assert_eq!([2 << 20, 1 << 30].map(huge_page_name), ["hugepages-2Mi", "hugepages-1Gi"]);
        assert_eq!(os_name("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
    }

    #[test]
    fn this_machine_has_processors_memory_and_disk() {
        let machine = Machine::look(Path::new("/does/not/exist/yet"));
        assert!(machine.cpus > 0 && machine.memory > 0 && machine.disk > 0, "{machine:?}");
        let (there, most) = Machine::tasks();
        assert!(0 < there && there < most, "{there} of {most}");
    }
}
