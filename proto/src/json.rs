//! JSON in Kubernetes' shape.
//!
//! Unset fields are absent, except those declared `(weir.always)`; `null` reads as unset; integers are numbers,
//! whatever their width; bytes are base64. A value of the wrong type fails with the path of its field. A field that
//! the message does not have is not an error here: its path is handed to the caller, who warns or refuses.
//!
//! Reading takes a parsed [`Value`], because callers need one anyway (to find the kind, to patch, to quote a line).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::scalar::ScalarError;

/// What keeps a value from being a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("expected {expected}, got {found}")]
    Type { expected: &'static str, found: String },
    #[error("expected {expected:?}, got {found}")]
    Header { expected: String, found: String },
    #[error(transparent)]
    Scalar(#[from] ScalarError),
    #[error("nested deeper than {MAX_DEPTH} levels")]
    Depth,
}

/// A value of the wrong type, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct JsonError {
    /// `spec.containers[0].ports[0].containerPort`; empty for the object itself.
    pub path: String,
    pub problem: Problem,
}

/// How deep JSON of no declared shape may nest.
pub(crate) const MAX_DEPTH: usize = 100;

#[derive(Debug, Clone, Copy)]
enum Step<'v> {
    Field(&'v str),
    Entry(&'v str),
    Index(usize),
}

/// Where reading is, and what it met.
#[derive(Debug)]
pub struct Reader<'v, 'u> {
    path: Vec<Step<'v>>,
    unknown: &'u mut Vec<String>,
}

impl<'v, 'u> Reader<'v, 'u> {
    /// Paths of unknown fields are added to `unknown`.
    pub(crate) fn new(unknown: &'u mut Vec<String>) -> Self {
        Self { path: Vec::new(), unknown }
    }

    /// Hands each field that is not null to `field`, which says whether the message has it.
    pub(crate) fn object(
        &mut self,
        value: &'v Value,
        mut field: impl FnMut(&mut Self, &str, &'v Value) -> Result<bool, JsonError>,
    ) -> Result<(), JsonError> {
        for (key, value) in self.entries(value)? {
            self.path.push(Step::Field(key));
            if !value.is_null() && !field(self, key, value)? {
                let path = self.path();
                self.unknown.push(path);
            }
            self.path.pop();
        }
        Ok(())
    }

    fn entries(
        &self,
        value: &'v Value,
    ) -> Result<impl Iterator<Item = (&'v String, &'v Value)> + use<'v>, JsonError> {
        match value {
            Value::Object(map) => Ok(Some(map).into_iter().flat_map(Map::iter)),
            Value::Null => Ok(None.into_iter().flat_map(Map::iter)),
            other => Err(self.expected("an object", other)),
        }
    }

    pub(crate) fn expected(&self, expected: &'static str, found: &Value) -> JsonError {
        self.fail(Problem::Type { expected, found: describe(found) })
    }

    pub(crate) fn fail(&self, problem: impl Into<Problem>) -> JsonError {
        JsonError { path: self.path(), problem: problem.into() }
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) if path.is_empty() => path.push_str(name),
                Step::Field(name) => path.extend([".", name]),
                Step::Entry(key) => path.extend(["[", key, "]"]),
                Step::Index(index) => path.extend(["[", &index.to_string(), "]"]),
            }
        }
        path
    }
}

/// A value in words, short enough for a message.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => format!("number {number}"),
        Value::String(text) if text.chars().count() > 40 => {
            format!("string {:?}…", text.chars().take(40).collect::<String>())
        }
        Value::String(text) => format!("string {text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// From JSON. Implemented by the build for messages, here for what their fields hold.
pub trait Read: Sized {
    fn read<'v>(value: &'v Value, at: &mut Reader<'v, '_>) -> Result<Self, JsonError>;
}

impl Read for String {
    fn read<'v>(value: &'v Value, at: &mut Reader<'v, '_>) -> Result<Self, JsonError> {
        match value {
            Value::String(text) => Ok(text.clone()),
            Value::Null => Ok(Self::new()),
            other => Err(at.expected("string", other)),
        }
    }
}

impl Read for bool {
    fn read<'v>(value: &'v Value, at: &mut Reader<'v, '_>) -> Result<Self, JsonError> {
        match value {
            Value::Bool(flag) => Ok(*flag),
            Value::Null => Ok(false),
            other => Err(at.expected("true or false", other)),
        }
    }
}

impl Read for i64 {
    fn read<'v>(value: &'v Value, at: &mut Reader<'v, '_>) -> Result<Self, JsonError> {
        match value {
            Value::Null => Ok(0),
            other => other.as_i64().ok_or_else(|| at.expected("integer", other)),
        }
    }
}

impl Read for i32 {
    fn read<'v>(value: &'v Value, at: &mut Reader<'v, '_>) -> Result<Self, JsonError> {
        let wide = i64::read(value, at)?;
        Self::try_from(wide).map_err(|_| at.expected("integer of 32 bits", value))
    }
}

impl Read for Vec<u8> {
    fn read<'v>(value: &'v Value, at: &mut Reader<'v, '_>) -> Result<Self, JsonError> {
        let text = String::read(value, at)?;
        // As Go does, so that a block scalar may be wrapped.
        let compact: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        STANDARD.decode(compact).map_err(|_| at.expected("base64", value))
    }
}

impl<T: Read> Read for Vec<T> {
    fn read<'v>(value: &'v Value, at: &mut Reader<'v, '_>) -> Result<Self, JsonError> {
        let items = match value {
            Value::Array(items) => items.as_slice(),
            Value::Null => &[],
            other => return Err(at.expected("a list", other)),
        };
        let mut list = Self::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            at.path.push(Step::Index(index));
            list.push(T::read(item, at)?);
            at.path.pop();
        }
        Ok(list)
    }
}

impl<T: Read> Read for BTreeMap<String, T> {
    fn read<'v>(value: &'v Value, at: &mut Reader<'v, '_>) -> Result<Self, JsonError> {
        let mut map = Self::new();
        for (key, value) in at.entries(value)? {
            at.path.push(Step::Entry(key));
            map.insert(key.clone(), T::read(value, at)?);
            at.path.pop();
        }
        Ok(map)
    }
}

impl<T: Read> Read for Option<T> {
    fn read<'v>(value: &'v Value, at: &mut Reader<'v, '_>) -> Result<Self, JsonError> {
        if value.is_null() { Ok(None) } else { T::read(value, at).map(Some) }
    }
}

impl<T: Read> Read for Box<T> {
    fn read<'v>(value: &'v Value, at: &mut Reader<'v, '_>) -> Result<Self, JsonError> {
        T::read(value, at).map(Self::new)
    }
}

/// To JSON. Implemented by the build for messages, here for what their fields hold.
pub trait Write {
    /// Whether the field is left out.
    fn is_unset(&self) -> bool;

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>;
}

/// Lends a [`Write`] to serde.
struct Writable<'a, T>(&'a T);

impl<T: Write> Serialize for Writable<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.write(serializer)
    }
}

/// A field that is absent when unset.
fn unless_unset<M: SerializeMap, T: Write>(
    map: &mut M,
    key: &'static str,
    value: &T,
) -> Result<(), M::Error> {
    if value.is_unset() { Ok(()) } else { always(map, key, value) }
}

/// A field that is always there.
fn always<M: SerializeMap, T: Write>(map: &mut M, key: &'static str, value: &T) -> Result<(), M::Error> {
    map.serialize_entry(key, &Writable(value))
}

impl Write for String {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl Write for bool {
    fn is_unset(&self) -> bool {
        !self
    }

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(*self)
    }
}

impl Write for i32 {
    fn is_unset(&self) -> bool {
        *self == 0
    }

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(*self)
    }
}

impl Write for i64 {
    fn is_unset(&self) -> bool {
        *self == 0
    }

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(*self)
    }
}

impl Write for Vec<u8> {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self))
    }
}

impl<T: Write> Write for Vec<T> {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Writable))
    }
}

impl<T: Write> Write for BTreeMap<String, T> {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(key, value)| (key, Writable(value))))
    }
}

impl<T: Write> Write for Option<T> {
    fn is_unset(&self) -> bool {
        self.is_none()
    }

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Some(value) => value.write(serializer),
            None => serializer.serialize_none(),
        }
    }
}

impl<T: Write> Write for Box<T> {
    fn is_unset(&self) -> bool {
        self.as_ref().is_unset()
    }

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_ref().write(serializer)
    }
}

/// serde's way in; unknown fields are ignored, as serde's users expect.
pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: Read>(deserializer: D) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    T::read(&value, &mut Reader::new(&mut Vec::new())).map_err(D::Error::custom)
}

mod generated {
    use serde::ser::SerializeMap;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    use super::{JsonError, Read, Reader, Write, always, deserialize, unless_unset};

    include!(concat!(env!("OUT_DIR"), "/json.rs"));
}
