//! The members of the cluster, one connection each, and how a request finds one that answers.
//!
//! All requests go to one member until it fails; then to the next. What is known not to have been performed is tried
//! again, elsewhere, until [`PATIENCE`] is over: long enough for an election. A change whose answer got lost is never
//! repeated: that is the caller's decision.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use etcd_client::{
    Client, ConnectOptions, GetOptions, GetResponse, KvClient, LeaseClient, TlsOptions, WatchClient,
};
use tokio::time::{sleep, timeout};

use super::failure::{Asked, Failure};
use crate::{Error, Result};

/// How long a request may take in all.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one member may take to answer.
const ATTEMPT: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(2);
/// Between one round of all members and the next.
const PAUSE: Duration = Duration::from_millis(100);
/// Pings, by which a dead connection is noticed. etcd cuts clients off that ping more often than every 5 s.
const PING: Duration = Duration::from_secs(6);
const PONG: Duration = Duration::from_secs(3);
/// Answers may be as large as etcd makes them; what bounds them is how much is asked for.
const MAX_ANSWER: usize = i32::MAX as usize;

#[derive(Clone)]
pub(super) struct Member {
    pub(super) endpoint: String,
    pub(super) kv: KvClient,
    pub(super) watch: WatchClient,
    pub(super) lease: LeaseClient,
    client: Client,
}

pub(super) struct Members {
    members: Vec<Member>,
    /// The one that requests go to.
    current: AtomicUsize,
}

/// Whether performing a request twice does harm.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    Harmless,
    Harmful,
}

impl Members {
    /// Prepares connections; they are made when first used.
    pub(super) async fn new(endpoints: &[String], tls: Option<&TlsOptions>) -> Result<Self> {
        let mut members = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let mut options = ConnectOptions::new()
                .with_connect_timeout(CONNECT)
                .with_keep_alive(PING, PONG)
                .with_keep_alive_while_idle(true)
                .with_require_leader(true);
            if let Some(tls) = tls {
                options = options.with_tls(tls.clone());
            }
            let client = Client::connect([endpoint.as_str()], Some(options)).await;
            let client =
                client.map_err(|error| Error::Config { reason: format!("endpoint {endpoint}: {error}") })?;
            members.push(Member {
                endpoint: endpoint.clone(),
                kv: client.kv_client().max_decoding_message_size(MAX_ANSWER),
                watch: client.watch_client().max_decoding_message_size(MAX_ANSWER),
                lease: client.lease_client(),
                client,
            });
        }
        if members.is_empty() {
            return Err(Error::Config { reason: "no etcd endpoint is given".to_owned() });
        }
        Ok(Self { members, current: AtomicUsize::new(0) })
    }

    /// Sends a request to the current member, and to the others while that is safe.
    pub(super) async fn request<T, F>(
        &self,
        asked: Asked,
        repeat: Repeat,
        send: impl Fn(Member) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let operation = asked.operation;
        let deadline = Instant::now() + PATIENCE;
        let mut attempts = 0;
        loop {
            let at = self.current.load(Ordering::Relaxed);
            let member = self.members[at % self.members.len()].clone();
            let endpoint = member.endpoint.clone();
            let failure = match timeout(ATTEMPT, send(member)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => Failure::of(error, asked),
                Err(_) => Failure::Unknown("no answer in time".to_owned()),
            };
            let reason = match failure {
                Failure::Final(error) => return Err(error),
                Failure::Unknown(reason) if repeat == Repeat::Harmful => {
                    self.leave(at);
                    return Err(Error::OutcomeUnknown { operation, reason: format!("{endpoint}: {reason}") });
                }
                Failure::NotPerformed(reason) | Failure::Unknown(reason) => reason,
            };
            self.leave(at);
            attempts += 1;
            if Instant::now() >= deadline {
                return Err(Error::Unavailable { operation, reason: format!("{endpoint}: {reason}") });
            }
            if attempts % self.members.len() == 0 {
                sleep(PAUSE).await;
            }
        }
    }

    pub(super) async fn range(
        &self,
        operation: &'static str,
        key: impl Into<Vec<u8>>,
        options: GetOptions,
        revision: i64,
    ) -> Result<GetResponse> {
        let key = key.into();
        let send = |mut member: Member| {
            let (key, options) = (key.clone(), options.clone());
            async move { member.kv.get(key, Some(options)).await }
        };
        self.request(Asked { operation, revision }, Repeat::Harmless, send).await
    }

    /// Turns to the next member, unless another request has done so already.
    fn leave(&self, at: usize) {
        let next = (at + 1) % self.members.len();
        // Losing this race means that somebody else has turned away from the same member.
        let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Member {
    /// The server's version, as (major, minor, patch).
    pub(super) async fn version(&self) -> Result<(u32, u32, u32), etcd_client::Error> {
        let status = self.client.clone().status().await?;
        let mut parts = status.version().split(['.', '-']).map(|part| part.parse().unwrap_or(0));
        let mut part = || parts.next().unwrap_or(0);
        Ok((part(), part(), part()))
    }
}
