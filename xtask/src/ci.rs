//! `cargo xtask test` and `ci`. The parts of `ci` are what a contributor runs by hand, in the same order.

use anyhow::Result;

use crate::shell::{cargo, step};
use crate::{build, doctor, fuzz};

/// Everything that tests need, then all of them. Tests that lack root or a kernel feature fail here instead of
/// being skipped: the two variables say so.
pub fn test(arguments: &[String]) -> Result<()> {
    doctor::ensure(doctor::Purpose::Test)?;
    build::all()?;
    let mut command = cargo();
    command.args(["nextest", "run", "--workspace", "--exclude", "weir-ebpf"]).args(arguments);
    command.envs([("WEIR_REQUIRE_ROOT", "1"), ("WEIR_REQUIRE_ETCD", "1")]);
    step("running all tests", &mut command)
}

pub fn run() -> Result<()> {
    test(&[])?;
    fuzz::run(&fuzz::Options::all(60))?;
    step("checking the format", cargo().args(["fmt", "--all", "--check"]))?;
    let fuzz = ["fmt", "--manifest-path", "tests/fuzz/Cargo.toml", "--check"];
    step("checking the format of the fuzz targets", cargo().args(fuzz))?;
    step(
        "linting",
        cargo().args([
            "clippy",
            "--workspace",
            "--exclude",
            "weir-ebpf",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ]),
    )
}
