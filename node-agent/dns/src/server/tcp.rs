//! Connections: so many at once, so many of one client, and none that says nothing for long. On each, one question after the
//! other is answered.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Exchange, Step};
use crate::ServeError;
use crate::metrics::TCP_CONNECTIONS;
use crate::responder::Responder;
use crate::wire::LONGEST_QUERY;

const CONNECTIONS: usize = 256;
/// Of one address.
const CONNECTIONS_OF_ONE: usize = 32;
/// How long a client may take for its question, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// After an accept that failed: descriptors may be short.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn serve(responder: Arc<Responder>, listener: TcpListener) -> Result<(), ServeError> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let clients = Clients::default();
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // While there is none, connections wait in the kernel, which has a limit of its own. It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot accept");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(client) = clients.admit(peer.ip(), place) else { continue };
        let responder = Arc::clone(&responder);
        connections.spawn(async move {
            if let Err(error) = converse(&responder, stream, peer).await {
                tracing::trace!(%error, client = %peer, "connection");
            }
            drop(client);
        });
    }
}

/// Until the client has no more questions, or takes too long.
async fn converse(responder: &Responder, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let mut length = [0; 2];
        timeout(PATIENCE, stream.read_exact(&mut length)).await??;
        let length = usize::from(u16::from_be_bytes(length));
        if length > LONGEST_QUERY {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a question of {length} bytes")));
        }
        let mut question = vec![0; length];
        timeout(PATIENCE, stream.read_exact(&mut question)).await??;
        let exchange = Exchange::new("tcp", peer, length);
        let limit = usize::from(u16::MAX);
        let answer = match exchange.begin(responder, &question, Some(limit)) {
            Step::Nothing => return Ok(()),
            Step::Send(answer) => answer,
            Step::Ask(pending, limit) => exchange.end(responder.ask(*pending).await, limit),
        };
        let length = u16::try_from(answer.len()).unwrap_or_default();
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        timeout(PATIENCE, stream.write_all(&framed)).await??;
    }
}

/// How many connections each client has.
#[derive(Clone, Debug, Default)]
struct Clients(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A client's connection, while it lasts.
struct Client {
    clients: Clients,
    address: IpAddr,
    _place: OwnedSemaphorePermit,
}

impl Clients {
    fn admit(&self, address: IpAddr, place: OwnedSemaphorePermit) -> Option<Client> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= CONNECTIONS_OF_ONE {
            return None;
        }
        *count += 1;
        TCP_CONNECTIONS.inc();
        Some(Client { clients: self.clone(), address, _place: place })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut counts = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
        TCP_CONNECTIONS.dec();
    }
}
