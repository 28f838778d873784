//! The sockets: UDP and TCP at one address.

mod tcp;
mod udp;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::{TcpListener, UdpSocket};

use crate::ServeError;
use crate::metrics::{self, Answered};
use crate::responder::{First, Pending, Reply, Responder};
use crate::wire::{self, Received};

/// Answers until a socket fails for good, or cancelled.
pub(crate) async fn serve(
    responder: Arc<Responder>,
    udp: UdpSocket,
    tcp: TcpListener,
) -> Result<(), ServeError> {
    tokio::select! {
        failed = udp::serve(Arc::clone(&responder), Arc::new(udp)) => failed,
        failed = tcp::serve(responder, tcp) => failed,
    }
}

/// One request, from its first byte to its last.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    protocol: &'static str,
    peer: SocketAddr,
    size: usize,
    began: Instant,
}

/// What becomes of a request.
enum Step {
    Send(Vec<u8>),
    Ask(Box<Pending>, usize),
    Nothing,
}

impl Exchange {
    fn new(protocol: &'static str, peer: SocketAddr, size: usize) -> Self {
        Self { protocol, peer, size, began: Instant::now() }
    }

    /// `limit` is how long an answer may be; `None` for as long as the client's datagrams may be.
    fn begin(&self, responder: &Responder, bytes: &[u8], limit: Option<usize>) -> Step {
        let request = match wire::read(bytes) {
            Received::Noise => return Step::Nothing,
            Received::Refused(message) => {
                let reply = Reply { message: *message, zone: ".".to_owned(), source: "" };
                return Step::Send(self.end(reply, usize::MAX));
            }
            Received::Query(request) => *request,
        };
        let limit = limit.unwrap_or_else(|| wire::datagram_limit(&request));
        match responder.answer(request) {
            First::Reply(reply) => Step::Send(self.end(*reply, limit)),
            First::Ask(pending) => Step::Ask(pending, limit),
        }
    }

    /// The bytes of the answer; the request is counted.
    fn end(&self, reply: Reply, limit: usize) -> Vec<u8> {
        let Reply { message, zone, source } = reply;
        let kind = message.queries.first().map(|query| query.query_type());
        let code = message.metadata.response_code;
        let bytes = wire::write(message, limit);
        metrics::answered(&Answered {
            zone: &zone,
            source,
            protocol: self.protocol,
            is_ipv6: self.peer.is_ipv6(),
            kind,
            code,
            request_size: self.size,
            response_size: bytes.len(),
            took: self.began.elapsed(),
        });
        bytes
    }
}
