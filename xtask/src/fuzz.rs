//! `cargo xtask fuzz`: the targets of `tests/fuzz`, each for some seconds, as many at a time as there are cores.
//!
//! A stable compiler does: cargo-fuzz's coverage counters are a pass of LLVM that `-C passes` reaches, and without a
//! sanitizer nothing else of it is a nightly's. What is fuzzed is safe Rust, where a sanitizer has little to find; checks
//! for overflow and debug assertions are on.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::doctor;
use crate::shell::{cargo, step, workspace};

const TARGETS: &[&str] =
    &["manifests", "quantity", "selectors", "jsonpath", "patches", "strategic", "layers"];
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

#[derive(Debug, clap::Args)]
pub struct Options {
    /// One target alone
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    target: Option<String>,
    /// How long each runs
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
}

impl Options {
    /// Every target, for so long.
    pub fn all(seconds: u32) -> Self {
        Self { target: None, seconds }
    }
}

pub fn run(options: &Options) -> Result<()> {
    doctor::ensure(doctor::Purpose::Test)?;
    build()?;
    let wanted = TARGETS.iter().filter(|target| options.target.as_deref().is_none_or(|one| one == **target));
    let queue = Mutex::new(wanted.copied());
    let next = || queue.lock().ok()?.next();
    let failures = Mutex::new(Vec::new());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(target) = next() {
                    if let Err(error) = fuzz(target, options.seconds)
                        && let Ok(mut failures) = failures.lock()
                    {
                        failures.push(format!("{error:#}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
}

/// Where what the targets are built of, and find, is kept.
fn kept() -> PathBuf {
    workspace().join("target/fuzz")
}

fn build() -> Result<()> {
    let mut command = cargo();
    command.args(["fuzz", "build", "--fuzz-dir", "tests/fuzz", "--sanitizer", "none"]);
    command.args(["--target", TRIPLE, "--target-dir"]).arg(kept());
    step("building the fuzz targets (target/fuzz)", &mut command)
}

/// Runs one target from its seeds and what earlier runs found worth keeping. What a failing run leaves is named.
fn fuzz(target: &str, seconds: u32) -> Result<()> {
    let corpus = kept().join("corpus").join(target);
    let artifacts = kept().join("artifacts").join(target);
    for directory in [&corpus, &artifacts] {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    }
    let output = Command::new(kept().join(TRIPLE).join("release").join(target))
        .arg(&corpus)
        .arg(workspace().join("tests/fuzz/seeds").join(target))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        // Bounds on one input: seconds, bytes of it, MiB of memory.
        .args(["-timeout=20", "-max_len=4096", "-rss_limit_mb=1024", "-print_final_stats=1", "-verbosity=0"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run the fuzz target {target}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("the fuzz target {target} failed; its input is in {}\n{}", artifacts.display(), tail(&said));
    }
    let runs = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units: "));
    println!("    {target:<12} {} inputs in {seconds} s", runs.unwrap_or("?").trim());
    Ok(())
}

/// Enough for the panic's message, the input and the trace.
fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_target_is_run_and_has_seeds() {
        let directory = workspace().join("tests/fuzz");
        let names = |path: &Path| -> Vec<String> {
            let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
            let mut names: Vec<String> =
                entries.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        let mut run = TARGETS.to_vec();
        run.sort_unstable();
        assert_eq!(names(&directory.join("targets")), run);
        assert_eq!(names(&directory.join("seeds")), run);
    }
}
