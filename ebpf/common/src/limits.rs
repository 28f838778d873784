//! Numbers that both sides must agree on.

use crate::Address;

/// Source ports that a node gives to flows it translates to its own address, first and last. The node's own sockets
/// must stay out of the range: its `net.ipv4.ip_local_port_range` ends below.
pub const SOURCE_PORTS: (u16, u16) = (49152, 65535);

/// Source ports tried for a flow before it is dropped. At 32 tries, one flow in 10,000 fails when 75% of the ports
/// towards one backend are taken.
pub const SOURCE_PORT_TRIES: u32 = 32;

/// What a pod sees as the client when it reaches itself through a service. Link-local, so that it is nobody's address
/// and the pod's default route brings the answer back to the node.
pub const HAIRPIN_V4: Address = Address::v4([169, 254, 43, 1]);

/// Bytes of the name of a service port, `namespace/name:port`: 63 each by Kubernetes' rules, 15 for the port.
pub const SERVICE_NAME: usize = 144;

/// An unconnected UDP socket that has been silent towards a service for this long gets a fresh choice of backend.
pub const SOCKET_FLOW_SECONDS: u64 = 60;
