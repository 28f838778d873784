//! Connections: accepted, secured, served, drained. Each of these has a limit in number or time.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use super::budgets::{Budget, Budgets};
use super::limits::Limits;
use super::peers::{PeerPermit, Peers};
use crate::auth::User;
use crate::metrics;
use crate::pki::{seconds_left, subject_names};

/// Time for a request's headers, and for the next request of an idle HTTP/1 connection.
const HEADERS: Duration = Duration::from_secs(60);
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_ANSWER: Duration = Duration::from_secs(15);
/// Time for requests to finish when the server drains.
const DRAIN: Duration = Duration::from_secs(10);
/// After an error of `accept` (no file descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes that a stream may have waiting for a client that does not read.
const UNREAD: usize = 128 * 1024;
/// Streams that a client opened and reset before they were looked at; one more and the connection ends (CVE-2023-44487).
const RESETS: usize = 20;

/// In the extensions of every request that came over a socket; what comes from this process has none, and is limited by
/// nothing but its own sense.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    pub(super) budget: Option<Arc<Budget>>,
    budgets: Arc<Budgets>,
    peer: IpAddr,
    /// The place of a stranger, given back when it turns out that it is none.
    stranger: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Remote {
    /// For a request whose token has told who it is.
    pub(super) fn known_as(&self, user: &User) -> Remote {
        self.stranger.lock().unwrap_or_else(PoisonError::into_inner).take();
        Remote { budget: self.budgets.of(Some(user), self.peer), ..self.clone() }
    }
}

#[derive(Clone)]
struct Host {
    tls: TlsAcceptor,
    router: Router,
    limits: Arc<Limits>,
    all: Arc<Semaphore>,
    anonymous: Arc<Semaphore>,
    peers: Peers,
    budgets: Arc<Budgets>,
    closing: CancellationToken,
}

/// When to stop, in this order.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    /// Accept no more.
    pub(super) shutdown: CancellationToken,
    /// Streams end.
    pub(super) draining: CancellationToken,
}

pub(super) async fn serve(
    listeners: Vec<TcpListener>,
    tls: Arc<ServerConfig>,
    router: Router,
    limits: &Limits,
    stop: Stop,
) {
    let closing = CancellationToken::new();
    let host = Host {
        tls: TlsAcceptor::from(tls),
        router,
        all: Arc::new(Semaphore::new(limits.connections)),
        anonymous: Arc::new(Semaphore::new(limits.anonymous_connections.min(limits.connections))),
        peers: Peers::new(limits.connections_per_peer),
        budgets: Arc::new(Budgets::new(limits)),
        limits: Arc::new(limits.clone()),
        closing: closing.clone(),
    };
    let mut acceptors = JoinSet::new();
    for listener in listeners {
        acceptors.spawn(accept(listener, host.clone(), stop.shutdown.clone()));
    }
    while acceptors.join_next().await.is_some() {}
    // Streams would never end by themselves; what is a request and an answer may.
    stop.draining.cancel();
    closing.cancel();
    let count = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    if timeout(DRAIN, host.all.acquire_many(count)).await.is_err() {
        tracing::warn!("some connections did not finish within {DRAIN:?}; closing them");
    }
}

async fn accept(listener: TcpListener, host: Host, shutdown: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                // Over a limit the connection is closed at once: the client is not left to wonder.
                if let Some(admission) = host.admit(peer) {
                    drop(tokio::spawn(host.clone().secure(tcp, peer, admission)));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection's places among all and among those of its address; given back when dropped.
struct Admission {
    _all: OwnedSemaphorePermit,
    _peer: PeerPermit,
}

impl Drop for Admission {
    fn drop(&mut self) {
        metrics::CONNECTIONS.dec();
    }
}

impl Host {
    fn admit(&self, peer: SocketAddr) -> Option<Admission> {
        let Ok(all) = self.all.clone().try_acquire_owned() else {
            refused("total", peer, "there are as many connections as may be");
            return None;
        };
        let Some(of_peer) = self.peers.enter(peer.ip()) else {
            refused("peer", peer, "this address has as many connections as one may have");
            return None;
        };
        metrics::CONNECTIONS.inc();
        Some(Admission { _all: all, _peer: of_peer })
    }

    async fn secure(self, tcp: TcpStream, peer: SocketAddr, admission: Admission) {
        let _ = tcp.set_nodelay(true);
        let stream = match timeout(self.limits.handshake_timeout, self.tls.accept(tcp)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                metrics::CONNECTIONS_REFUSED.with_label_values(&["handshake"]).inc();
                return tracing::debug!(%peer, %error, "TLS handshake failed");
            }
            Err(_) => {
                metrics::CONNECTIONS_REFUSED.with_label_values(&["handshake"]).inc();
                return tracing::debug!(%peer, "TLS handshake took too long");
            }
        };
        let user = user(&stream);
        let anonymous = if user.is_none() {
            match self.anonymous.clone().try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => return refused("anonymous", peer, "too many connections without a certificate"),
            }
        } else {
            None
        };
        let budget = self.budgets.of(user.as_ref(), peer.ip());
        let remote = Remote {
            budget: budget.clone(),
            budgets: self.budgets.clone(),
            peer: peer.ip(),
            stranger: Arc::new(Mutex::new(anonymous)),
        };
        self.converse(stream, user, remote, peer).await;
        if let Some(budget) = &budget {
            budget.rest();
        }
        drop(admission);
    }

    async fn converse(
        self,
        stream: TlsStream<TcpStream>,
        user: Option<User>,
        remote: Remote,
        peer: SocketAddr,
    ) {
        let (router, limits) = (self.router, self.limits);
        let service = tower::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            if let Some(user) = &user {
                request.extensions_mut().insert(user.clone());
            }
            request.extensions_mut().insert(remote.clone());
            let mut router = router.clone();
            async move {
                ServiceExt::<http::Request<hyper::body::Incoming>>::ready(&mut router)
                    .await?
                    .call(request)
                    .await
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .max_buf_size(limits.header_bytes as usize);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(limits.header_bytes)
            .max_pending_accept_reset_streams(RESETS)
            .max_send_buf_size(UNREAD)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER);
        let connection =
            builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, error, "connection ended");
        }
    }
}

/// Says it now and then: a flood of connections shall not become one of the log.
fn refused(reason: &str, peer: SocketAddr, message: &str) {
    let count = metrics::CONNECTIONS_REFUSED.with_label_values(&[reason]);
    count.inc();
    let refused = count.get();
    if refused.is_power_of_two() || refused.is_multiple_of(10_000) {
        tracing::warn!(%peer, refused, "refused a connection: {message}");
    }
}

/// The name in the certificate that the handshake has verified.
fn user(stream: &TlsStream<TcpStream>) -> Option<User> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    if let Some(left) = seconds_left(certificate) {
        metrics::CERTIFICATE_LIFETIME.observe(left);
    }
    let (name, groups) = subject_names(certificate)?;
    Some(User { name, groups, ..User::default() })
}
