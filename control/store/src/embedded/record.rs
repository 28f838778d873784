//! One change as it lies in the file.
//!
//! ```text
//! crc32   u32 LE   of everything behind it
//! kind    u8       0 = put, 1 = delete
//! keylen  u32 LE
//! key     UTF-8
//! put only:
//!   create  i64 LE   revision that created the key
//!   version i64 LE
//!   lease   i64 LE   0 = none
//!   value   the rest
//! ```
//!
//! The checksum is our own beside redb's page checksums, because redb verifies those only when it repairs a file.

use bytes::Bytes;

use crate::{Event, EventKind, KeyValue, LeaseId};

const PUT: u8 = 0;
const DELETE: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error("record ends early")]
    Short,
    #[error("checksum does not match")]
    Checksum,
    #[error("kind {0} is unknown")]
    Kind(u8),
    #[error("key is not UTF-8")]
    Key,
}

/// A decoded record; the key and value borrow from the page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) key: &'a str,
    /// `None` = the key was deleted.
    pub(super) put: Option<Put<'a>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Put<'a> {
    pub(super) create_revision: i64,
    pub(super) version: i64,
    pub(super) lease: Option<LeaseId>,
    pub(super) value: &'a [u8],
}

impl Record<'_> {
    /// The key as it was after the change, at `revision`.
    pub(super) fn key_value(&self, revision: i64) -> KeyValue {
        let (create_revision, version, lease, value) = match &self.put {
            Some(put) => (put.create_revision, put.version, put.lease, Bytes::copy_from_slice(put.value)),
            None => (0, 0, None, Bytes::new()),
        };
        KeyValue { key: self.key.to_owned(), value, create_revision, mod_revision: revision, version, lease }
    }
}

/// Writes an event's record into `buffer`, which is cleared first.
pub(super) fn encode(event: &Event, lease: Option<LeaseId>, buffer: &mut Vec<u8>) {
    let kv = &event.kv;
    buffer.clear();
    buffer.reserve(4 + 1 + 4 + kv.key.len() + 24 + kv.value.len());
    buffer.extend_from_slice(&[0; 4]);
    buffer.push(if event.kind == EventKind::Put { PUT } else { DELETE });
    // Keys are bounded by MAX_TXN_BYTES, far below u32.
    buffer.extend_from_slice(&(kv.key.len() as u32).to_le_bytes());
    buffer.extend_from_slice(kv.key.as_bytes());
    if event.kind == EventKind::Put {
        buffer.extend_from_slice(&kv.create_revision.to_le_bytes());
        buffer.extend_from_slice(&kv.version.to_le_bytes());
        buffer.extend_from_slice(&lease.map_or(0, |lease| lease.0).to_le_bytes());
        buffer.extend_from_slice(&kv.value);
    }
    let crc = crc32fast::hash(&buffer[4..]);
    buffer[..4].copy_from_slice(&crc.to_le_bytes());
}

pub(super) fn decode(bytes: &[u8]) -> Result<Record<'_>, Damage> {
    let (crc, body) = bytes.split_first_chunk::<4>().ok_or(Damage::Short)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(Damage::Checksum);
    }
    let (kind, rest) = body.split_first().ok_or(Damage::Short)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(Damage::Short)?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(Damage::Short)?;
    let key = std::str::from_utf8(key).map_err(|_| Damage::Key)?;
    let put = match *kind {
        PUT => {
            let (create, rest) = rest.split_first_chunk::<8>().ok_or(Damage::Short)?;
            let (version, rest) = rest.split_first_chunk::<8>().ok_or(Damage::Short)?;
            let (lease, value) = rest.split_first_chunk::<8>().ok_or(Damage::Short)?;
            let lease = i64::from_le_bytes(*lease);
            Some(Put {
                create_revision: i64::from_le_bytes(*create),
                version: i64::from_le_bytes(*version),
                lease: (lease != 0).then_some(LeaseId(lease)),
                value,
            })
        }
        DELETE => None,
        other => return Err(Damage::Kind(other)),
    };
    Ok(Record { key, put })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put() -> Event {
        let kv = KeyValue {
            key: "/registry/pods/default/web-1".into(),
            value: Bytes::from_static(b"value"),
            create_revision: 7,
            mod_revision: 9,
            version: 2,
            lease: Some(LeaseId(5)),
        };
        Event { kind: EventKind::Put, kv, prev: None }
    }

    #[test]
    fn a_put_decodes_to_what_was_encoded() {
        let (event, mut buffer) = (put(), Vec::new());
        encode(&event, Some(LeaseId(5)), &mut buffer);
        let record = decode(&buffer).unwrap();
        assert_eq!(record.key_value(9), event.kv);
        assert_eq!(record.put.unwrap().lease, Some(LeaseId(5)));
    }

    #[test]
    fn a_delete_decodes_to_what_was_encoded() {
        let kv = KeyValue {
            key: "k".into(),
            value: Bytes::new(),
            create_revision: 0,
            mod_revision: 3,
            version: 0,
            lease: None,
        };
        let (event, mut buffer) = (Event { kind: EventKind::Delete, kv, prev: None }, Vec::new());
        encode(&event, None, &mut buffer);
        let record = decode(&buffer).unwrap();
        assert!(record.put.is_none());
        assert_eq!(record.key_value(3), event.kv);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut buffer = Vec::new();
        encode(&put(), None, &mut buffer);
        for bit in 0..buffer.len() * 8 {
            let mut damaged = buffer.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..buffer.len() {
            assert!(decode(&buffer[..length]).is_err(), "length {length}");
        }
    }
}
