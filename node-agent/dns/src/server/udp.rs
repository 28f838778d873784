//! Datagrams. One is read at a time and, where the cluster's names or the cache have the answer, answered before the next is
//! read: a flood fills the socket's own buffer, not the agent's memory.

use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use super::{Exchange, Step};
use crate::ServeError;
use crate::metrics::FORWARD_REJECTS;
use crate::responder::Responder;
use crate::wire::LONGEST_QUERY;

/// Questions that wait for others, as tasks.
const WAITING: usize = 512;

pub(super) async fn serve(responder: Arc<Responder>, socket: Arc<UdpSocket>) -> Result<(), ServeError> {
    let waiting = Arc::new(Semaphore::new(WAITING));
    // One byte more than is read: what fills it was cut off.
    let mut buffer = vec![0; LONGEST_QUERY + 1];
    let mut failures = 0;
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // Of an unconnected socket, an error is about the socket; but let one pass.
            Err(source) if failures > 16 => {
                let address =
                    socket.local_addr().map_err(|source| failed(([0, 0, 0, 0], 0).into(), source))?;
                return Err(failed(address, source));
            }
            Err(_) => {
                failures += 1;
                tokio::task::yield_now().await;
                continue;
            }
        };
        failures = 0;
        let exchange = Exchange::new("udp", peer, length);
        match exchange.begin(&responder, &buffer[..length], None) {
            Step::Nothing => {}
            Step::Send(answer) => send(&socket, &answer, &exchange).await,
            Step::Ask(pending, limit) => {
                let Ok(place) = Arc::clone(&waiting).try_acquire_owned() else {
                    // The client asks again; so it is told by silence, which costs nothing.
                    FORWARD_REJECTS.inc();
                    continue;
                };
                let (responder, socket) = (Arc::clone(&responder), Arc::clone(&socket));
                tokio::spawn(async move {
                    let reply = responder.ask(*pending).await;
                    send(&socket, &exchange.end(reply, limit), &exchange).await;
                    drop(place);
                });
            }
        }
    }
}

fn failed(address: std::net::SocketAddr, source: std::io::Error) -> ServeError {
    ServeError { protocol: "UDP", address, source }
}

/// A client that cannot be reached has asked in vain.
async fn send(socket: &UdpSocket, answer: &[u8], exchange: &Exchange) {
    if let Err(error) = socket.send_to(answer, exchange.peer).await {
        tracing::debug!(%error, client = %exchange.peer, "cannot answer");
    }
}
