//! FieldsV1 and RawExtension: JSON of any shape, kept as text.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::json::{self, JsonError, MAX_DEPTH, Problem, Read, Reader, Write};
use crate::meta::v1::{FieldsV1, RawExtension};

fn shallow(value: &Value, allowed: usize) -> bool {
    let Some(allowed) = allowed.checked_sub(1) else { return false };
    match value {
        Value::Array(items) => items.iter().all(|item| shallow(item, allowed)),
        Value::Object(map) => map.values().all(|value| shallow(value, allowed)),
        _ => true,
    }
}

fn read(value: &Value, at: &Reader<'_, '_>) -> Result<Vec<u8>, JsonError> {
    if shallow(value, MAX_DEPTH) { Ok(value.to_string().into_bytes()) } else { Err(at.fail(Problem::Depth)) }
}

/// Bytes that are not JSON (nothing here makes such, but protobuf can carry them) are written as null.
fn write<S: Serializer>(raw: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serde_json::from_slice::<Value>(raw).unwrap_or_default().serialize(serializer)
}

macro_rules! json_as_it_is {
    ($raw:ident) => {
        impl Read for $raw {
            fn read<'v>(value: &'v Value, at: &mut Reader<'v, '_>) -> Result<Self, JsonError> {
                Ok(Self { raw: read(value, at)? })
            }
        }

        impl Write for $raw {
            fn is_unset(&self) -> bool {
                false
            }

            fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                write(&self.raw, serializer)
            }
        }

        impl Serialize for $raw {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.write(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $raw {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                json::deserialize(deserializer)
            }
        }
    };
}

json_as_it_is!(FieldsV1);
json_as_it_is!(RawExtension);
