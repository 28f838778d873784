//! Denies devices by an eBPF program on the container's cgroup2 directory.
//!
//! On version 1 libcontainer writes the rules to the devices controller; version 2 has no such controller, and libcontainer
//! 0.7.0 as it is built here leaves devices open there. The program stands on both kinds of host, so that neither the
//! kind of host nor a forgotten rule decides.
//!
//! What every container may use is the list of the OCI runtime specification's default devices; `mknod` alone is allowed,
//! for a node that cannot be opened is harmless. The program lives as long as the directory.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

use super::CgroupError;
use super::hierarchies::io_error;

/// Character devices by major and minor number; no minor number means all.
const ALLOWED: [(i32, Option<i32>); 10] = [
    (1, Some(3)),    // null
    (1, Some(5)),    // zero
    (1, Some(7)),    // full
    (1, Some(8)),    // random
    (1, Some(9)),    // urandom
    (5, Some(0)),    // tty
    (5, Some(1)),    // console
    (5, Some(2)),    // ptmx
    (10, Some(200)), // net/tun
    (136, None),     // pts/*
];

/// linux/bpf.h.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_DEVCG_ACC_MKNOD: i32 = 1;
const BPF_DEVCG_DEV_CHAR: i32 = 2;

/// Denies the processes in `dir`, a directory of the cgroup2 hierarchy, all devices but the usual ones.
pub(crate) fn deny(dir: &Path) -> Result<(), CgroupError> {
    let attach = || -> io::Result<()> {
        let cgroup = File::open(dir)?;
        let program = load(&program())?;
        let mut attributes = AttachAttributes {
            target: cgroup.as_raw_fd(),
            program: program.as_raw_fd(),
            kind: BPF_CGROUP_DEVICE,
            flags: BPF_F_ALLOW_MULTI,
        };
        bpf(BPF_PROG_ATTACH, &mut attributes).map(drop)
    };
    attach().map_err(io_error("deny devices to", dir))
}

/// One instruction, as the kernel lays it out on every machine this runs on.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    /// Destination in the low, source in the high four bits.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// `bpf_cgroup_dev_ctx` holds three words: type (low 16 bits) and access (high 16), major, minor.
fn program() -> Vec<Instruction> {
    const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
    const MOVE: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
    const MOVE_IMMEDIATE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
    const SHIFT_RIGHT: u8 = 0x77; // BPF_ALU64 | BPF_RSH | BPF_K
    const AND: u8 = 0x57; // BPF_ALU64 | BPF_AND | BPF_K
    const JUMP_UNEQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
    const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

    let op = |code, to: u8, from: u8, offset, immediate| Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    };
    let verdict = |allow: bool| [op(MOVE_IMMEDIATE, 0, 0, 0, i32::from(allow)), op(EXIT, 0, 0, 0, 0)];
    let mut program = vec![
        op(LOAD_WORD, 2, 1, 0, 0), // r2: type
        op(LOAD_WORD, 4, 1, 4, 0), // r4: major
        op(LOAD_WORD, 5, 1, 8, 0), // r5: minor
        op(MOVE, 3, 2, 0, 0),      // r3: access
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(AND, 2, 0, 0, 0xffff),
        op(JUMP_UNEQUAL, 3, 0, 2, BPF_DEVCG_ACC_MKNOD),
    ];
    program.extend(verdict(true));
    program.push(op(JUMP_UNEQUAL, 2, 0, allowed_length(), BPF_DEVCG_DEV_CHAR));
    for (major, minor) in ALLOWED {
        program.push(op(JUMP_UNEQUAL, 4, 0, 2 + i16::from(minor.is_some()), major));
        if let Some(minor) = minor {
            program.push(op(JUMP_UNEQUAL, 5, 0, 2, minor));
        }
        program.extend(verdict(true));
    }
    program.extend(verdict(false));
    program
}

/// Instructions that test [`ALLOWED`].
fn allowed_length() -> i16 {
    ALLOWED.iter().map(|(_, minor)| 3 + i16::from(minor.is_some())).sum()
}

#[repr(C)]
struct LoadAttributes {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
}

#[repr(C)]
struct AttachAttributes {
    target: RawFd,
    program: RawFd,
    kind: u32,
    flags: u32,
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attributes = LoadAttributes {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        licence: c"Apache-2.0".as_ptr() as u64,
    };
    let fd = bpf(BPF_PROG_LOAD, &mut attributes)?;
    // SAFETY: the kernel just returned this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: the attributes are the beginning of `union bpf_attr` for this command, of the size given; what they point to
    // outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    Ok(Errno::result(result)? as RawFd)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::process::Command;

    use super::*;
    use crate::cgroup::Hierarchies;

    #[test]
    fn processes_in_the_group_are_denied_devices_but_the_usual_ones() {
        let hierarchies = Hierarchies::detect().expect("cgroups");
        let name = format!("weir-runtime-devices-{}", std::process::id());
        let dir = hierarchies.unified_dir(&name).expect("a cgroup2 hierarchy");
        if let Err(error) = fs::create_dir(&dir) {
            let required = std::env::var_os("CI").is_some_and(|value| value == "true")
                || std::env::var_os("WEIR_REQUIRE_ROOT").is_some_and(|value| value == "1");
            assert!(!required, "making a cgroup needs root, and this run must have it: {error}");
            let _ = writeln!(io::stderr(), "skipped: making a cgroup needs root: {error}");
            return;
        }
        let denied = deny(&dir);
        let script = format!(
            "echo $$ > {}/cgroup.procs; for device in null zero urandom kmsg; do \
             (exec 3< /dev/$device) 2> /dev/null && echo $device; done; \
             mknod {name} b 254 0 && echo made; (exec 3< ./{name}) 2>&1 | grep -o 'Operation not permitted'",
            dir.display()
        );
        let directory = tempfile::tempdir().expect("a directory");
        let output = Command::new("sh").args(["-c", &script]).current_dir(&directory).output();
        hierarchies.remove(&name).expect("removing the group");
        denied.expect("attaching the program");
        let output = String::from_utf8(output.expect("a shell").stdout).expect("text");
        assert_eq!(output, "null\nzero\nurandom\nmade\nOperation not permitted\n");
    }
}
