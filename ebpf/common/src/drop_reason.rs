//! Why a packet was dropped: the error of the programs, and the index into the per-CPU array `DROPS`.

use crate::{Tuple, layout};

/// Never renumbered, since maps outlive the programs that count in them. Zero is none of them.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The packet ends before its headers do.
    Truncated = 1,
    /// A header contradicts itself: version, header length or total length.
    Malformed = 2,
    /// A pod sent from an address that is not its own.
    SpoofedAddress = 3,
    /// A pod sent from a hardware address that is not its own.
    SpoofedMac = 4,
    /// A packet came by an interface that no pod is known to have.
    UnknownLink = 5,
    /// A pod sent a network protocol that is not carried.
    UnsupportedProtocol = 6,
    /// The service has no backend.
    NoBackend = 7,
    /// A fragment of a flow that needs translation.
    FragmentTranslated = 8,
    /// No source port was free towards the backend.
    SourcePortsExhausted = 9,
    /// The flow did not fit into the conntrack map.
    ConntrackFull = 10,
    /// A service's table changed twice while it was read.
    TableChanged = 11,
    /// A translated packet came to the end of its time to live.
    TtlExpired = 12,
    /// The node's routes refuse the destination.
    Unroutable = 13,
    /// The kernel refused to change the packet.
    WriteFailed = 14,
    /// The node has no address of the packet's family to translate to.
    NoNodeAddress = 15,
}

impl DropReason {
    /// Entries of the map, with room to grow.
    pub const CAPACITY: usize = 64;

    pub const ALL: [Self; 15] = [
        Self::Truncated,
        Self::Malformed,
        Self::SpoofedAddress,
        Self::SpoofedMac,
        Self::UnknownLink,
        Self::UnsupportedProtocol,
        Self::NoBackend,
        Self::FragmentTranslated,
        Self::SourcePortsExhausted,
        Self::ConntrackFull,
        Self::TableChanged,
        Self::TtlExpired,
        Self::Unroutable,
        Self::WriteFailed,
        Self::NoNodeAddress,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::SpoofedAddress => "spoofed_address",
            Self::SpoofedMac => "spoofed_mac",
            Self::UnknownLink => "unknown_link",
            Self::UnsupportedProtocol => "unsupported_protocol",
            Self::NoBackend => "no_backend",
            Self::FragmentTranslated => "fragment_translated",
            Self::SourcePortsExhausted => "source_ports_exhausted",
            Self::ConntrackFull => "conntrack_full",
            Self::TableChanged => "table_changed",
            Self::TtlExpired => "ttl_expired",
            Self::Unroutable => "unroutable",
            Self::WriteFailed => "write_failed",
            Self::NoNodeAddress => "no_node_address",
        }
    }

    pub fn from_index(index: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == index)
    }
}

/// Where in the node a packet was seen.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    FromPod = 1,
    ToPod = 2,
    FromUplink = 3,
    ToUplink = 4,
    UplinkXdp = 5,
}

impl Hook {
    pub fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::FromUplink => "from_uplink",
            Self::ToUplink => "to_uplink",
            Self::UplinkXdp => "uplink_xdp",
        }
    }

    pub fn from_index(index: u8) -> Option<Self> {
        [Self::FromPod, Self::ToPod, Self::FromUplink, Self::ToUplink, Self::UplinkXdp]
            .into_iter()
            .find(|hook| *hook as u8 == index)
    }
}

/// A dropped packet, as the ring buffer `EVENTS` carries it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropEvent {
    time: [u8; 8],
    tuple: Tuple,
    ifindex: [u8; 4],
    length: [u8; 4],
    reason: [u8; 1],
    hook: [u8; 1],
    reserved: [u8; 6],
}
layout!(DropEvent, 64);

impl DropEvent {
    /// `time` in nanoseconds of the monotonic clock; `tuple` as the packet came in, unset if it could not be read.
    #[inline(always)]
    pub fn new(time: u64, hook: Hook, reason: DropReason, ifindex: u32, length: u32, tuple: Tuple) -> Self {
        Self {
            time: time.to_be_bytes(),
            tuple,
            ifindex: ifindex.to_be_bytes(),
            length: length.to_be_bytes(),
            reason: [reason as u8],
            hook: [hook as u8],
            reserved: [0; 6],
        }
    }

    /// An event as it lies in the ring. `None` if it has another length.
    #[cfg(feature = "user")]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        // SAFETY: made of byte arrays only, so any bytes are a value; the length is checked, the alignment need not be.
        (bytes.len() == size_of::<Self>()).then(|| unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }

    pub fn time(&self) -> u64 {
        u64::from_be_bytes(self.time)
    }

    pub fn tuple(&self) -> Tuple {
        self.tuple
    }

    pub fn ifindex(&self) -> u32 {
        u32::from_be_bytes(self.ifindex)
    }

    pub fn length(&self) -> u32 {
        u32::from_be_bytes(self.length)
    }

    /// `None` for a reason of a newer program.
    pub fn reason(&self) -> Option<DropReason> {
        DropReason::from_index(self.reason[0])
    }

    pub fn hook(&self) -> Option<Hook> {
        Hook::from_index(self.hook[0])
    }
}
