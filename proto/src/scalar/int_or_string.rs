//! IntOrString: a port by number or name, replicas by number or percentage.

use std::fmt;

use prost::DecodeError;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{ScalarError, quoted};
use crate::json::{self, JsonError, Read, Reader, Write};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum IntOrString {
    Int(i32),
    String(String),
}

impl IntOrString {
    /// The number, or the percentage of `total`, rounded up or down.
    pub fn scaled(&self, total: i32, round_up: bool) -> Result<i32, ScalarError> {
        let text = match self {
            Self::Int(number) => return Ok(*number),
            Self::String(text) => text,
        };
        let percent = text.strip_suffix('%').and_then(|percent| percent.parse::<u16>().ok());
        let percent = percent.ok_or_else(|| ScalarError::Percentage(quoted(text)))?;
        let product = i64::from(percent) * i64::from(total);
        let scaled = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
        Ok(i32::try_from(scaled).unwrap_or(i32::MAX))
    }
}

impl Default for IntOrString {
    fn default() -> Self {
        Self::Int(0)
    }
}

impl From<i32> for IntOrString {
    fn from(number: i32) -> Self {
        Self::Int(number)
    }
}

impl From<&str> for IntOrString {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => number.fmt(f),
            Self::String(text) => text.fmt(f),
        }
    }
}

impl Read for IntOrString {
    fn read<'v>(value: &'v Value, at: &mut Reader<'v, '_>) -> Result<Self, JsonError> {
        match value {
            Value::String(text) => Ok(Self::String(text.clone())),
            Value::Number(_) | Value::Null => i32::read(value, at).map(Self::Int),
            other => Err(at.expected("integer or string", other)),
        }
    }
}

impl Write for IntOrString {
    fn is_unset(&self) -> bool {
        false
    }

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Int(number) => serializer.serialize_i32(*number),
            Self::String(text) => serializer.serialize_str(text),
        }
    }
}

impl Serialize for IntOrString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.write(serializer)
    }
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        json::deserialize(deserializer)
    }
}

const TYPE: u32 = 1;
const INT: u32 = 2;
const STRING: u32 = 3;

/// The type goes first on the wire: it decides which of the other two counts.
impl prost::Message for IntOrString {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        match self {
            Self::Int(number) => encoding::int32::encode(INT, number, buf),
            Self::String(text) => {
                encoding::int64::encode(TYPE, &1, buf);
                encoding::string::encode(STRING, text, buf);
            }
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match (tag, &mut *self) {
            (TYPE, _) => {
                let mut is_string = 0;
                encoding::int64::merge(wire_type, &mut is_string, buf, ctx)?;
                match (is_string, &*self) {
                    (0, Self::String(_)) => *self = Self::Int(0),
                    (1.., Self::Int(_)) => *self = Self::String(String::new()),
                    _ => {}
                }
                Ok(())
            }
            (INT, Self::Int(number)) => encoding::int32::merge(wire_type, number, buf, ctx),
            (STRING, Self::String(text)) => encoding::string::merge(wire_type, text, buf, ctx),
            _ => encoding::skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        match self {
            Self::Int(number) => encoding::int32::encoded_len(INT, number),
            Self::String(text) => {
                encoding::int64::encoded_len(TYPE, &1) + encoding::string::encoded_len(STRING, text)
            }
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn protobuf_round_trips_both_forms() {
        for value in [0.into(), 80.into(), (-1).into(), "".into(), "http".into(), "25%".into()] {
            let value: IntOrString = value;
            assert_eq!(IntOrString::decode(&*value.encode_to_vec()).unwrap(), value);
        }
    }

    #[test]
    fn percentages_round_as_asked() {
        for (value, total, up, down) in
            [("25%", 10, 3, 2), ("0%", 7, 0, 0), ("100%", 7, 7, 7), ("25%", 0, 0, 0)]
        {
            let value = IntOrString::from(value);
            assert_eq!((value.scaled(total, true).unwrap(), value.scaled(total, false).unwrap()), (up, down));
        }
        assert_eq!(IntOrString::from(5).scaled(100, true), Ok(5));
        assert!(IntOrString::from("half").scaled(100, true).is_err());
        assert_eq!(IntOrString::from("65535%").scaled(i32::MAX, true), Ok(i32::MAX));
    }
}
