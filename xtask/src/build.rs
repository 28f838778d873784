//! Building: the eBPF object first, since the agent embeds it, then the three binaries, then the demo's server.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::shell::{cargo, output, step, workspace};

/// Where the eBPF object lands; `weir-dataplane` embeds it from there.
pub fn ebpf_object() -> PathBuf {
    workspace().join("target/bpf/bpfel-unknown-none/release/weir")
}

/// Where the binaries are that clusters are made of: `target/release`, or `$WEIR_BIN_DIR`.
pub fn binaries() -> PathBuf {
    std::env::var_os("WEIR_BIN_DIR").map(PathBuf::from).unwrap_or_else(|| workspace().join("target/release"))
}

/// The static server that the demo image holds.
pub fn echo() -> PathBuf {
    workspace().join("target/echo/x86_64-unknown-linux-gnu/release/weir-echo")
}

pub fn all() -> Result<()> {
    ebpf()?;
    release()?;
    echo_server()
}

/// Builds `ebpf/programs` with Debian's rustc: its LLVM is new enough, and it ships the library sources that
/// `-Z build-std` compiles for the BPF target, which stable rustup toolchains do not.
pub fn ebpf() -> Result<()> {
    let mut command = cargo();
    command
        .args(["build", "--release", "--package", "weir-ebpf"])
        .args(["-Z", "build-std=core", "--target", "bpfel-unknown-none"])
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", workspace().join("target/bpf"))
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_ENCODED_RUSTFLAGS", "-Cdebuginfo=2\x1f-Clink-arg=--btf");
    step("building the eBPF programs (target/bpf)", &mut command)?;
    let object = ebpf_object();
    let size =
        std::fs::metadata(&object).with_context(|| format!("the build left no {}", object.display()))?.len();
    println!("    {} ({} KiB)", object.display(), size / 1024);
    Ok(())
}

/// `target/release/{weir,weir-control,weir-agent}`.
fn release() -> Result<()> {
    let mut command = cargo();
    command.args(["build", "--release"]);
    for package in ["weir-cli", "weir-control", "weir-agent"] {
        command.args(["--package", package]);
    }
    step("building weir, weir-control and weir-agent (target/release)", &mut command)
}

/// What the bench of the control plane runs, and all benches' loads: `target/release/{weir-control,weir-bench}`.
pub fn bench() -> Result<()> {
    let mut command = cargo();
    command.args(["build", "--release", "--package", "weir-control", "--package", "weir-bench"]);
    step("building weir-control and weir-bench (target/release)", &mut command)
}

/// One static file: the image needs nothing else.
fn echo_server() -> Result<()> {
    let mut command = cargo();
    command
        .args(["build", "--release", "--package", "weir-echo", "--target", "x86_64-unknown-linux-gnu"])
        .env("CARGO_TARGET_DIR", workspace().join("target/echo"))
        .env("CARGO_PROFILE_RELEASE_STRIP", "true")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    step("building the demo's static server (target/echo)", &mut command)
}

/// `rustc -vV` of the compiler that builds the eBPF programs, for the version of its LLVM.
pub fn ebpf_llvm_version() -> Result<u32> {
    let version = output(std::process::Command::new("/usr/bin/rustc").arg("-vV"))?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))
        .and_then(|version| version.split('.').next()?.parse().ok())
        .context("/usr/bin/rustc -vV does not tell its LLVM version")
}
