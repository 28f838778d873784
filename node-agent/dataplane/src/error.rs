//! What can go wrong.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use aya::maps::MapError;
use aya::programs::ProgramError;

use crate::batch::ServiceKey;
use crate::services::PlanError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("built without eBPF programs; run `cargo xtask ebpf` first")]
    NotBuilt,
    #[error("{path} is not on a bpffs; mount one with `mount -t bpf bpf /sys/fs/bpf`", path = path.display())]
    NotBpffs { path: PathBuf },
    #[error("cannot make {path}", path = path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot load the eBPF object")]
    Load { source: Box<aya::EbpfError> },
    #[error("the eBPF object has no program {name} of the kind it should be; run `cargo xtask ebpf` again")]
    MissingProgram { name: &'static str },
    #[error("the kernel refused program {name}")]
    Program { name: &'static str, source: Box<ProgramError> },
    #[error("cannot attach program {program}")]
    Attach { program: &'static str, source: io::Error },
    #[error("cannot {action} {path}", path = path.display())]
    Pin { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot open the node's cgroup {path}", path = path.display())]
    Cgroup { path: PathBuf, source: io::Error },
    #[error("cannot {action} map {map}")]
    Map { action: &'static str, map: &'static str, source: MapError },
    #[error(
        "{path} holds keys of {key} bytes and values of {value}, not of {want_key} and {want_value}: another version of \
         the agent made it; unload the node's dataplane first",
        path = path.display()
    )]
    Layout { path: PathBuf, key: u32, value: u32, want_key: usize, want_value: usize },
    #[error(
        "the table of {service} at slot {offset}, {length} long, overlaps another; unload the node's dataplane"
    )]
    Overlap { service: ServiceKey, offset: u32, length: u32 },
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("cannot wait for the programs to let go of old tables")]
    Grace { source: io::Error },
    #[error("cannot read the clock")]
    Clock { source: io::Error },
    #[error("a second address of the same family: {second}")]
    Addresses { second: IpAddr },
}
