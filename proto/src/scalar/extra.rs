//! ExtraValue: a list that stands in a map, which protobuf cannot say without a message around it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::authentication::v1::ExtraValue;
use crate::json::{self, JsonError, Read, Reader, Write};

impl Read for ExtraValue {
    fn read<'v>(value: &'v Value, at: &mut Reader<'v, '_>) -> Result<Self, JsonError> {
        Vec::read(value, at).map(|items| Self { items })
    }
}

impl Write for ExtraValue {
    fn is_unset(&self) -> bool {
        false
    }

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.items.write(serializer)
    }
}

impl Serialize for ExtraValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.write(serializer)
    }
}

impl<'de> Deserialize<'de> for ExtraValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        json::deserialize(deserializer)
    }
}
