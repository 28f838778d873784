//! Objects: as a type ([`Resource`]) and with the type erased ([`Object`]).

use std::any::Any;
use std::borrow::Cow;
use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::kind::Kind;
use crate::meta::v1::ObjectMeta;

/// A kind's type. Implemented by the build for each message with `(weir.kind)`.
pub trait Resource:
    prost::Message + Debug + Default + Clone + PartialEq + Serialize + DeserializeOwned + 'static
{
    const KIND: &'static Kind;

    /// Empty when absent.
    fn meta(&self) -> &ObjectMeta;

    /// Made when absent.
    fn meta_mut(&mut self) -> &mut ObjectMeta;

    /// The text of a field that selectors may name, "" when unset; `None` when they may not name it.
    fn field(&self, path: &str) -> Option<Cow<'_, str>>;
}

/// An object of any kind, as those handle it that are generic over kinds. Implemented for every [`Resource`].
pub trait Object: Any + Send + Sync + Debug {
    fn kind(&self) -> &'static Kind;
    /// Empty when absent.
    fn meta(&self) -> &ObjectMeta;
    /// Made when absent.
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    /// See [`Resource::field`].
    fn field(&self, path: &str) -> Option<Cow<'_, str>>;
    /// The message's protobuf.
    fn encode(&self) -> Vec<u8>;
    /// With `apiVersion` and `kind`.
    fn to_json(&self) -> Value;
    fn clone_box(&self) -> Box<dyn Object>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<R: Resource> Object for R {
    fn kind(&self) -> &'static Kind {
        R::KIND
    }

    fn meta(&self) -> &ObjectMeta {
        Resource::meta(self)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        Resource::meta_mut(self)
    }

    fn field(&self, path: &str) -> Option<Cow<'_, str>> {
        Resource::field(self, path)
    }

    fn encode(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("messages have string keys and infallible scalars")
    }

    fn clone_box(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl Clone for Box<dyn Object> {
    fn clone(&self) -> Self {
        self.as_ref().clone_box()
    }
}

impl dyn Object {
    /// The object as its type, when it is of that kind.
    pub fn downcast_ref<R: Resource>(&self) -> Option<&R> {
        self.as_any().downcast_ref()
    }

    /// The object as its type, when it is of that kind.
    pub fn downcast_mut<R: Resource>(&mut self) -> Option<&mut R> {
        self.as_any_mut().downcast_mut()
    }
}
