//! What `cargo xtask` does, as a library, so that tests bring up clusters exactly as a user does.
//!
//! **Invariant:** no crate of the product is used here. The binaries are started and asked like anybody else's.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line: it talks to the terminal")]

pub mod bench;
pub mod build;
pub mod ci;
pub mod cluster;
pub mod demo;
pub mod doctor;
pub mod fuzz;
pub mod image;
pub mod shell;
