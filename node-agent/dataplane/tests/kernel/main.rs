//! The dataplane against the running kernel. Needs root and the built eBPF object; without either, each test prints why it
//! does nothing, unless `CI` or `WEIR_REQUIRE_ROOT` is set.
#![expect(clippy::print_stdout, reason = "a caller reads what a process prints")]

mod bench;
mod cluster;
mod flows;
mod packets;
mod process;
mod ready;
mod restart;
mod traffic;
