//! Names outside the cluster: asked of the node's own name servers, and remembered for as long as they say.
//!
//! hickory-resolver has the transports (random ports and identifiers, names in random case, TCP where an answer was cut) and
//! the cache; equal questions that wait for an answer share it. Here is what bounds them.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::StreamExt;
use hickory_proto::op::{DnsRequestOptions, Query, ResponseCode};
use hickory_proto::rr::Record;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::DnsHandle;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::{NameServerPool, PoolContext, ResponseCache, TlsConfig, TtlBounds, TtlConfig};
use tokio::sync::Semaphore;

use crate::metrics::{self, CACHE_HITS, CACHE_MISSES, FORWARD_DURATION, FORWARD_REJECTS};

/// How long all servers together may take: a client's resolver asks again after five seconds.
const PATIENCE: Duration = Duration::from_secs(4);
/// Questions that wait for an answer at the same time.
const PLACES: usize = 512;
/// Answers that are remembered.
const CACHED: u64 = 1024;
/// Longer ones are not.
const LARGEST_CACHED: usize = 2048;

/// What others say.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) cached: bool,
}

impl Said {
    fn failed(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), authorities: Vec::new(), cached: false }
    }
}

type Pool = NameServerPool<TokioRuntimeProvider>;

pub(crate) struct Upstream {
    pool: RwLock<Option<Pool>>,
    cache: RwLock<ResponseCache>,
    places: Semaphore,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").finish_non_exhaustive()
    }
}

impl Upstream {
    pub(crate) fn new() -> Self {
        Self { pool: RwLock::default(), cache: RwLock::new(cache()), places: Semaphore::new(PLACES) }
    }

    /// Who is asked from now on. What others said is forgotten.
    pub(crate) fn set_servers(&self, servers: &[SocketAddr]) {
        let pool = (!servers.is_empty()).then(|| pool(servers)).flatten();
        *self.pool.write().unwrap_or_else(PoisonError::into_inner) = pool;
        *self.cache.write().unwrap_or_else(PoisonError::into_inner) = cache();
    }

    /// What is remembered of a question.
    pub(crate) fn recall(&self, query: &Query) -> Option<Said> {
        let known = self.cache.read().unwrap_or_else(PoisonError::into_inner).get(query, Instant::now())?;
        let kind = if known.is_ok() { "success" } else { "denial" };
        CACHE_HITS.with_label_values(&[kind]).inc();
        let said = match known {
            Ok(message) => Said {
                code: message.metadata.response_code,
                answers: message.answers,
                authorities: message.authorities,
                cached: true,
            },
            Err(error) => Said { cached: true, ..denied(&error) },
        };
        Some(said)
    }

    /// Asks others. Without anybody to ask, without a place to wait, or in time without an answer, that is SERVFAIL.
    pub(crate) async fn ask(&self, query: Query) -> Said {
        CACHE_MISSES.inc();
        let pool = self.pool.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(pool) = pool else { return Said::failed(ResponseCode::ServFail) };
        let Ok(_place) = self.places.try_acquire() else {
            FORWARD_REJECTS.inc();
            return Said::failed(ResponseCode::ServFail);
        };
        let began = Instant::now();
        let mut responses = pool.lookup(query.clone(), DnsRequestOptions::default());
        let (said, outcome) = match tokio::time::timeout(PATIENCE, responses.next()).await {
            Ok(Some(Ok(response))) => {
                let small = response.as_buffer().len() <= LARGEST_CACHED;
                let message = response.into_message();
                let said = Said {
                    code: message.metadata.response_code,
                    answers: message.answers.clone(),
                    authorities: message.authorities.clone(),
                    cached: false,
                };
                if small && !message.metadata.truncation {
                    self.remember(query, Ok(message), began);
                }
                let outcome = metrics::code_label(said.code);
                (said, outcome)
            }
            Ok(Some(Err(error))) => {
                let said = denied(&error);
                tracing::debug!(%error, name = %query.name(), "upstream");
                let outcome = match &error {
                    NetError::Dns(_) => metrics::code_label(said.code),
                    NetError::Timeout => "timeout",
                    _ => "error",
                };
                self.remember(query, Err(error), began);
                (said, outcome)
            }
            Ok(None) => (Said::failed(ResponseCode::ServFail), "error"),
            Err(_) => (Said::failed(ResponseCode::ServFail), "timeout"),
        };
        FORWARD_DURATION.with_label_values(&[outcome]).observe(began.elapsed().as_secs_f64());
        said
    }

    fn remember(&self, query: Query, said: Result<hickory_proto::op::Message, NetError>, at: Instant) {
        // It takes names that are not there; other failures it passes over.
        self.cache.read().unwrap_or_else(PoisonError::into_inner).insert(query, said, at);
    }
}

fn cache() -> ResponseCache {
    ResponseCache::new(CACHED, TtlConfig::from(TtlBounds::default()))
}

fn pool(servers: &[SocketAddr]) -> Option<Pool> {
    let config = |server: &SocketAddr| {
        let mut transports = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
        transports.iter_mut().for_each(|transport| transport.port = server.port());
        NameServerConfig::new(server.ip(), true, transports.into())
    };
    let mut options = ResolverOpts::default();
    options.timeout = PATIENCE;
    options.case_randomization = true;
    // From the node's own range: other ports may be those of flows that the dataplane translates.
    options.os_port_selection = true;
    let tls = TlsConfig::new().inspect_err(|error| tracing::warn!(%error, "no upstream")).ok()?;
    let context = Arc::new(PoolContext::new(options, tls));
    Some(NameServerPool::from_config(servers.iter().map(config), context, TokioRuntimeProvider::default()))
}

/// What an answer without records says: that there are none, or that something is wrong.
fn denied(error: &NetError) -> Said {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            let mut authorities: Vec<Record> =
                none.authorities.as_deref().map(<[Record]>::to_vec).unwrap_or_default();
            if authorities.is_empty()
                && let Some(soa) = &none.soa
            {
                authorities.push((**soa).clone().into_record_of_rdata());
            }
            Said { authorities, ..Said::failed(none.response_code) }
        }
        NetError::Dns(DnsError::ResponseCode(code)) => Said::failed(*code),
        _ => Said::failed(ResponseCode::ServFail),
    }
}
