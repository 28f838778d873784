//! What the programs know about packets: parsing, checksums, rewriting, tracking. Pure, and tested on the host.
//!
//! The programs give it a [`Frame`], which is the one place where bounds are checked, and do whatever touches the
//! kernel themselves.
//!
//! Left out: IPv6 beyond its source address, and IPv4's L4 headers in fragments other than the first, which have none.
#![no_std]

pub mod checksum;
pub mod frame;
pub mod parse;
pub mod rewrite;
pub mod source_port;
pub mod tracking;

pub use frame::{Frame, FrameMut};
pub use parse::{Fragment, Packet, Parsed, TcpFlags, Transport, parse};
pub use rewrite::rewrite;
