//! A change of an object, and what a filtered watcher sees of it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost::DecodeError;
use weir_proto::Kind;

use super::{CachedObject, Filter};

/// What happened, from the point of view of one watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeType {
    Added,
    Modified,
    Deleted,
}

/// One change in the store.
#[derive(Debug)]
pub(super) struct CacheEvent {
    pub(super) revision: i64,
    pub(super) deleted: bool,
    /// The object after the change; when deleted, as it was last, stamped with the revision of the delete.
    pub(super) object: Arc<CachedObject>,
    pub(super) previous: Option<Arc<CachedObject>>,
    left: OnceLock<Arc<CachedObject>>,
}

impl CacheEvent {
    pub(super) fn put(object: Arc<CachedObject>, previous: Option<Arc<CachedObject>>) -> Self {
        CacheEvent { revision: object.revision, deleted: false, object, previous, left: OnceLock::new() }
    }

    pub(super) fn delete(previous: Arc<CachedObject>, revision: i64) -> Self {
        let object = Arc::new(CachedObject::new(previous.object.clone_box(), revision));
        CacheEvent { revision, deleted: true, object, previous: Some(previous), left: OnceLock::new() }
    }

    /// Bytes of the object as it is sent: what the change is taken to weigh, since its previous state is another's object.
    pub(super) fn size(&self) -> usize {
        self.object.protobuf().len()
    }

    /// What a watcher with `filter` is told; `None` if it is none of its business.
    pub(super) fn seen_through(&self, filter: &Filter) -> Option<(ChangeType, Arc<CachedObject>)> {
        let before = self.previous.as_ref().filter(|previous| filter.matches(previous));
        let after = !self.deleted && filter.matches(&self.object);
        match (before, after) {
            (None, false) => None,
            (None, true) => Some((ChangeType::Added, self.object.clone())),
            (Some(_), true) => Some((ChangeType::Modified, self.object.clone())),
            (Some(_), false) if self.deleted => Some((ChangeType::Deleted, self.object.clone())),
            // It left the watcher's selection: to that watcher it is gone, in the last form it was selected by.
            (Some(previous), false) => {
                let left = self
                    .left
                    .get_or_init(|| Arc::new(CachedObject::new(previous.object.clone_box(), self.revision)));
                Some((ChangeType::Deleted, left.clone()))
            }
        }
    }
}

/// A change as it is kept for those who resume: encoded, which takes a fraction of the memory, and few ever do.
#[derive(Debug, Clone)]
pub(super) struct PastEvent {
    pub(super) revision: i64,
    kind: &'static Kind,
    deleted: bool,
    object: Bytes,
    previous: Option<(i64, Bytes)>,
}

impl PastEvent {
    pub(super) fn of(event: &CacheEvent) -> Self {
        let encoded = |object: &Arc<CachedObject>| (object.revision, object.protobuf().clone());
        PastEvent {
            revision: event.revision,
            kind: event.object.object.kind(),
            deleted: event.deleted,
            object: event.object.protobuf().clone(),
            previous: event.previous.as_ref().map(encoded),
        }
    }

    /// As [`CacheEvent::size`].
    pub(super) fn size(&self) -> usize {
        self.object.len()
    }

    /// The change as it was told when it happened.
    pub(super) fn recall(&self) -> Result<CacheEvent, DecodeError> {
        let decode = |revision: i64, protobuf: &Bytes| {
            let object = self.kind.decode(protobuf)?;
            Ok::<_, DecodeError>(Arc::new(CachedObject::new(object, revision)))
        };
        let previous = self.previous.as_ref().map(|(revision, protobuf)| decode(*revision, protobuf));
        Ok(CacheEvent {
            revision: self.revision,
            deleted: self.deleted,
            object: decode(self.revision, &self.object)?,
            previous: previous.transpose()?,
            left: OnceLock::new(),
        })
    }
}
