//! Fills an empty etcd with what a backup holds.
//!
//! Two keys of ours lie outside of what is backed up:
//!
//! - `/weir-store/restoring`: a restore is under way. Each of its transactions insists on that key as it put it, so that
//!   of two restores at most one gets anything done; nobody connects to the store while it is there; and a restore that
//!   finds it knows that everything there is a leftover, and begins anew.
//! - `/weir-store/base`: what our revisions have above etcd's. It appears in the transaction in which the restore ends.
//!
//! etcd's own counter cannot be set from outside, hence the base; for who uses the store through [`Etcd`](super::Etcd)
//! revisions go on above the backup's.

use std::collections::HashMap;

use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse,
};

use super::convert::Base;
use super::failure::Asked;
use super::members::{Member, Members, Repeat};
use super::{Tls, tls_options};
use crate::backup::{BackupError, PREFIXES, REVISIONS_APART, Reader, Record};
use crate::{Error, LeaseId, Result};

const ROOT: &str = "/weir-store/";
const RESTORING: &str = "/weir-store/restoring";
const BASE: &str = "/weir-store/base";

/// Keys of one transaction: each is compared and put, and the marker compared.
const GROUP: usize = 100;
const GROUP_BYTES: usize = 1 << 20;

/// What our revisions begin above, unless a restore has not been finished.
pub(super) async fn base(members: &Members, target: &str) -> Result<Base> {
    let found = own_keys(members).await?;
    if found.iter().any(|kv| kv.key() == RESTORING.as_bytes()) {
        let remedy = format!("delete what is under /registry/, /weir/ and {ROOT}");
        return Err(Error::Unfinished { target: format!("etcd at {target}"), remedy });
    }
    let Some(kv) = found.iter().find(|kv| kv.key() == BASE.as_bytes()) else { return Ok(Base::default()) };
    let text = String::from_utf8_lossy(kv.value());
    let number = text.parse().ok().filter(|number| *number >= 0);
    let reason = || format!("etcd's key {BASE} holds {text:?}, which is not a revision");
    number.map(Base).ok_or_else(|| Error::Config { reason: reason() })
}

async fn own_keys(members: &Members) -> Result<Vec<KeyValue>> {
    let mut found = members.range("connect", ROOT, GetOptions::new().with_prefix(), 0).await?;
    Ok(found.take_kvs())
}

/// Fills the cluster at `endpoints`, which must hold nothing of ours, from a backup; returns the revision at which the
/// store begins.
pub async fn restore<E: AsRef<str>>(
    endpoints: impl IntoIterator<Item = E>,
    tls: Option<&Tls>,
    backup: Reader,
) -> Result<i64, BackupError> {
    let endpoints: Vec<String> = endpoints.into_iter().map(|endpoint| endpoint.as_ref().to_owned()).collect();
    let members = Members::new(&endpoints, tls.map(tls_options).as_ref()).await?;
    let target = format!("etcd at {}", endpoints.join(", "));
    let marker = claim(&members, &target).await?;
    let mut restore =
        Restore { members, target, marker, leases: HashMap::new(), ops: Vec::new(), bytes: 0, keys: 0 };
    restore.clear().await?;
    restore.fill(backup).await
}

/// Marks the store as being restored; returns the revision of the mark.
async fn claim(members: &Members, target: &str) -> Result<i64, BackupError> {
    let own = own_keys(members).await?;
    let mark = own.iter().find(|kv| kv.key() == RESTORING.as_bytes());
    if mark.is_none() {
        let mut found = own.first().map(|kv| kv.key_str().unwrap_or(ROOT).to_owned());
        for prefix in PREFIXES {
            let options = GetOptions::new().with_prefix().with_keys_only().with_limit(1);
            let answer = members.range("restore", prefix, options, 0).await?;
            found = found.or_else(|| Some(answer.kvs().first()?.key_str().ok()?.to_owned()));
        }
        if let Some(key) = found {
            return Err(BackupError::NotEmpty { target: target.to_owned(), found: format!("key {key}") });
        }
    }
    let before = mark.map_or(0, KeyValue::mod_revision);
    let txn = Txn::new()
        .when([Compare::mod_revision(RESTORING, CompareOp::Equal, before)])
        .and_then([TxnOp::put(RESTORING, format!("process {}", std::process::id()), None)]);
    let answer = write(members, txn).await?;
    if !answer.succeeded() {
        let what = "another restore has begun".to_owned();
        return Err(BackupError::Disturbed { target: target.to_owned(), what });
    }
    Ok(answer.header().map_or(0, etcd_client::ResponseHeader::revision))
}

async fn write(members: &Members, txn: Txn) -> Result<etcd_client::TxnResponse> {
    let send = |mut member: Member| {
        let txn = txn.clone();
        async move { member.kv.txn(txn).await }
    };
    // What may have been done is not done again here: the whole restore can be.
    members.request(Asked { operation: "restore", revision: 0 }, Repeat::Harmful, send).await
}

struct Restore {
    members: Members,
    target: String,
    /// The mark's revision, which each transaction insists on.
    marker: i64,
    /// The backup's leases, and those granted in their place.
    leases: HashMap<LeaseId, i64>,
    ops: Vec<(String, TxnOp)>,
    bytes: usize,
    keys: u64,
}

impl Restore {
    /// Removes what an earlier attempt left.
    async fn clear(&mut self) -> Result<(), BackupError> {
        let delete = |prefix: &str| TxnOp::delete(prefix, Some(DeleteOptions::new().with_prefix()));
        self.perform(Vec::new(), PREFIXES.map(delete).to_vec()).await
    }

    async fn fill(&mut self, mut backup: Reader) -> Result<i64, BackupError> {
        while let Some(record) = backup.next()? {
            match record {
                Record::Lease { id, left } => {
                    let seconds = left.as_secs().max(1).cast_signed();
                    let send = |mut member: Member| async move { member.lease.grant(seconds, None).await };
                    let asked = Asked { operation: "restore", revision: 0 };
                    let granted = self.members.request(asked, Repeat::Harmless, send).await?;
                    self.leases.insert(id, granted.id());
                }
                Record::Key(kv) => {
                    let size = kv.key.len() * 2 + kv.value.len();
                    if self.ops.len() == GROUP || self.bytes + size > GROUP_BYTES {
                        self.flush().await?;
                    }
                    let lease = kv.lease.and_then(|lease| self.leases.get(&lease).copied());
                    let options = lease.map(|lease| PutOptions::new().with_lease(lease));
                    let op = TxnOp::put(kv.key.as_str(), kv.value.as_ref(), options);
                    self.ops.push((kv.key, op));
                    self.bytes += size;
                }
            }
        }
        self.flush().await?;
        self.finish(backup.header().revision + REVISIONS_APART).await
    }

    async fn flush(&mut self) -> Result<(), BackupError> {
        let group = std::mem::take(&mut self.ops);
        self.bytes = 0;
        self.keys += group.len() as u64;
        let absent = |(key, _): &(String, TxnOp)| Compare::mod_revision(key.as_str(), CompareOp::Equal, 0);
        let compares = group.iter().map(absent).collect();
        self.perform(compares, group.into_iter().map(|(_, op)| op).collect()).await
    }

    /// From here on the store can be used.
    async fn finish(&self, base: i64) -> Result<i64, BackupError> {
        let compares = vec![Compare::mod_revision(BASE, CompareOp::Equal, 0)];
        let count =
            |prefix: &str| TxnOp::get(prefix, Some(GetOptions::new().with_prefix().with_count_only()));
        let mut ops = vec![TxnOp::delete(RESTORING, None), TxnOp::put(BASE, base.to_string(), None)];
        ops.extend(PREFIXES.map(count));
        let answer = self.attempt(compares, ops).await?;
        let count = |answer: &TxnOpResponse| match answer {
            TxnOpResponse::Get(found) => found.count().unsigned_abs(),
            _ => 0,
        };
        let found: u64 = answer.op_responses().iter().map(count).sum();
        if found != self.keys {
            // Leases of no time left may have ended by now.
            tracing::warn!(found, restored = self.keys, "the store holds another number of keys");
        }
        Ok(base + answer.header().map_or(0, etcd_client::ResponseHeader::revision))
    }

    async fn perform(&self, compares: Vec<Compare>, ops: Vec<TxnOp>) -> Result<(), BackupError> {
        self.attempt(compares, ops).await.map(drop)
    }

    async fn attempt(
        &self,
        mut compares: Vec<Compare>,
        ops: Vec<TxnOp>,
    ) -> Result<etcd_client::TxnResponse, BackupError> {
        compares.push(Compare::mod_revision(RESTORING, CompareOp::Equal, self.marker));
        let answer = write(&self.members, Txn::new().when(compares).and_then(ops)).await?;
        if answer.succeeded() {
            return Ok(answer);
        }
        let what = "keys have appeared, or another restore has begun".to_owned();
        Err(BackupError::Disturbed { target: self.target.clone(), what })
    }
}
