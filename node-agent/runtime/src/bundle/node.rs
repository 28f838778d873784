//! What this node lets a container have: capabilities, resource limits, memory.
//!
//! A runtime that itself runs with less (in a container, say) cannot give what it does not have. Where Kubernetes' defaults
//! ask for it, it is left out, and said so once.

use std::fs;
use std::sync::Once;

use nix::sys::resource::{Resource, getrlimit};

const CAP_SYS_RESOURCE: u32 = 24;

/// Bit n is set when this process has capability n.
pub(super) fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn may_exceed_limits() -> bool {
    capabilities() & (1 << CAP_SYS_RESOURCE) != 0
}

/// The wanted out-of-memory score, or the least this node may set.
pub(super) fn clamp_oom_score(wanted: i32) -> i32 {
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    let own = own.trim().parse().unwrap_or(0);
    if wanted >= own || may_exceed_limits() {
        return wanted;
    }
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            wanted,
            given = own,
            "without CAP_SYS_RESOURCE no container is protected from the OOM killer"
        );
    });
    own
}

/// The limit of open files for containers: a million, or what this node may set.
pub(super) fn open_files() -> u64 {
    const WANTED: u64 = 1 << 20;
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(WANTED, |(_, hard)| hard);
    if hard >= WANTED || may_exceed_limits() {
        return WANTED;
    }
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            wanted = WANTED,
            given = hard,
            "without CAP_SYS_RESOURCE containers may open fewer files"
        );
    });
    hard
}

/// Bytes.
pub(super) fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = total.and_then(|total| total.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
