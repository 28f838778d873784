//! What can be installed: Debian packages and cargo's tools.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::{Need, Purpose, Remedy};
use crate::build::ebpf_llvm_version;
use crate::shell::{cargo, find, output, step};

pub(super) const NEEDS: &[Need] = &[
    Need {
        name: "gcc",
        why: "linking, and crates that compile C",
        purpose: Purpose::Build,
        remedy: Remedy::Packages(&["gcc", "libc6-dev"]),
        probe: || program("gcc"),
    },
    Need {
        name: "protoc",
        why: "the etcd client compiles etcd's .proto files",
        purpose: Purpose::Build,
        remedy: Remedy::Packages(&["protobuf-compiler", "libprotobuf-dev"]),
        probe: || {
            file("/usr/include/google/protobuf/descriptor.proto")?;
            program("protoc")
        },
    },
    Need {
        name: "libseccomp",
        why: "containers' system call filters",
        purpose: Purpose::Build,
        remedy: Remedy::Packages(&["libseccomp-dev", "pkg-config"]),
        probe: || {
            program("pkg-config")?;
            file("/usr/include/seccomp.h")
        },
    },
    Need {
        name: "Debian's rustc",
        why: "compiling eBPF: it ships the sources of core, which stable rustup toolchains do not",
        purpose: Purpose::Build,
        remedy: Remedy::Packages(&["rustc-web", "rust-web-src", "cargo-web"]),
        probe: || {
            let version = output(Command::new("/usr/bin/rustc").arg("--version"))
                .map_err(|_| absent("/usr/bin/rustc"))?;
            let sysroot = output(Command::new("/usr/bin/rustc").args(["--print", "sysroot"]))
                .map_err(|error| error.to_string())?;
            file(&format!("{}/lib/rustlib/src/rust/library/core/src/lib.rs", sysroot.trim()))?;
            Ok(version.trim().to_owned())
        },
    },
    Need {
        name: "LLVM's libraries",
        why: "building bpf-linker against the LLVM of that rustc",
        purpose: Purpose::Build,
        remedy: Remedy::Packages(&[
            "llvm-{llvm}-dev",
            "libpolly-{llvm}-dev",
            "libzstd-dev",
            "zlib1g-dev",
            "libxml2-dev",
        ]),
        probe: || {
            // Only the linker's build needs them.
            if let Ok(linker) = program("bpf-linker") {
                return Ok(format!("not needed: {linker} is there"));
            }
            let llvm = ebpf_llvm_version().map_err(|error| error.to_string())?;
            file(&format!("/usr/lib/llvm-{llvm}/bin/llvm-config"))?;
            file("/usr/include/zstd.h")
        },
    },
    Need {
        name: "bpf-linker",
        why: "linking the eBPF programs into one object with BTF",
        purpose: Purpose::Build,
        remedy: Remedy::Crate(&["bpf-linker", "--no-default-features", "--features", "llvm-{llvm}"]),
        probe: || program("bpf-linker"),
    },
    Need {
        name: "iproute2",
        why: "laying out the namespaces of a cluster on one machine",
        purpose: Purpose::Run,
        remedy: Remedy::Packages(&["iproute2"]),
        probe: || program("ip"),
    },
    Need {
        name: "ethtool",
        why: "switching checksum offload off where frames pass XDP",
        purpose: Purpose::Run,
        remedy: Remedy::Packages(&["ethtool"]),
        probe: || program("ethtool"),
    },
    Need {
        name: "etcd",
        why: "`--store etcd`, and the store's contract tests",
        purpose: Purpose::Etcd,
        remedy: Remedy::Packages(&["etcd-server", "etcd-client"]),
        probe: || {
            program("etcdctl")?;
            program("etcd")
        },
    },
    Need {
        name: "runc",
        why: "what `bench pods` compares the runtime with",
        purpose: Purpose::Bench,
        remedy: Remedy::Packages(&["runc"]),
        probe: || program("runc"),
    },
    Need {
        name: "busybox",
        why: "the runtime's tests run real containers made of it",
        purpose: Purpose::Test,
        remedy: Remedy::Packages(&["busybox-static"]),
        probe: || program("busybox"),
    },
    Need {
        name: "docker-registry",
        why: "the runtime's tests pull images from a real registry",
        purpose: Purpose::Test,
        remedy: Remedy::Packages(&["docker-registry"]),
        probe: || program("docker-registry"),
    },
    Need {
        name: "curl",
        why: "the client in a test's pod that speaks to the API server",
        purpose: Purpose::Test,
        remedy: Remedy::Packages(&["curl"]),
        probe: || program("curl"),
    },
    Need {
        name: "libfaketime",
        why: "tests of clocks that jump",
        purpose: Purpose::Test,
        remedy: Remedy::Packages(&["libfaketime"]),
        probe: || file("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"),
    },
    Need {
        name: "bpftool",
        why: "reading the maps from outside, in tests and by hand",
        purpose: Purpose::Test,
        remedy: Remedy::Packages(&["bpftool"]),
        probe: || program("bpftool"),
    },
    Need {
        name: "kubectl",
        why: "testing the REST API with the real client",
        purpose: Purpose::Test,
        remedy: Remedy::Packages(&["kubernetes-client"]),
        probe: || program("kubectl"),
    },
    Need {
        name: "g++",
        why: "libFuzzer, which the fuzz targets are linked with",
        purpose: Purpose::Test,
        remedy: Remedy::Packages(&["g++"]),
        probe: || program("g++"),
    },
    Need {
        name: "cargo-fuzz",
        why: "building the fuzz targets",
        purpose: Purpose::Test,
        remedy: Remedy::Crate(&["cargo-fuzz"]),
        probe: || program("cargo-fuzz"),
    },
    Need {
        name: "cargo-nextest",
        why: "running the tests",
        purpose: Purpose::Test,
        remedy: Remedy::Crate(&["cargo-nextest"]),
        probe: || program("cargo-nextest"),
    },
];

fn program(name: &str) -> Result<String, String> {
    find(name).map(|path| path.display().to_string()).ok_or_else(|| format!("no program {name}"))
}

fn file(path: &str) -> Result<String, String> {
    if Path::new(path).exists() { Ok(path.to_owned()) } else { Err(absent(path)) }
}

fn absent(path: &str) -> String {
    format!("no {path}")
}

/// Installs in the order of the table: the version of LLVM is known only once Debian's rustc is there.
pub(super) fn install(missing: &[&Need]) -> Result<()> {
    let mut updated = false;
    let mut plain = Vec::new();
    let mut versioned = Vec::new();
    for need in missing {
        if let Remedy::Packages(names) = need.remedy {
            let (late, early): (Vec<&str>, Vec<&str>) =
                names.iter().partition(|name| name.contains("{llvm}"));
            plain.extend(early.into_iter().map(str::to_owned));
            versioned.extend(late);
        }
    }
    apt(&plain, &mut updated)?;
    if !versioned.is_empty() {
        let llvm = ebpf_llvm_version()?.to_string();
        let names: Vec<String> = versioned.iter().map(|name| name.replace("{llvm}", &llvm)).collect();
        apt(&names, &mut updated)?;
    }
    for need in missing {
        if let Remedy::Crate(arguments) = need.remedy {
            cargo_install(need.name, arguments)?;
        }
    }
    Ok(())
}

fn apt(packages: &[String], updated: &mut bool) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("installing {} needs root; run `apt-get install {}`", packages.join(", "), packages.join(" "));
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
        command
    };
    if !*updated {
        step("apt-get update", apt().arg("update"))?;
        *updated = true;
    }
    step(
        &format!("apt-get install {}", packages.join(" ")),
        apt().args(["install", "-y", "--no-install-recommends"]).args(packages),
    )
}

fn cargo_install(name: &str, arguments: &[&str]) -> Result<()> {
    let mut command = cargo();
    // Outside the workspace, so that its configuration does not apply, with a target directory that goes with /tmp.
    command.current_dir("/").args(["install", "--quiet"]);
    if arguments.iter().any(|argument| argument.contains("{llvm}")) {
        let llvm = ebpf_llvm_version()?.to_string();
        command.env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
        command.args(arguments.iter().map(|argument| argument.replace("{llvm}", &llvm)));
    } else {
        command.arg("--locked").args(arguments);
    }
    step(&format!("cargo install {name}"), &mut command)
}
