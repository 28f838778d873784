//! Connections: accepted, secured, served, drained. Each of these has a limit in number or time.

use std::net::SocketAddr;
use std::sync::Arc;
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

use crate::auth::User;
use crate::pki::subject_names;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for a request's headers, and for the next request of an idle HTTP/1 connection.
const HEADERS: Duration = Duration::from_secs(60);
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_ANSWER: Duration = Duration::from_secs(15);
/// Time for requests to finish when the server drains.
const DRAIN: Duration = Duration::from_secs(10);
/// After an error of `accept` (no file descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const STREAMS: u32 = 1000;
const HEADER_BYTES: u32 = 64 * 1024;
/// Connections of clients without a certificate: they need few, and shall not crowd out the others.
const ANONYMOUS: usize = 512;

#[derive(Clone)]
struct Host {
    tls: TlsAcceptor,
    router: Router,
    anonymous: Arc<Semaphore>,
    closing: CancellationToken,
}

pub(super) async fn serve(
    listeners: Vec<TcpListener>,
    tls: Arc<ServerConfig>,
    router: Router,
    most: usize,
    shutdown: CancellationToken,
    draining: &CancellationToken,
) {
    let closing = CancellationToken::new();
    let all = Arc::new(Semaphore::new(most));
    let host = Host {
        tls: TlsAcceptor::from(tls),
        router,
        anonymous: Arc::new(Semaphore::new(ANONYMOUS.min(most))),
        closing: closing.clone(),
    };
    let mut acceptors = JoinSet::new();
    for listener in listeners {
        acceptors.spawn(accept(listener, host.clone(), all.clone(), shutdown.clone()));
    }
    while acceptors.join_next().await.is_some() {}
    // Streams would never end by themselves; what is a request and an answer may.
    draining.cancel();
    closing.cancel();
    let count = u32::try_from(most).unwrap_or(u32::MAX);
    if timeout(DRAIN, all.acquire_many(count)).await.is_err() {
        tracing::warn!("some connections did not finish within {DRAIN:?}; closing them");
    }
}

async fn accept(listener: TcpListener, host: Host, all: Arc<Semaphore>, shutdown: CancellationToken) {
    loop {
        // First the permit: with all taken, clients wait in the kernel's queue.
        let permit = tokio::select! {
            () = shutdown.cancelled() => return,
            permit = all.clone().acquire_owned() => match permit {
                Ok(permit) => permit,
                Err(_) => return,
            },
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => drop(tokio::spawn(host.clone().secure(tcp, peer, permit))),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Host {
    async fn secure(self, tcp: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        let _ = tcp.set_nodelay(true);
        let stream = match timeout(HANDSHAKE, self.tls.accept(tcp)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
        };
        let user = user(&stream);
        let anonymous = if user.is_none() {
            match self.anonymous.clone().try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => return tracing::debug!(%peer, "too many connections without a certificate"),
            }
        } else {
            None
        };
        self.converse(stream, user, peer).await;
        drop((permit, anonymous));
    }

    async fn converse(self, stream: TlsStream<TcpStream>, user: Option<User>, peer: SocketAddr) {
        let router = self.router;
        let service = tower::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            if let Some(user) = &user {
                request.extensions_mut().insert(user.clone());
            }
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
            .max_buf_size(HEADER_BYTES as usize);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADER_BYTES)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER);
        let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
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

/// The name in the certificate that the handshake has verified.
fn user(stream: &TlsStream<TcpStream>) -> Option<User> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let (name, groups) = subject_names(certificate)?;
    Some(User { name, groups })
}
