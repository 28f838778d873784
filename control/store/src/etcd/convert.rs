//! Between etcd's bytes and our types.

use bytes::Bytes;
use etcd_client::{Compare, CompareOp, EventType, PutOptions, TxnOp};

use crate::{Error, Event, EventKind, KeyValue, LeaseId, Op, Result, Txn};

/// Where our revisions begin above etcd's: 0, unless the store was restored from a backup. etcd counts from one again in a
/// new cluster, and we go on above what clients have seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Base(pub(super) i64);

impl Base {
    /// 0, which stands for none, stays.
    pub(super) fn ours(self, theirs: i64) -> i64 {
        if theirs == 0 { 0 } else { theirs + self.0 }
    }

    /// `None` for a revision from before the restore.
    pub(super) fn theirs(self, ours: i64) -> Option<i64> {
        Some(ours - self.0).filter(|theirs| *theirs > 0)
    }
}

/// The range of keys under a prefix, behind `after`: its start, and its end (exclusive).
pub(super) fn range(prefix: &str, after: Option<&str>) -> (Vec<u8>, Vec<u8>) {
    let start = match after {
        // The least key behind it.
        Some(after) if after >= prefix => [after.as_bytes(), b"\0"].concat(),
        _ if prefix.is_empty() => b"\0".to_vec(),
        _ => prefix.as_bytes().to_vec(),
    };
    (start, end(prefix))
}

/// The least key behind all that start with `prefix`; etcd takes a zero byte for "no end".
fn end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // UTF-8 has no byte 0xff, so adding one never overflows.
    match end.last_mut() {
        Some(last) => *last += 1,
        None => end.push(0),
    }
    end
}

pub(super) fn key_value(kv: etcd_client::KeyValue, base: Base) -> Result<KeyValue> {
    let (create_revision, mod_revision) = (base.ours(kv.create_revision()), base.ours(kv.mod_revision()));
    let version = kv.version();
    let lease = (kv.lease() != 0).then(|| LeaseId(kv.lease()));
    let (key, value) = kv.into_key_value();
    let key = String::from_utf8(key)
        .map_err(|error| Error::ForeignKey { key: String::from_utf8_lossy(error.as_bytes()).into_owned() })?;
    Ok(KeyValue { key, value: Bytes::from(value), create_revision, mod_revision, version, lease })
}

/// `None` if etcd sent an event without a key, which it never does.
pub(super) fn event(event: &etcd_client::Event, base: Base) -> Result<Option<Event>> {
    let kind = match event.event_type() {
        EventType::Put => EventKind::Put,
        EventType::Delete => EventKind::Delete,
    };
    let Some(kv) = event.kv() else { return Ok(None) };
    let kv = key_value(kv.clone(), base)?;
    let prev = event.prev_kv().cloned().map(|kv| key_value(kv, base)).transpose()?;
    Ok(Some(Event { kind, kv, prev }))
}

pub(super) fn txn(txn: &Txn, base: Base) -> etcd_client::Txn {
    let compare = |compare: &crate::Compare| {
        let revision = match compare.mod_revision {
            0 => 0,
            // What is from before etcd's first revision is no key's.
            ours => base.theirs(ours).unwrap_or(-1),
        };
        Compare::mod_revision(compare.key.as_str(), CompareOp::Equal, revision)
    };
    let operation = |op: &Op| match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key.as_str(), value.as_ref(), options)
        }
        Op::Delete { key } => TxnOp::delete(key.as_str(), None),
    };
    let read = |compare: &crate::Compare| TxnOp::get(compare.key.as_str(), None);
    etcd_client::Txn::new()
        .when(txn.compares.iter().map(compare).collect::<Vec<_>>())
        .and_then(txn.ops.iter().map(operation).collect::<Vec<_>>())
        .or_else(txn.compares.iter().map(read).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_of_a_restored_store_lie_above_its_base() {
        let base = Base(1000);
        assert_eq!((base.ours(0), base.ours(3)), (0, 1003));
        assert_eq!((base.theirs(1003), base.theirs(1000), base.theirs(7)), (Some(3), None, None));
        assert_eq!(Base::default().theirs(7), Some(7));
    }

    #[test]
    fn a_range_holds_what_starts_with_the_prefix() {
        let holds = |prefix: &str, after: Option<&str>, start: &[u8], end: &[u8]| {
            assert_eq!(range(prefix, after), (start.to_vec(), end.to_vec()), "{prefix} {after:?}");
        };
        holds("/a/", None, b"/a/", b"/a0");
        holds("/a/", Some("/a/1"), b"/a/1\0", b"/a0");
        holds("/a/", Some("/"), b"/a/", b"/a0");
        holds("", None, b"\0", b"\0");
        holds("", Some("/a"), b"/a\0", b"\0");
        assert_eq!(range("ü", None).1, [0xc3, 0xbd]);
    }
}
