//! The store on an etcd cluster, 3.4 or later: the production one.
//!
//! etcd's own model is the crate's, so this is a translation: `convert` between types, `failure` of errors. Three things
//! are more than that:
//!
//! - `members`: requests go to one member and turn to the next when it fails. What was surely not performed is repeated,
//!   for up to ten seconds; a change whose answer got lost is reported as [`Error::OutcomeUnknown`] and never repeated.
//! - Revisions are etcd's, or lie above a fixed base in a cluster that was restored from a backup (`restore`).
//! - Lists are read in pages that adapt to the size of the values, all at one revision.
//!
//! etcd must have its quota (`--quota-backend-bytes`) watched by its operator: when it is used up, writes are
//! [`Error::NoSpace`] until etcd was compacted, defragmented and the alarm disarmed.

mod convert;
mod failure;
mod members;
mod restore;
mod watch;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use etcd_client::{Certificate, CompactionOptions, GetOptions, Identity, TlsOptions, TxnOpResponse};

use convert::Base;
use failure::Asked;
use members::{Member, Members, Repeat};

use crate::{
    Error, KeyValue, LeaseId, ListOptions, Page, Result, Snapshot, Store, Txn, TxnOutcome, WatchStream,
};

pub use restore::restore;

/// Keys and bytes that a page of a list is meant to have.
const PAGE_KEYS: usize = 256;
const PAGE_MAX_KEYS: usize = 8192;
const PAGE_BYTES: usize = 2 << 20;
/// How often a list is begun anew because the compaction overtook it.
const LIST_ATTEMPTS: usize = 3;

/// How to speak TLS with etcd.
#[derive(Clone, Default)]
pub struct Tls {
    /// The authority that signed the members' certificates, as PEM.
    pub ca_pem: Vec<u8>,
    /// Our certificate and key, as PEM, if the members ask for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name to expect in the members' certificates, if it is not that of the URL.
    pub server_name: Option<String>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key.
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// A store on an etcd cluster.
pub struct Etcd {
    members: Members,
    base: Base,
    /// Counts the questions for progress.
    asked: tokio::sync::watch::Sender<u64>,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").finish_non_exhaustive()
    }
}

/// Connects to the cluster whose members are at `endpoints` (URLs), and makes sure that it answers. Fails with
/// [`Error::Unfinished`] if it was to be restored and that was cut off.
pub async fn connect<E: AsRef<str>>(
    endpoints: impl IntoIterator<Item = E>,
    tls: Option<&Tls>,
) -> Result<Etcd> {
    let endpoints: Vec<String> = endpoints.into_iter().map(|endpoint| endpoint.as_ref().to_owned()).collect();
    let members = Members::new(&endpoints, tls.map(tls_options).as_ref()).await?;
    let base = restore::base(&members, &endpoints.join(", ")).await?;
    Ok(Etcd { members, base, asked: tokio::sync::watch::Sender::new(0) })
}

fn tls_options(tls: &Tls) -> TlsOptions {
    let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca_pem));
    if let Some((certificate, key)) = &tls.identity {
        options = options.identity(Identity::from_pem(certificate, key));
    }
    if let Some(name) = &tls.server_name {
        options = options.domain_name(name);
    }
    options
}

impl Etcd {
    /// etcd's number for a past revision of ours. What is from before a restore is gone.
    fn past(&self, ours: i64) -> Result<i64> {
        self.base.theirs(ours).ok_or(Error::Compacted { compacted: self.base.0 + 1 })
    }

    fn revision(&self, header: Option<&etcd_client::ResponseHeader>) -> i64 {
        self.base.ours(header.map_or(0, etcd_client::ResponseHeader::revision))
    }

    /// Lists at one revision, in as many requests as it takes.
    async fn list_once(&self, prefix: &str, options: &ListOptions) -> Result<Page> {
        let mut revision = options.revision;
        let mut after = options.after.clone();
        let mut items: Vec<KeyValue> = Vec::new();
        let mut keys = PAGE_KEYS;
        loop {
            let wanted = if options.limit == 0 { keys } else { keys.min(options.limit - items.len()) };
            let (start, end) = convert::range(prefix, after.as_deref());
            let at = revision.map_or(Ok(0), |ours| self.past(ours))?;
            let request = GetOptions::new().with_range(end).with_limit(wanted as i64).with_revision(at);
            let mut response = self.members.range("list", start, request, revision.unwrap_or(0)).await?;
            let now = *revision.get_or_insert(self.revision(response.header()));
            let found = response.take_kvs();
            let remaining = response.count().saturating_sub(found.len() as i64).unsigned_abs();
            let size: usize = found.iter().map(|kv| kv.key().len() + kv.value().len()).sum();
            for kv in found {
                items.push(convert::key_value(kv, self.base)?);
            }
            let full = options.limit != 0 && items.len() >= options.limit;
            if remaining == 0 || full || !response.more() {
                return Ok(Page { revision: now, items, more: remaining > 0, remaining });
            }
            after = items.last().map(|kv| kv.key.clone());
            keys = (wanted.saturating_mul(PAGE_BYTES) / size.max(1)).clamp(1, PAGE_MAX_KEYS).min(keys * 4);
        }
    }

    /// A watch from the compaction's own revision would miss deletes there; etcd does not refuse it, so we do.
    async fn check_not_compacted(&self, from: i64) -> Result<()> {
        let before = from - 1;
        if before < 1 || before == self.base.0 {
            return Ok(());
        }
        let options = GetOptions::new().with_count_only().with_revision(self.past(before)?);
        match self.members.range("watch", "/", options, before).await {
            // A member that lags behind may not have it yet.
            Ok(_) | Err(Error::FutureRevision { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The lease that is missing, if that is what the error says.
fn lease_error<T>(
    lease: LeaseId,
    result: Result<T, etcd_client::Error>,
) -> Result<Result<T>, etcd_client::Error> {
    match result {
        Err(error) if failure::names_no_lease(&error) => Ok(Err(Error::LeaseNotFound(lease))),
        Err(error) => Err(error),
        Ok(answer) => Ok(Ok(answer)),
    }
}

#[async_trait]
impl Store for Etcd {
    async fn get(&self, key: &str) -> Result<Snapshot<Option<KeyValue>>> {
        if key.is_empty() {
            return Err(Error::EmptyKey);
        }
        let mut response = self.members.range("get", key, GetOptions::new(), 0).await?;
        let found = response.take_kvs().pop();
        let value = found.map(|kv| convert::key_value(kv, self.base)).transpose()?;
        Ok(Snapshot { revision: self.revision(response.header()), value })
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let mut attempts = 1;
        loop {
            match self.list_once(prefix, &options).await {
                Err(Error::Compacted { .. }) if options.revision.is_none() && attempts < LIST_ATTEMPTS => {
                    attempts += 1
                }
                result => return result,
            }
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        txn.check()?;
        let request = convert::txn(&txn, self.base);
        let lease = txn.ops.iter().find_map(crate::Op::lease).unwrap_or(LeaseId(0));
        let send = |mut member: Member| {
            let request = request.clone();
            async move { lease_error(lease, member.kv.txn(request).await) }
        };
        let repeat = if txn.ops.is_empty() { Repeat::Harmless } else { Repeat::Harmful };
        let response =
            self.members.request(Asked { operation: "write", revision: 0 }, repeat, send).await??;
        let mut current = Vec::new();
        if !response.succeeded() {
            for answer in response.op_responses() {
                if let TxnOpResponse::Get(mut answer) = answer {
                    let found = answer.take_kvs().pop();
                    current.push(found.map(|kv| convert::key_value(kv, self.base)).transpose()?);
                }
            }
        }
        Ok(TxnOutcome {
            committed: response.succeeded(),
            revision: self.revision(response.header()),
            current,
        })
    }

    async fn watch(&self, prefix: &str, from_revision: i64) -> Result<WatchStream> {
        self.check_not_compacted(from_revision).await?;
        let from = if from_revision == 0 { 0 } else { self.past(from_revision)? };
        let send = |member| watch::open(member, prefix, from, self.asked.subscribe(), self.base);
        self.members
            .request(Asked { operation: "watch", revision: from_revision }, Repeat::Harmless, send)
            .await?
    }

    async fn request_progress(&self) -> Result<()> {
        self.asked.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn compact(&self, revision: i64) -> Result<()> {
        let Some(theirs) = self.base.theirs(revision) else { return Ok(()) };
        let send = |mut member: Member| async move {
            member.kv.compact(theirs, Some(CompactionOptions::new())).await
        };
        match self.members.request(Asked { operation: "compact", revision }, Repeat::Harmless, send).await {
            // It has been done already.
            Ok(_) | Err(Error::Compacted { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId> {
        let seconds = i64::try_from(ttl.as_nanos().div_ceil(1_000_000_000).max(1)).unwrap_or(i64::MAX);
        let asked = Asked { operation: "grant a lease", revision: 0 };
        // A lease granted twice is one too many, which ends by itself.
        let send = |mut member: Member| async move { member.lease.grant(seconds, None).await };
        Ok(LeaseId(self.members.request(asked, Repeat::Harmless, send).await?.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        let asked = Asked { operation: "keep a lease alive", revision: 0 };
        let send =
            |mut member: Member| async move { lease_error(lease, member.lease.keep_alive(lease.0).await) };
        self.members.request(asked, Repeat::Harmless, send).await?.map(|_| ())
    }

    async fn time_left(&self, lease: LeaseId) -> Result<Duration> {
        let asked = Asked { operation: "read a lease", revision: 0 };
        let send = |mut member: Member| async move {
            lease_error(lease, member.lease.time_to_live(lease.0, None).await)
        };
        let answer = self.members.request(asked, Repeat::Harmless, send).await??;
        // etcd says -1 of a lease that it does not know.
        u64::try_from(answer.ttl()).map(Duration::from_secs).map_err(|_| Error::LeaseNotFound(lease))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        let asked = Asked { operation: "end a lease", revision: 0 };
        let send = |mut member: Member| async move { lease_error(lease, member.lease.revoke(lease.0).await) };
        self.members.request(asked, Repeat::Harmful, send).await?.map(|_| ())
    }
}
