//! Roots of images made of Debian's packages: fetched once by apt, with all that they depend on, and kept in
//! `target/debian`. Nothing is installed on the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use xtask::shell::{output, workspace};

/// A directory with everything of `packages` and what they need, as far as `wanted` says so of a package's file. The files are
/// as in the packages; their scripts have not run.
pub fn root(name: &str, packages: &[&str], wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let top = workspace().join("target/debian");
    let root = top.join(name);
    if root.exists() {
        return Ok(root);
    }
    let part = top.join(format!("{name}.{}.part", std::process::id()));
    let archives = part.join("archives");
    fs::create_dir_all(archives.join("partial"))?;
    let made = unpack(&part, &archives, packages, &wanted);
    if made.is_ok() {
        // Another test may have been as fast: what is there then is the same.
        let _ = fs::rename(part.join("root"), &root);
    }
    fs::remove_dir_all(&part)?;
    made.with_context(|| format!("a root of {}", packages.join(", ")))?;
    Ok(root)
}

fn unpack(part: &Path, archives: &Path, packages: &[&str], wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    // With a system that has nothing installed, everything is missing.
    let status = part.join("status");
    fs::write(&status, "")?;
    let apt = |flags: &[&str]| {
        let mut command = Command::new("apt-get");
        command.arg("-o").arg(format!("Dir::State::status={}", status.display()));
        command.arg("-o").arg(format!("Dir::Cache::archives={}", archives.display()));
        command.args(["-o", "APT::Install-Recommends=false", "-o", "APT::Sandbox::User=root", "-qq", "-y"]);
        command.args(flags).arg("install").args(packages);
        command
    };
    if output(&mut apt(&["--print-uris"])).is_err() {
        output(Command::new("apt-get").args(["-qq", "update"])).context("apt knows no packages")?;
    }
    output(&mut apt(&["--download-only"]))?;
    let root = part.join("root");
    fs::create_dir(&root)?;
    let mut count = 0;
    for entry in fs::read_dir(archives)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".deb") && wanted(&name) {
            output(Command::new("dpkg-deb").arg("-x").arg(entry.path()).arg(&root))?;
            count += 1;
        }
    }
    ensure!(count > 0, "apt fetched nothing");
    for directory in ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"] {
        let _ = fs::remove_dir_all(root.join(directory));
    }
    fs::create_dir_all(root.join("etc"))?;
    let _ = fs::create_dir(root.join("tmp"));
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/:/bin/false\nwww-data:x:33:33::/:/bin/false\nredis:x:101:102::/data:/bin/false\n",
    )?;
    Ok(fs::write(root.join("etc/group"), "root:x:0:\nwww-data:x:33:\nredis:x:102:\n")?)
}
