//! Tells bpf-linker to copy and clear memory in words. Its default, copying strictly in order, makes LLVM call byte loops
//! instead.

fn main() {
    println!("cargo::rustc-link-arg-bins=--disable-expand-memcpy-in-order");
}
