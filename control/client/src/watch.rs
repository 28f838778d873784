//! Events of a watch, typed.

use futures::stream::BoxStream;
use weir_proto::meta::v1::ObjectMeta;
use weir_proto::weir::v1 as wire;
use weir_proto::{Object, Resource};

use crate::Result;

#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent<T> {
    Added(T),
    Modified(T),
    /// The last state; its resourceVersion is the revision of the deletion.
    Deleted(T),
    /// Everything up to this revision has been sent.
    Bookmark(String),
}

pub type WatchStream<T> = BoxStream<'static, Result<WatchEvent<T>>>;

impl<R: Resource> WatchEvent<R> {
    /// To go on from after a reconnect.
    pub fn resource_version(&self) -> &str {
        match self {
            WatchEvent::Bookmark(revision) => revision,
            WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
                &object.meta().resource_version
            }
        }
    }
}

impl WatchEvent<Box<dyn Object>> {
    pub fn object(&self) -> Option<&dyn Object> {
        match self {
            WatchEvent::Bookmark(_) => None,
            WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
                Some(object.as_ref())
            }
        }
    }
}

/// The last state of a deleted object is older than its deletion.
pub(crate) fn date_deletion(meta: &mut ObjectMeta, revision: String) {
    if !revision.is_empty() {
        meta.resource_version = revision;
    }
}

/// None for an event without a type or without the object it needs.
pub(crate) fn typed<T>(
    event: wire::WatchEvent,
    decode: impl Fn(wire::Object) -> Result<T>,
) -> Result<Option<WatchEvent<T>>> {
    let kind = event.r#type();
    if kind == wire::watch_event::Type::Bookmark {
        return Ok(Some(WatchEvent::Bookmark(event.resource_version)));
    }
    let Some(object) = event.object else { return Ok(None) };
    let object = decode(object)?;
    Ok(match kind {
        wire::watch_event::Type::Added => Some(WatchEvent::Added(object)),
        wire::watch_event::Type::Modified => Some(WatchEvent::Modified(object)),
        wire::watch_event::Type::Deleted => Some(WatchEvent::Deleted(object)),
        wire::watch_event::Type::Bookmark | wire::watch_event::Type::Unspecified => None,
    })
}
