//! The table of kinds: what each is called and how it is coded, as declared in the `.proto` files.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use prost::DecodeError;
use serde_json::Value;

use crate::json::{self, JsonError, Problem, Read, Reader};
use crate::meta::v1::ObjectMeta;
use crate::object::{Object, Resource};
use crate::weir::v1::KindRef;

/// What a kind is called, where it lives and how its objects are coded. There is one of each, so that two kinds
/// are the same when group, version and kind are.
#[derive(Debug)]
pub struct Kind {
    /// "" for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    /// "" for bodies of subresources, which are never stored by themselves.
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub namespaced: bool,
    pub subresources: &'static [&'static str],
    pub categories: &'static [&'static str],
    /// After NAME, in order.
    pub columns: &'static [Column],
    /// What field selectors may name, besides metadata.name and metadata.namespace.
    pub selectable_fields: &'static [&'static str],
    pub(crate) codec: Codec,
}

/// A column of the table that people see.
#[derive(Debug)]
pub struct Column {
    pub name: &'static str,
    /// Shown with `-o wide` only.
    pub wide: bool,
}

type Erased<Error> = Result<Box<dyn Object>, Error>;

/// The functions of a kind's type, with the type erased.
pub(crate) struct Codec {
    empty: fn() -> Box<dyn Object>,
    decode: fn(&[u8]) -> Erased<DecodeError>,
    read: for<'v> fn(&'v Value, &mut Reader<'v, '_>) -> Erased<JsonError>,
}

impl Codec {
    pub(crate) const fn of<R: Resource + Read>() -> Self {
        Self {
            empty: || Box::new(R::default()),
            decode: |protobuf| Ok(Box::new(R::decode(protobuf)?)),
            read: |value, at| Ok(Box::new(R::read(value, at)?)),
        }
    }
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Codec")
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        (self.group, self.version, self.kind) == (other.group, other.version, other.kind)
    }
}

impl Eq for Kind {}

impl std::hash::Hash for Kind {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.group, self.version, self.kind).hash(state);
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Kind={}", self.api_version(), self.kind)
    }
}

impl Kind {
    /// "v1", "apps/v1".
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// "pods", "deployments.apps": how messages name the kind.
    pub fn resource_name(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// Where the store keeps an object: "/registry/pods/default/web-1", "/registry/apps/deployments/default/web",
    /// "/registry/nodes/n1".
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let namespace = self.namespaced.then_some(namespace);
        self.prefix(namespace) + name
    }

    /// Where the store keeps the kind's objects, of one namespace or of all; ends with "/".
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!("{}/", self.group) };
        match namespace.filter(|namespace| self.namespaced && !namespace.is_empty()) {
            Some(namespace) => format!("/registry/{group}{}/{namespace}/", self.plural),
            None => format!("/registry/{group}{}/", self.plural),
        }
    }

    pub fn to_ref(&self) -> KindRef {
        KindRef { group: self.group.into(), version: self.version.into(), kind: self.kind.into() }
    }

    pub fn has_subresource(&self, name: &str) -> bool {
        self.subresources.contains(&name)
    }

    /// An object with nothing set.
    pub fn empty(&self) -> Box<dyn Object> {
        (self.codec.empty)()
    }

    pub fn decode(&self, protobuf: &[u8]) -> Result<Box<dyn Object>, DecodeError> {
        (self.codec.decode)(protobuf)
    }

    /// Reads an object; paths of fields that the kind does not have are added to `unknown`. `apiVersion` and
    /// `kind` may be absent, but if present they must be this kind's.
    pub fn from_json(&self, value: &Value, unknown: &mut Vec<String>) -> Result<Box<dyn Object>, JsonError> {
        for (field, expected) in [("apiVersion", self.api_version()), ("kind", self.kind.to_owned())] {
            match value.get(field) {
                None | Some(Value::Null) => {}
                Some(Value::String(found)) if *found == expected => {}
                Some(found) => {
                    let problem = Problem::Header { expected, found: json::describe(found) };
                    return Err(JsonError { path: field.to_owned(), problem });
                }
            }
        }
        let mut reader = Reader::new(unknown);
        if value.is_null() {
            return Err(reader.expected("an object", value));
        }
        (self.codec.read)(value, &mut reader)
    }
}

/// Every kind whose objects are stored.
pub fn kinds() -> &'static [&'static Kind] {
    generated::STORED
}

/// By group, version and kind; bodies of subresources (Binding, Scale, Eviction) too.
pub fn find(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    generated::STORED
        .iter()
        .chain(generated::BODIES)
        .copied()
        .find(|known| (known.group, known.version, known.kind) == (group, version, kind))
}

/// By the words of a REST path.
pub fn find_plural(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    kinds()
        .iter()
        .copied()
        .find(|known| (known.group, known.version, known.plural) == (group, version, plural))
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no kind is called {word:?}{}", nearest.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default())]
pub struct UnknownKind {
    pub word: String,
    /// The name most like it, where one is.
    pub nearest: Option<&'static str>,
}

/// What people call a kind: `po`, `pod`, `pods`, `Pod`, `deployments.apps`, `deployments.v1.apps`.
pub fn resolve(word: &str) -> Result<&'static Kind, UnknownKind> {
    let lower = word.to_ascii_lowercase();
    let (name, group) = lower.split_once('.').unwrap_or((&lower, ""));
    let in_group = |kind: &Kind| group.is_empty() || group == kind.group || group == kind.version_and_group();
    let found =
        kinds().iter().copied().find(|kind| in_group(kind) && kind.names().any(|known| known == name));
    found.ok_or_else(|| UnknownKind { word: word.to_owned(), nearest: nearest(name) })
}

impl Kind {
    fn version_and_group(&self) -> String {
        format!("{}.{}", self.version, self.group)
    }

    fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        [self.plural, self.singular].into_iter().chain(self.short_names.iter().copied())
    }
}

/// At most a third of the word may differ.
fn nearest(word: &str) -> Option<&'static str> {
    let names = kinds().iter().flat_map(|kind| kind.names());
    let (distance, name) = names.map(|name| (edit_distance(word, name), name)).min()?;
    (distance * 3 <= word.len()).then_some(name)
}

/// Levenshtein's, a row at a time.
pub(crate) fn edit_distance(a: &str, b: &str) -> usize {
    // Nobody's kind is longer; what a user typed may be.
    if a.len() > 64 {
        return usize::MAX / 3;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[expect(unused_qualifications, reason = "generated code spells every path out")]
mod generated {
    use super::{Codec, Column, Cow, Kind, LazyLock, ObjectMeta, Resource};

    include!(concat!(env!("OUT_DIR"), "/kinds.rs"));
}
