//! What clients may ask of a server at most. Each limit has a default that a cluster of thousands of nodes does not
//! reach, and a flag of `weir-control`.

use std::time::Duration;

/// Requests a second, and how many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// 0: as many as come.
    pub per_second: u32,
    pub burst: u32,
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Of one address.
    pub connections_per_peer: usize,
    /// Of clients without a certificate: they need few, and shall not crowd out the others.
    pub anonymous_connections: usize,
    /// Time for a TLS handshake.
    pub handshake_timeout: Duration,
    /// HTTP/2 streams of a connection.
    pub streams: u32,
    /// Bytes of a request's headers.
    pub header_bytes: u32,
    /// Requests being worked on at a time; streams count only until they have begun.
    pub reads_in_flight: usize,
    pub writes_in_flight: usize,
    /// Time until an answer begins, the reading of the request's body included.
    pub request_timeout: Duration,
    /// Of one user.
    pub client_rate: Rate,
    /// Of one node.
    pub node_rate: Rate,
    /// Of one address from which somebody without a certificate calls.
    pub anonymous_rate: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 16_384,
            connections_per_peer: 4096,
            anonymous_connections: 512,
            handshake_timeout: Duration::from_secs(10),
            streams: 1000,
            header_bytes: 64 * 1024,
            reads_in_flight: 1024,
            writes_in_flight: 512,
            request_timeout: Duration::from_secs(60),
            client_rate: Rate { per_second: 5000, burst: 10_000 },
            node_rate: Rate { per_second: 500, burst: 2000 },
            anonymous_rate: Rate { per_second: 100, burst: 500 },
        }
    }
}
