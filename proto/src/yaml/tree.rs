//! A document with the line of each of its values.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// A value as it is parsed.
#[derive(Debug)]
pub(super) struct Node {
    line: usize,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    Scalar(Value),
    List(Vec<Node>),
    /// A field stands where its key does.
    Map(Vec<(Key, Node)>),
}

#[derive(Debug)]
struct Key {
    line: usize,
    name: String,
}

/// Where the values of a document stand; as deep as the document.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Lines {
    pub(super) line: usize,
    below: Below,
}

#[derive(Debug, Clone, PartialEq, Default)]
enum Below {
    #[default]
    Nothing,
    Items(Vec<Lines>),
    Fields(BTreeMap<String, Lines>),
}

impl Node {
    pub(super) fn is_null(&self) -> bool {
        matches!(self.shape, Shape::Scalar(Value::Null))
    }

    pub(super) fn split(self) -> (Value, Lines) {
        let line = self.line;
        let (value, below) = match self.shape {
            Shape::Scalar(value) => (value, Below::Nothing),
            Shape::List(items) => {
                let (values, lines) = items.into_iter().map(Self::split).unzip();
                (Value::Array(values), Below::Items(lines))
            }
            Shape::Map(fields) => {
                let (mut values, mut lines) = (Map::new(), BTreeMap::new());
                for (key, node) in fields {
                    let (value, below) = node.split();
                    values.insert(key.name.clone(), value);
                    lines.insert(key.name, Lines { line: key.line, ..below });
                }
                (Value::Object(values), Below::Fields(lines))
            }
        };
        (value, Lines { line, below })
    }
}

impl Lines {
    pub(super) fn find(&self, path: &str) -> usize {
        let mut at = self;
        let mut rest = path;
        while !rest.is_empty() {
            let (step, behind) = first_step(rest);
            let next = match &at.below {
                Below::Items(items) => step.parse().ok().and_then(|index: usize| items.get(index)),
                Below::Fields(fields) => fields.get(step),
                Below::Nothing => None,
            };
            let Some(next) = next else { break };
            (at, rest) = (next, behind);
        }
        at.line
    }

    pub(super) fn take_items(&mut self, field: &str) -> Vec<Self> {
        let Below::Fields(fields) = &mut self.below else { return Vec::new() };
        match fields.remove(field) {
            Some(Self { below: Below::Items(items), .. }) => items,
            _ => Vec::new(),
        }
    }
}

/// `a` of `a.b` and `a[0]`, `0` of `[0].b`, `x.y` of `[x.y]`; and what is left.
fn first_step(path: &str) -> (&str, &str) {
    let path = path.strip_prefix('.').unwrap_or(path);
    if let Some((step, rest)) = path.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        return (step, rest);
    }
    path.split_at(path.find(['.', '[']).unwrap_or(path.len()))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Shape>::deserialize(deserializer)?;
        Ok(Self { line: line(&spanned), shape: spanned.value })
    }
}

fn line<T>(spanned: &Spanned<T>) -> usize {
    usize::try_from(spanned.referenced.line()).unwrap_or(usize::MAX)
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Shape, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        Shape::deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Bool(flag)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Shape, E> {
        Ok(Shape::Scalar(number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Shape, E> {
        Ok(Shape::Scalar(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Shape, E> {
        let number = Number::from_f64(number).ok_or_else(|| E::custom("JSON has no infinity and no NaN"))?;
        Ok(Shape::Scalar(Value::Number(number)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::String(text.to_owned())))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::String(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Shape::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            fields.push((key, map.next_value()?));
        }
        Ok(Shape::Map(fields))
    }
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    /// Numbers and booleans as keys become their text, as JSON wants it.
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        let spanned = Spanned::<Shape>::deserialize(deserializer)?;
        let line = line(&spanned);
        match spanned.value {
            Shape::Scalar(Value::String(name)) => Ok(Key { line, name }),
            Shape::Scalar(scalar) => Ok(Key { line, name: scalar.to_string() }),
            Shape::List(_) | Shape::Map(_) => Err(Error::custom("a key must be a scalar")),
        }
    }
}
