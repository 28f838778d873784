//! Which versions each key has had since the compaction: the map that all reads start from. Pure; no file, no lock.
//!
//! The newest version of a key keeps its value in memory. Older ones keep only their place in the file.
//!
//! **Invariant:** a key's versions ascend by revision, and a delete is never its first change.
//!
//! A version becomes garbage once the compaction reaches the revision that superseded it; a delete once the compaction
//! reaches itself. `superseded` lists those moments in order, so that a compaction costs what it removes.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

use bytes::Bytes;

use crate::{KeyValue, LeaseId};

/// Where a change lies in the file: its revision, and its place within the transaction.
pub(super) type Place = (i64, u32);

#[derive(Debug)]
struct Version {
    place: Place,
    put: Option<Put>,
}

#[derive(Debug)]
struct Put {
    create_revision: i64,
    version: i64,
    lease: Option<LeaseId>,
    /// `None` once superseded.
    value: Option<Bytes>,
}

/// A key found, its value in memory or to be read from the file.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) kv: KeyValue,
    /// Where to read the value from, if `kv` lacks it.
    pub(super) stored: Option<Place>,
}

/// The newest state of a key that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) kv: KeyValue,
    pub(super) lease: Option<LeaseId>,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    keys: BTreeMap<String, Vec<Version>>,
    superseded: VecDeque<(i64, String)>,
}

impl Index {
    /// Records a put. Revisions never descend.
    pub(super) fn put(&mut self, sub: u32, kv: &KeyValue, lease: Option<LeaseId>) {
        let put = Put {
            create_revision: kv.create_revision,
            version: kv.version,
            lease,
            value: Some(kv.value.clone()),
        };
        let version = Version { place: (kv.mod_revision, sub), put: Some(put) };
        self.push(&kv.key, version);
    }

    /// Records a delete.
    pub(super) fn delete(&mut self, place: Place, key: &str) {
        self.push(key, Version { place, put: None });
    }

    fn push(&mut self, key: &str, version: Version) {
        let revision = version.place.0;
        let deleted = version.put.is_none();
        match self.keys.get_mut(key) {
            Some(versions) => {
                if let Some(put) = versions.last_mut().and_then(|last| last.put.as_mut()) {
                    put.value = None;
                }
                versions.push(version);
                self.superseded.push_back((revision, key.to_owned()));
            }
            None => {
                self.keys.insert(key.to_owned(), vec![version]);
                if deleted {
                    self.superseded.push_back((revision, key.to_owned()));
                }
            }
        }
    }

    /// The key's newest state, if it exists.
    pub(super) fn latest(&self, key: &str) -> Option<Live> {
        let version = self.keys.get(key)?.last()?;
        let put = version.put.as_ref()?;
        let value = put.value.clone().unwrap_or_default();
        Some(Live { kv: key_value(key, version.place.0, put, value), lease: put.lease })
    }

    /// The revision of the newest change of a key that exists.
    pub(super) fn latest_revision(&self, key: &str) -> Option<i64> {
        let version = self.keys.get(key)?.last()?;
        version.put.as_ref().map(|_| version.place.0)
    }

    /// The lease the key belongs to.
    pub(super) fn lease(&self, key: &str) -> Option<LeaseId> {
        self.keys.get(key)?.last()?.put.as_ref()?.lease
    }

    /// The key as it was at `revision`.
    pub(super) fn at(&self, key: &str, revision: i64) -> Option<Found> {
        found(key, self.keys.get(key)?, revision)
    }

    /// The keys under `prefix` behind `after` as they were at `revision`: at most `limit` of them, and how many more
    /// there are.
    pub(super) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        revision: i64,
        limit: usize,
    ) -> (Vec<Found>, u64) {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut items = Vec::new();
        let mut remaining = 0;
        let range = self.keys.range::<str, _>((start, Bound::Unbounded));
        for (key, versions) in range.take_while(|(key, _)| key.starts_with(prefix)) {
            if limit == 0 || items.len() < limit {
                items.extend(found(key, versions, revision));
            } else if exists(versions, revision) {
                remaining += 1;
            }
        }
        (items, remaining)
    }

    /// Forgets what only revisions before `revision` can see. Returns the places to remove from the file, for each key
    /// the older ones first: a delete must not vanish before what it deleted.
    pub(super) fn compact(&mut self, revision: i64) -> Vec<Place> {
        let mut garbage = Vec::new();
        while self.superseded.front().is_some_and(|(at, _)| *at <= revision) {
            let Some((_, key)) = self.superseded.pop_front() else { break };
            let Some(versions) = self.keys.get_mut(&key) else { continue };
            let visible = versions.partition_point(|version| version.place.0 <= revision);
            let Some(newest) = visible.checked_sub(1) else { continue };
            let keep = if versions[newest].put.is_some() { newest } else { visible };
            garbage.extend(versions.drain(..keep).map(|version| version.place));
            if versions.is_empty() {
                self.keys.remove(&key);
            }
        }
        garbage
    }

    /// All existing keys that belong to a lease.
    pub(super) fn leased(&self) -> impl Iterator<Item = (LeaseId, &str)> {
        self.keys.iter().filter_map(|(key, versions)| {
            let lease = versions.last()?.put.as_ref()?.lease?;
            Some((lease, key.as_str()))
        })
    }
}

fn visible(versions: &[Version], revision: i64) -> Option<(&Version, &Put)> {
    let count = versions.partition_point(|version| version.place.0 <= revision);
    let version = &versions[count.checked_sub(1)?];
    Some((version, version.put.as_ref()?))
}

fn exists(versions: &[Version], revision: i64) -> bool {
    visible(versions, revision).is_some()
}

fn found(key: &str, versions: &[Version], revision: i64) -> Option<Found> {
    let (version, put) = visible(versions, revision)?;
    let stored = put.value.is_none().then_some(version.place);
    let value = put.value.clone().unwrap_or_default();
    Some(Found { kv: key_value(key, version.place.0, put, value), stored })
}

fn key_value(key: &str, mod_revision: i64, put: &Put, value: Bytes) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value,
        create_revision: put.create_revision,
        mod_revision,
        version: put.version,
        lease: put.lease,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(index: &mut Index, key: &str, revision: i64, create_revision: i64, version: i64) {
        let value = Bytes::from(format!("{key}@{revision}"));
        let lease = None;
        let kv = KeyValue { key: key.into(), value, create_revision, mod_revision: revision, version, lease };
        index.put(0, &kv, None);
    }

    fn keys(index: &Index, revision: i64) -> Vec<String> {
        index.list("", None, revision, 0).0.into_iter().map(|found| found.kv.key).collect()
    }

    /// a: put 2, put 4, delete 5, put 6; b: put 3.
    fn sample() -> Index {
        let mut index = Index::default();
        put(&mut index, "a", 2, 2, 1);
        put(&mut index, "b", 3, 3, 1);
        put(&mut index, "a", 4, 2, 2);
        index.delete((5, 0), "a");
        put(&mut index, "a", 6, 6, 1);
        index
    }

    #[test]
    fn each_revision_shows_the_keys_of_its_time() {
        let index = sample();
        let expected: [&[&str]; 6] = [&[], &["a"], &["a", "b"], &["a", "b"], &["b"], &["a", "b"]];
        for (revision, expected) in (1..).zip(expected) {
            assert_eq!(keys(&index, revision), expected, "revision {revision}");
        }
    }

    #[test]
    fn only_the_newest_version_keeps_its_value() {
        let index = sample();
        assert_eq!(index.at("a", 4).unwrap().stored, Some((4, 0)));
        assert_eq!(index.at("a", 6).unwrap().stored, None);
        assert_eq!(index.at("a", 6).unwrap().kv.value, "a@6");
    }

    #[test]
    fn a_compaction_keeps_what_its_revision_and_later_ones_see() {
        let mut index = sample();
        assert_eq!(index.compact(4), [(2, 0)]);
        assert_eq!(keys(&index, 4), ["a", "b"]);
        assert_eq!(index.compact(5), [(4, 0), (5, 0)]);
        assert_eq!(keys(&index, 5), ["b"]);
        assert_eq!(keys(&index, 6), ["a", "b"]);
        assert_eq!(index.compact(6), []);
    }

    #[test]
    fn a_key_deleted_and_compacted_leaves_nothing_behind() {
        let mut index = Index::default();
        put(&mut index, "a", 2, 2, 1);
        index.delete((3, 0), "a");
        assert_eq!(index.compact(3), [(2, 0), (3, 0)]);
        assert!(index.keys.is_empty() && index.superseded.is_empty());
    }

    #[test]
    fn a_page_stays_under_its_prefix_and_counts_the_rest() {
        let mut index = Index::default();
        for (revision, key) in (2..).zip(["/a/1", "/a/2", "/a/3", "/b/1"]) {
            put(&mut index, key, revision, revision, 1);
        }
        let (items, remaining) = index.list("/a/", Some("/a/1"), 9, 1);
        assert_eq!((items[0].kv.key.as_str(), remaining), ("/a/2", 1));
        let (items, remaining) = index.list("/a/", Some("/"), 9, 0);
        assert_eq!((items.len(), remaining), (3, 0));
    }
}
