//! Translated flows: the map `CONNTRACK`.
//!
//! A flow has two entries. Each is keyed by the tuple of packets as they arrive in one direction and holds the tuple
//! they leave with. So there is one way of translating, whatever is translated: ClusterIP, NodePort with or without a
//! changed source, hairpin, and the answers to all of them.

use crate::{Address, ServiceId, digest, layout};

#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    source: Address,
    destination: Address,
    source_port: [u8; 2],
    destination_port: [u8; 2],
    protocol: [u8; 1],
    reserved: [u8; 3],
}
layout!(Tuple, 40);

impl Tuple {
    pub const UNSET: Self = Self {
        source: Address::UNSPECIFIED,
        destination: Address::UNSPECIFIED,
        source_port: [0; 2],
        destination_port: [0; 2],
        protocol: [0],
        reserved: [0; 3],
    };

    #[inline(always)]
    pub fn new(protocol: u8, source: (Address, u16), destination: (Address, u16)) -> Self {
        Self {
            source: source.0,
            destination: destination.0,
            source_port: source.1.to_be_bytes(),
            destination_port: destination.1.to_be_bytes(),
            protocol: [protocol],
            reserved: [0; 3],
        }
    }

    #[inline(always)]
    pub fn source(&self) -> Address {
        self.source
    }

    #[inline(always)]
    pub fn destination(&self) -> Address {
        self.destination
    }

    #[inline(always)]
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes(self.source_port)
    }

    #[inline(always)]
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes(self.destination_port)
    }

    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.protocol[0]
    }

    /// The tuple of the answer.
    #[inline(always)]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            reserved: [0; 3],
        }
    }

    #[inline(always)]
    fn digest(&self) -> [u8; 2] {
        let addresses = [self.source, self.destination];
        digest::of(&addresses, &[self.source_port, self.destination_port], self.protocol)
    }
}

/// How far a flow is. Decides its timeout; see `weir_packet::tracking`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing came back yet.
    Opening = 1,
    /// Packets went both ways.
    Established = 2,
    /// TCP: the opening side sent its last segment.
    ClosingByClient = 3,
    /// TCP: the answering side sent its last segment.
    ClosingByBackend = 4,
    /// TCP: reset, or both sides sent their last segment.
    Closed = 5,
}

impl State {
    pub const ALL: [Self; 5] =
        [Self::Opening, Self::Established, Self::ClosingByClient, Self::ClosingByBackend, Self::Closed];

    pub fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::ClosingByClient => "closing by client",
            Self::ClosingByBackend => "closing by backend",
            Self::Closed => "closed",
        }
    }

    #[inline(always)]
    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Opening,
            2 => Self::Established,
            3 => Self::ClosingByClient,
            4 => Self::ClosingByBackend,
            _ => Self::Closed,
        }
    }
}

/// One direction of a translated flow.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    leaves: Tuple,
    last_seen: [u8; 8],
    service: ServiceId,
    state: [u8; 1],
    reply: [u8; 1],
    /// Of the key; see `digest`.
    digest: [u8; 2],
}
layout!(Flow, 56);

impl Flow {
    /// The direction of the opening packet, which arrives as `arrives` and leaves as `leaves`. Times are nanoseconds of
    /// the monotonic clock.
    #[inline(always)]
    pub fn forward(arrives: &Tuple, leaves: Tuple, service: ServiceId, now: u64) -> Self {
        Self {
            leaves,
            last_seen: now.to_be_bytes(),
            service,
            state: [State::Opening as u8],
            reply: [0],
            digest: arrives.digest(),
        }
    }

    /// The direction of the answers, which arrive as `arrives` and leave as the opening packet's tuple reversed.
    #[inline(always)]
    pub fn reply(arrives: &Tuple, opened: &Tuple, service: ServiceId, now: u64) -> Self {
        Self { reply: [1], ..Self::forward(arrives, opened.reversed(), service, now) }
    }

    /// Whether this is what the map holds under a key, as far as can be told.
    #[inline(always)]
    pub fn is_of(&self, arrives: &Tuple) -> bool {
        digest::fits(self.digest, arrives.digest())
    }

    /// The tuple with which packets leave.
    #[inline(always)]
    pub fn leaves(&self) -> &Tuple {
        &self.leaves
    }

    /// Key of the flow's other direction.
    #[inline(always)]
    pub fn peer(&self) -> Tuple {
        self.leaves.reversed()
    }

    #[inline(always)]
    pub fn service(&self) -> ServiceId {
        self.service
    }

    #[inline(always)]
    pub fn is_reply(&self) -> bool {
        self.reply[0] != 0
    }

    #[inline(always)]
    pub fn state(&self) -> State {
        State::from_byte(self.state[0])
    }

    #[inline(always)]
    pub fn set_state(&mut self, state: State) {
        self.state = [state as u8];
    }

    #[inline(always)]
    pub fn last_seen(&self) -> u64 {
        u64::from_be_bytes(self.last_seen)
    }

    #[inline(always)]
    pub fn set_last_seen(&mut self, now: u64) {
        self.last_seen = now.to_be_bytes();
    }

    /// Where the flow's backend is: address and port.
    pub fn backend(&self, arrives: &Tuple) -> (Address, u16) {
        if self.is_reply() {
            (arrives.source(), arrives.source_port())
        } else {
            (self.leaves.destination(), self.leaves.destination_port())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_knows_its_key() {
        let side = |last: u8, port: u16| (Address::v4([10, 0, 0, last]), port);
        let arrives = Tuple::new(6, side(1, 40000), side(2, 80));
        let leaves = Tuple::new(6, side(1, 40000), side(3, 8080));
        let flow = Flow::forward(&arrives, leaves, ServiceId::new(1), 0);
        assert!(flow.is_of(&arrives));
        let others = (0..=u16::MAX).map(|port| Tuple::new(6, side(1, port), side(2, 80)));
        let alike = others.filter(|other| other != &arrives && flow.is_of(other)).count();
        assert!(alike < 16, "{alike} of 65535 neighbours look the same");
        assert!(!flow.is_of(&arrives.reversed()) && !flow.is_of(&leaves));
        assert!(!Flow::reply(&flow.peer(), &arrives, ServiceId::new(1), 0).is_of(&arrives));
        assert!(Flow { digest: [0; 2], ..flow }.is_of(&leaves), "made by an earlier version");
    }
}
