//! What a test needs of the machine. Where it is missing the test is skipped with the reason printed; in CI, where
//! everything must be there, it fails instead.

/// True where whole clusters can run here; else says why not.
///
/// # Panics
/// Where `CI` or `WEIR_REQUIRE_ROOT` is set and something is missing.
pub fn cluster() -> bool {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root".to_owned());
    }
    for binary in ["weir", "weir-control", "weir-agent"] {
        let path = xtask::build::binaries().join(binary);
        if !path.exists() {
            missing.push(format!("{} (cargo xtask build)", path.display()));
        }
    }
    if !xtask::build::echo().exists() {
        missing.push(format!("{} (cargo xtask build)", xtask::build::echo().display()));
    }
    if missing.is_empty() {
        return true;
    }
    let must = std::env::var_os("CI").is_some() || std::env::var_os("WEIR_REQUIRE_ROOT").is_some();
    assert!(!must, "this test needs {}", missing.join(", "));
    eprintln!("skipped: needs {}", missing.join(", "));
    false
}
