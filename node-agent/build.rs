//! Links the agent at a fixed address.
//!
//! Each container's shim is this program too. At an address of its own choosing each of them would have to write a megabyte
//! of tables of pointers for itself before `main`; at a fixed one all processes share the file's pages. Libraries, heap and
//! stacks lie at random addresses all the same.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=weir-agent=-no-pie");
}
