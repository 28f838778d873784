//! What is wrong with an object, field by field, in Kubernetes' words.
//!
//! [`Errors`] collects; [`Path`] names a field as Kubernetes does (`spec.containers[0].name`). The checks of
//! syntax that many kinds share are in [`names`], those of metadata in [`meta`], of label selectors in
//! [`selectors`], of addresses in [`addresses`].

pub(crate) mod addresses;
pub(crate) mod meta;
pub(crate) mod names;
pub(crate) mod selectors;

use std::fmt;

use weir_proto::meta::v1::StatusCause;

/// Longest value that is repeated in an error.
const SHOWN: usize = 256;

/// A field of an object. Cheap: it is written out only when something is wrong.
#[derive(Clone, Copy)]
pub(crate) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    last: Segment<'a>,
}

#[derive(Clone, Copy)]
enum Segment<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    pub(crate) const fn root(field: &'a str) -> Self {
        Path { parent: None, last: Segment::Field(field) }
    }

    /// `self.field`; may name several levels ("spec.ports").
    pub(crate) fn child(&'a self, field: &'a str) -> Self {
        Path { parent: Some(self), last: Segment::Field(field) }
    }

    /// `self[index]`
    pub(crate) fn index(&'a self, index: usize) -> Self {
        Path { parent: Some(self), last: Segment::Index(index) }
    }

    /// `self[key]`
    pub(crate) fn key(&'a self, key: &'a str) -> Self {
        Path { parent: Some(self), last: Segment::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.last {
            Segment::Field(field) if self.parent.is_some() => write!(f, ".{field}"),
            Segment::Field(field) => f.write_str(field),
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// A value as an error shows it.
pub(crate) enum Shown<'a> {
    Text(&'a str),
    Number(i64),
    Plain(String),
}

impl<'a> From<&'a str> for Shown<'a> {
    fn from(text: &'a str) -> Self {
        Shown::Text(text)
    }
}

impl<'a> From<&'a String> for Shown<'a> {
    fn from(text: &'a String) -> Self {
        Shown::Text(text)
    }
}

impl From<i32> for Shown<'_> {
    fn from(number: i32) -> Self {
        Shown::Number(number.into())
    }
}

impl From<i64> for Shown<'_> {
    fn from(number: i64) -> Self {
        Shown::Number(number)
    }
}

impl From<bool> for Shown<'_> {
    fn from(value: bool) -> Self {
        Shown::Plain(value.to_string())
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shown::Number(number) => number.fmt(f),
            Shown::Plain(text) => f.write_str(text),
            Shown::Text(text) if text.len() <= SHOWN => write!(f, "{text:?}"),
            Shown::Text(text) => {
                let short: String = text.chars().take(SHOWN).collect();
                write!(f, "{:?}", short + "…")
            }
        }
    }
}

/// The errors found so far.
#[derive(Debug, Default)]
pub(crate) struct Errors {
    causes: Vec<StatusCause>,
}

/// More errors than this tell nobody more.
const MOST: usize = 100;

impl Errors {
    fn push(&mut self, path: &Path<'_>, reason: &str, message: String) {
        if self.causes.len() < MOST {
            self.causes.push(StatusCause { reason: reason.to_owned(), message, field: path.to_string() });
        }
    }

    pub(crate) fn required(&mut self, path: &Path<'_>, detail: &str) {
        let message =
            if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        self.push(path, "FieldValueRequired", message);
    }

    pub(crate) fn invalid<'v>(
        &mut self,
        path: &Path<'_>,
        value: impl Into<Shown<'v>>,
        detail: impl fmt::Display,
    ) {
        self.push(path, "FieldValueInvalid", format!("Invalid value: {}: {detail}", value.into()));
    }

    pub(crate) fn unsupported(&mut self, path: &Path<'_>, value: &str, supported: &[&str]) {
        let mut supported: Vec<_> = supported.iter().map(|value| format!("{value:?}")).collect();
        supported.sort();
        let message =
            format!("Unsupported value: {}: supported values: {}", Shown::Text(value), supported.join(", "));
        self.push(path, "FieldValueNotSupported", message);
    }

    pub(crate) fn forbidden(&mut self, path: &Path<'_>, detail: impl fmt::Display) {
        self.push(path, "FieldValueForbidden", format!("Forbidden: {detail}"));
    }

    pub(crate) fn duplicate<'v>(&mut self, path: &Path<'_>, value: impl Into<Shown<'v>>) {
        self.push(path, "FieldValueDuplicate", format!("Duplicate value: {}", value.into()));
    }

    pub(crate) fn not_found<'v>(&mut self, path: &Path<'_>, value: impl Into<Shown<'v>>) {
        self.push(path, "FieldValueNotFound", format!("Not found: {}", value.into()));
    }

    pub(crate) fn too_long(&mut self, path: &Path<'_>, limit: usize) {
        self.push(path, "FieldValueTooLong", format!("Too long: may not be more than {limit} bytes"));
    }

    pub(crate) fn too_many(&mut self, path: &Path<'_>, count: usize, limit: usize) {
        self.push(path, "FieldValueTooMany", format!("Too many: {count}: must have at most {limit} items"));
    }

    /// Each message of a check of syntax, as an invalid value.
    pub(crate) fn syntax(&mut self, path: &Path<'_>, value: &str, problems: Vec<String>) {
        for problem in problems {
            self.invalid(path, value, problem);
        }
    }

    pub(crate) fn one_of(&mut self, path: &Path<'_>, value: &str, supported: &[&str]) {
        if !supported.contains(&value) {
            self.unsupported(path, value, supported);
        }
    }

    pub(crate) fn not_negative(&mut self, path: &Path<'_>, value: i64) {
        if value < 0 {
            self.invalid(path, value, "must be greater than or equal to 0");
        }
    }

    pub(crate) fn port(&mut self, path: &Path<'_>, value: i32) {
        if !(1..=65535).contains(&value) {
            self.invalid(path, value, "must be between 1 and 65535, inclusive");
        }
    }

    /// Refuses a change of a field that is set once.
    pub(crate) fn immutable<T: PartialEq>(
        &mut self,
        path: &Path<'_>,
        new: &T,
        old: &T,
        shown: impl fmt::Display,
    ) {
        if new != old {
            self.invalid(path, Shown::Plain(shown.to_string()), "field is immutable");
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.causes.is_empty()
    }

    pub(crate) fn into_causes(self) -> Vec<StatusCause> {
        self.causes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_kubernetes_writes_them() {
        let spec = Path::root("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        assert_eq!(first.child("name").to_string(), "spec.containers[0].name");
        assert_eq!(spec.child("limits").key("cpu").to_string(), "spec.limits[cpu]");
    }

    #[test]
    fn messages_read_as_kubernetes_writes_them() {
        let mut errors = Errors::default();
        let spec = Path::root("spec");
        errors.invalid(&spec.child("replicas"), -1, "must be greater than or equal to 0");
        errors.unsupported(&spec.child("type"), "X", &["NodePort", "ClusterIP"]);
        let messages: Vec<_> = errors.into_causes().into_iter().map(|cause| cause.message).collect();
        assert_eq!(messages[0], "Invalid value: -1: must be greater than or equal to 0");
        assert_eq!(messages[1], "Unsupported value: \"X\": supported values: \"ClusterIP\", \"NodePort\"");
    }

    #[test]
    fn long_values_are_cut_and_the_number_of_errors_is_bounded() {
        let mut errors = Errors::default();
        let path = Path::root("spec");
        for _ in 0..1000 {
            errors.invalid(&path, "x".repeat(100_000).as_str(), "is long");
        }
        let causes = errors.into_causes();
        assert_eq!(causes.len(), MOST);
        assert!(causes[0].message.len() < 400);
    }
}
