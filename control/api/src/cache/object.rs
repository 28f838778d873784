//! An object as the cache holds it: decoded once, encoded once (when first asked for), shared by everyone who reads or
//! watches it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost::DecodeError;
use weir_proto::{Kind, Object, Resource};
use weir_store::KeyValue;

/// An object at one revision, with its wire forms. Immutable.
#[derive(Debug)]
pub struct CachedObject {
    /// With `metadata.resourceVersion` set to `revision`.
    pub object: Box<dyn Object>,
    /// The store revision of its last change.
    pub revision: i64,
    protobuf: OnceLock<Bytes>,
    json: OnceLock<Arc<str>>,
}

impl CachedObject {
    /// Stamps `object` with `revision`.
    pub fn new(mut object: Box<dyn Object>, revision: i64) -> Self {
        object.meta_mut().resource_version = revision.to_string();
        CachedObject { object, revision, protobuf: OnceLock::new(), json: OnceLock::new() }
    }

    /// What the store holds under a key.
    pub fn decode(kind: &'static Kind, stored: &KeyValue) -> Result<Self, DecodeError> {
        // A decoder leaves room in the lists that it grew, a copy takes what it needs.
        Ok(Self::new(kind.decode(&stored.value)?.clone_box(), stored.mod_revision))
    }

    /// The object's type, where the kind is known.
    pub fn typed<R: Resource>(&self) -> Option<&R> {
        self.object.as_any().downcast_ref()
    }

    /// Protobuf of the object.
    pub fn protobuf(&self) -> &Bytes {
        self.protobuf.get_or_init(|| self.object.encode().into())
    }

    /// JSON of the object.
    pub fn json(&self) -> Arc<str> {
        self.json.get_or_init(|| self.object.to_json().to_string().into()).clone()
    }
}
