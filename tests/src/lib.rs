//! Fixtures: network namespaces and the topologies made of them, packets, whole clusters, and what a test needs of
//! the machine. Tests of whole clusters are in `tests/tests/`, a file a story; other crates take the fixtures as a
//! dev-dependency.
//!
//! **Invariant:** the library depends on no crate of the product, so every crate can use it. What needs one (running
//! an eBPF program on a packet, a runtime with a pod) stays beside that crate's tests.
//!
//! Whatever a fixture makes is gone when its guard is, also where the test panics. Fixtures panic where the machine
//! refuses them: a test has no other answer.

#![expect(clippy::print_stderr, reason = "a guard that cannot clean up has no other way to say so")]

pub mod bpffs;
pub mod cgroup;
pub mod cluster;
pub mod connection;
pub mod debian;
pub mod footprint;
pub mod forward;
pub mod images;
pub mod load;
pub mod machine;
pub mod netns;
pub mod packet;
pub mod registry;
pub mod require;
pub mod scrape;
pub mod topology;
pub mod wait;
