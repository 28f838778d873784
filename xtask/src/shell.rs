//! Running other programs: what ran is named in every error, and long ones show their own output.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The workspace's root: where `Cargo.toml` and `.weir/` are.
pub fn workspace() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map(PathBuf::from).unwrap_or(manifest)
}

/// `cargo` in the workspace, without what the outer cargo or the shell said about toolchains, where to build, and the
/// package that runs: build scripts that ask for those (ring's) would run again, and all that stands on them be rebuilt,
/// each time a build by hand follows one from here.
pub fn cargo() -> Command {
    const GIVEN_TO_XTASK: &[&str] = &["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    let mut command = Command::new("cargo");
    command.current_dir(workspace());
    for name in
        ["CARGO", "CARGO_TARGET_DIR", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"]
    {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        if GIVEN_TO_XTASK.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// Says what is being done, runs it with its output on the terminal, and says how long it took.
pub fn step(what: &str, command: &mut Command) -> Result<()> {
    let start = Instant::now();
    println!("==> {what}");
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("{what}: {command:?} ended with {status}");
    }
    println!("    done in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Runs it silently and returns what it printed on standard output; its standard error becomes the error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where a program is, if it is anywhere on PATH or where Debian keeps an administrator's tools.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin"));
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/usr/sbin", "/sbin", "/bin"].map(PathBuf::from))
        .chain(home)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}
