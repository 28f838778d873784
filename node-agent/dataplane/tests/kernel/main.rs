//! The dataplane against the running kernel. Needs root and the built eBPF object; without either, each test prints why it
//! does nothing, unless `CI` or `WEIR_REQUIRE_ROOT` is set.
#![expect(
    clippy::print_stdout,
    reason = "a caller reads what a process prints, people why a test is skipped"
)]

mod cluster;
mod netns;
mod packets;
mod process;
mod restart;
mod sandbox;
mod traffic;
