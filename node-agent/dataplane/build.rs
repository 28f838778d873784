//! Embeds the eBPF object that `cargo xtask ebpf` built, if it has. Without it the crate compiles all the same, and
//! refuses to open a dataplane.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=WEIR_EBPF_OBJECT");
    let object = env::var_os("WEIR_EBPF_OBJECT").map_or_else(default_object, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let embedded = Path::new(&env::var_os("OUT_DIR").unwrap_or_default()).join("weir.bpf");
    match fs::read(&object) {
        Ok(bytes) => fs::write(embedded, bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::write(embedded, []),
        Err(error) => Err(error),
    }
}

fn default_object() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bpf/bpfel-unknown-none/release/weir")
}
