//! Whether tests of the dataplane can run here.

use std::path::PathBuf;

use weir_dataplane::{Config, Dataplane, Error, Sizes, XdpMode};
use weir_tests::require;

/// Needs root and the eBPF object.
pub(crate) fn is_ready() -> bool {
    require::root_and((!is_built()).then(|| "the eBPF object (cargo xtask ebpf)".to_owned()))
}

fn is_built() -> bool {
    let nowhere = Config {
        bpffs: PathBuf::from("/proc/no-bpffs"),
        cgroup: PathBuf::from("/"),
        uplink: 0,
        node_addresses: Vec::new(),
        xdp: XdpMode::Off,
        sizes: Sizes::default(),
    };
    !matches!(Dataplane::open(&nowhere), Err(Error::NotBuilt))
}
