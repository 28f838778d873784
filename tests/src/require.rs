//! What a test needs of the machine. Where it is missing the test is skipped with the reason printed; in CI, where
//! everything must be there, it fails instead.
//!
//! Each gate is true where the test can run, and panics instead of being false where `CI` or `WEIR_REQUIRE_ROOT` is
//! set (to anything but nothing, `0` and `false`).

use std::io::Write;
use std::path::Path;

/// Something that the machine lacks, as the reason names it; `None` where it is there.
pub type Missing = Option<String>;

/// For what makes namespaces, mounts, cgroups or programs.
pub fn root() -> bool {
    all([missing_root()])
}

/// For root and something besides.
pub fn root_and(missing: Missing) -> bool {
    all([missing_root(), missing])
}

/// For whole clusters: root and every binary.
pub fn cluster() -> bool {
    cluster_and(&[])
}

/// For whole clusters, and programs of the machine besides.
pub fn cluster_and(programs: &[&str]) -> bool {
    let binaries = ["weir", "weir-control", "weir-agent"].map(|name| xtask::build::binaries().join(name));
    let missing = binaries
        .into_iter()
        .chain([xtask::build::echo()])
        .map(|path| (!path.exists()).then(|| format!("{} (cargo xtask build)", path.display())));
    let programs = programs.iter().map(|path| (!Path::new(path).exists()).then(|| (*path).to_owned()));
    all([missing_root()].into_iter().chain(missing).chain(programs))
}

fn missing_root() -> Missing {
    (!nix::unistd::geteuid().is_root()).then(|| "root".to_owned())
}

fn all(missing: impl IntoIterator<Item = Missing>) -> bool {
    let missing: Vec<String> = missing.into_iter().flatten().collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    let demanded = ["CI", "WEIR_REQUIRE_ROOT"].into_iter().find(|name| {
        std::env::var_os(name).is_some_and(|value| !["", "0", "false"].iter().any(|no| value == *no))
    });
    if let Some(name) = demanded {
        panic!("this test needs {missing}, and {name} says that it must run");
    }
    // Past the capture of the test harness, which would hide it.
    let _ = writeln!(std::io::stderr(), "skipped: needs {missing}");
    false
}
