//! What the eBPF programs and the node agent share: keys and values of the maps, drop reasons, counters, limits.
//!
//! - Every field is a private big-endian byte array behind typed constructors and getters, so neither side can get
//!   the byte order wrong and `bpftool map dump` reads as it stands.
//! - Structs are `repr(C)`, without padding: gaps are spelled out as zeroed `reserved` fields, since the kernel hashes
//!   all bytes of a key. They are aligned to 8, so that the compiler copies them in words rather than in bytes.
//! - Layouts are a contract between an agent and maps pinned by an earlier one. A change of layout needs a new map
//!   name.
#![no_std]

mod address;
mod counter;
mod digest;
mod drop_reason;
mod flow;
pub mod limits;
mod link;
mod service;
mod socket;

pub use address::{Address, Mac};
pub use counter::Counter;
pub use drop_reason::{DropEvent, DropReason, Hook};
pub use flow::{Flow, State, Tuple};
pub use link::{Endpoint, IfIndex, Link, Node};
pub use service::{Frontend, Service, ServiceId, ServiceName, Slot, TableKind};
pub use socket::{Peer, SocketKey};

/// Asserts at compile time that a type has exactly the bytes its fields sum up to.
macro_rules! layout {
    ($type:ty, $size:literal) => {
        const _: () = assert!(size_of::<$type>() == $size && align_of::<$type>() <= 8);
        // SAFETY: made of byte arrays only, without padding, so any bytes are a value and all bytes are initialised.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    };
}
pub(crate) use layout;

/// Protocol numbers of the IP header that have ports.
pub mod protocol {
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
}
