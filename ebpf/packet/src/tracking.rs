//! How a flow gets on, and when it is over.
//!
//! Timeouts follow nf_conntrack's, with two differences: established TCP is kept for the day that Kubernetes asks of it
//! rather than five, and a closed flow is forgotten after 10 seconds, since nothing depends on remembering it longer.

use weir_ebpf_common::{Flow, State, protocol};

use crate::Transport;

const SECOND: u64 = 1_000_000_000;

/// A flow is written to no more often than this while nothing but time changes.
pub const REFRESH: u64 = SECOND;

/// The state after a packet of the flow.
#[inline(always)]
pub fn advance(state: State, reply: bool, transport: Transport) -> State {
    let Transport::Tcp(flags) = transport else {
        return if reply { State::Established } else { state };
    };
    match (state, reply) {
        _ if flags.rst() => State::Closed,
        // The second side's last segment.
        (State::ClosingByClient, true) | (State::ClosingByBackend, false) if flags.fin() => State::Closed,
        (State::Opening | State::Established, true) if flags.fin() => State::ClosingByBackend,
        (State::Opening | State::Established, false) if flags.fin() => State::ClosingByClient,
        // Anything that comes back answers the opening.
        (State::Opening, true) => State::Established,
        (state, _) => state,
    }
}

/// Whether a packet that fits a flow nevertheless begins another: a client using its port again.
#[inline(always)]
pub fn starts_over(flow: &Flow, transport: Transport) -> bool {
    match transport {
        Transport::Tcp(flags) => {
            flags.opens() && !flow.is_reply() && !matches!(flow.state(), State::Opening | State::Established)
        }
        Transport::Udp | Transport::Opaque => false,
    }
}

/// How long a flow may be silent, in nanoseconds.
#[inline(always)]
pub fn timeout(protocol: u8, state: State) -> u64 {
    let seconds = match (protocol, state) {
        (protocol::TCP, State::Opening) => 60,
        (protocol::TCP, State::Established) => 24 * 3600,
        (protocol::TCP, State::ClosingByClient | State::ClosingByBackend) => 3600,
        (protocol::TCP, State::Closed) => 10,
        (_, State::Opening) => 30,
        (_, _) => 120,
    };
    seconds * SECOND
}

/// Whether this direction of a flow has been silent for too long. The flow is over when both are.
#[inline(always)]
pub fn is_silent(flow: &Flow, now: u64) -> bool {
    let since = now.saturating_sub(flow.last_seen());
    since > timeout(flow.leaves().protocol(), flow.state())
}

#[cfg(test)]
mod tests {
    use weir_ebpf_common::{Address, ServiceId, Tuple};

    use super::*;
    use crate::TcpFlags;

    const SYN: u8 = 0x02;
    const SYN_ACK: u8 = 0x12;
    const ACK: u8 = 0x10;
    const FIN: u8 = 0x11;
    const RST: u8 = 0x04;

    fn walk(packets: &[(bool, u8)]) -> State {
        packets.iter().fold(State::Opening, |state, (reply, flags)| {
            advance(state, *reply, Transport::Tcp(TcpFlags::from_bits(*flags)))
        })
    }

    fn flow(protocol: u8, state: State) -> Flow {
        let side = (Address::v4([10, 0, 0, 1]), 1);
        let tuple = Tuple::new(protocol, side, side);
        let mut flow = Flow::forward(&tuple, tuple, ServiceId::new(1), 0);
        flow.set_state(state);
        flow
    }

    #[test]
    fn a_connection_goes_through_its_states() {
        assert_eq!(walk(&[(false, SYN)]), State::Opening);
        assert_eq!(walk(&[(false, SYN), (true, SYN_ACK)]), State::Established);
        assert_eq!(walk(&[(true, SYN_ACK), (false, ACK), (false, FIN)]), State::ClosingByClient);
        assert_eq!(walk(&[(true, SYN_ACK), (false, FIN), (false, FIN)]), State::ClosingByClient);
        assert_eq!(walk(&[(true, SYN_ACK), (false, FIN), (true, FIN), (false, ACK)]), State::Closed);
        assert_eq!(walk(&[(true, SYN_ACK), (true, FIN), (true, ACK)]), State::ClosingByBackend);
        assert_eq!(walk(&[(true, SYN_ACK), (true, FIN), (false, FIN)]), State::Closed);
        assert_eq!(walk(&[(true, RST)]), State::Closed);
    }

    #[test]
    fn udp_is_established_by_an_answer() {
        assert_eq!(advance(State::Opening, false, Transport::Udp), State::Opening);
        assert_eq!(advance(State::Opening, true, Transport::Udp), State::Established);
        assert_eq!(advance(State::Established, false, Transport::Udp), State::Established);
    }

    #[test]
    fn only_an_opening_segment_on_a_closing_flow_starts_over() {
        let opening = Transport::Tcp(TcpFlags::from_bits(SYN));
        assert!(starts_over(&flow(protocol::TCP, State::Closed), opening));
        assert!(starts_over(&flow(protocol::TCP, State::ClosingByClient), opening));
        assert!(!starts_over(&flow(protocol::TCP, State::Opening), opening), "a segment sent again");
        assert!(!starts_over(&flow(protocol::TCP, State::Closed), Transport::Tcp(TcpFlags::from_bits(ACK))));
        assert!(!starts_over(&flow(protocol::UDP, State::Closed), Transport::Udp));
    }

    #[test]
    fn silence_is_judged_by_protocol_and_state() {
        let minutes = |m: u64| m * 60 * SECOND;
        assert!(!is_silent(&flow(protocol::TCP, State::Established), minutes(60)));
        assert!(is_silent(&flow(protocol::TCP, State::Closed), minutes(1)));
        assert!(!is_silent(&flow(protocol::UDP, State::Established), minutes(1)));
        assert!(is_silent(&flow(protocol::UDP, State::Opening), minutes(1)));
    }
}
