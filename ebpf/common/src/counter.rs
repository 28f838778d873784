//! Counters of what the programs did: indexes into the per-CPU array `COUNTERS`.

/// Never renumbered, since maps outlive the programs that count in them.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Packets handed to a pod on this node.
    Delivered = 0,
    /// Packets sent on towards another machine.
    Forwarded = 1,
    /// Packets left to the node's own network stack.
    Passed = 2,
    /// Translated flows begun, on the packet path.
    FlowsOpened = 3,
    /// Sockets connected to a backend.
    SocketConnects = 4,
    /// Datagrams of unconnected sockets sent to a backend.
    SocketSends = 5,
    /// Packets that XDP sent back out.
    Accelerated = 6,
}

impl Counter {
    /// Entries of the map, with room to grow.
    pub const CAPACITY: usize = 64;

    pub const ALL: [Self; 7] = [
        Self::Delivered,
        Self::Forwarded,
        Self::Passed,
        Self::FlowsOpened,
        Self::SocketConnects,
        Self::SocketSends,
        Self::Accelerated,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Forwarded => "forwarded",
            Self::Passed => "passed",
            Self::FlowsOpened => "flows_opened",
            Self::SocketConnects => "socket_connects",
            Self::SocketSends => "socket_sends",
            Self::Accelerated => "accelerated",
        }
    }
}
