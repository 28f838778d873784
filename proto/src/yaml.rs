//! YAML as people write manifests: many documents in a file, comments, anchors, merge keys.
//!
//! A value keeps the line it came from, so that whoever finds fault with a field can say where it stands. Aliases that
//! multiply into more than a manifest could need are refused, and so is nesting deeper than the API allows. Plain scalars
//! are read as Kubernetes reads them (YAML 1.1): `0644` is octal, `yes` and `on` are true.

mod tree;

use std::thread::{self, ScopedJoinHandle};

use serde_json::Value;
use serde_saphyr::{Budget, DuplicateKeyPolicy, Error, MergeKeyPolicy, Options};

use tree::{Lines, Node};

const STACK: usize = 16 << 20;

/// One document that is not empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Where it starts, from 1.
    pub line: usize,
    pub value: Value,
    lines: Lines,
}

impl Document {
    /// The line of the field at a path such as [`JsonError`](crate::JsonError) and unknown fields have:
    /// `spec.containers[0].image`. A path that leaves the document gives the line of its last step that exists.
    pub fn line_of(&self, path: &str) -> usize {
        self.lines.find(path)
    }

    /// The entries of a `List`, each as a document of its own; any other document is itself.
    pub fn expand(self) -> Vec<Self> {
        let is_list = self.value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind == "List");
        match (self.value, self.lines) {
            (Value::Object(mut map), mut lines) if is_list => {
                let Some(Value::Array(items)) = map.remove("items") else { return Vec::new() };
                let of_items = lines.take_items("items");
                let document = |(value, lines): (Value, Lines)| Self { line: lines.line, value, lines };
                items.into_iter().zip(of_items).map(document).collect()
            }
            (value, lines) => vec![Self { line: self.line, value, lines }],
        }
    }
}

/// What keeps a text from being YAML, or from being taken for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("document {document}, line {line}, column {column}: {message}")]
pub struct YamlError {
    /// From 1, as the separators count them; so are line and column.
    pub document: usize,
    pub line: usize,
    pub column: usize,
    pub message: String,
}

/// Every document that is not empty. JSON is YAML.
pub fn documents(text: &str) -> Result<Vec<Document>, YamlError> {
    // A level of nesting takes up to 30 KiB of stack, and the caller's may be any size.
    let nodes = thread::scope(|scope| {
        let parser = thread::Builder::new().name("yaml".to_owned()).stack_size(STACK);
        let parsed = parser.spawn_scoped(scope, || parse(text)).map(ScopedJoinHandle::join);
        parsed.unwrap_or_else(|error| Ok(Err(without_place(format!("no thread to parse on: {error}")))))
    });
    let nodes = nodes.unwrap_or_else(|_| Err(without_place("the parser failed".to_owned())))?;
    let document = |node: Node| {
        let (value, lines) = node.split();
        Document { line: lines.line, value, lines }
    };
    Ok(nodes.into_iter().filter(|node| !node.is_null()).map(document).collect())
}

fn parse(text: &str) -> Result<Vec<Node>, YamlError> {
    serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| failure(text, &error))
}

fn without_place(message: String) -> YamlError {
    YamlError { document: 1, line: 1, column: 1, message }
}

/// One document, keys in order, without a leading separator.
pub fn to_string(value: &Value) -> String {
    serde_saphyr::to_string(value).expect("JSON has nothing that YAML lacks")
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: budget(),
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Merge,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

/// Far above any manifest, far below what would hurt.
fn budget() -> Option<Budget> {
    serde_saphyr::budget! {
        max_depth: 100,
        max_nodes: 500_000,
        max_events: 2_000_000,
        max_documents: 10_000,
    }
}

fn failure(text: &str, error: &Error) -> YamlError {
    let location = error.location();
    let at = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).max(1);
    let (line, column) = location.map_or((1, 1), |location| (at(location.line()), at(location.column())));
    let message = error.to_string();
    let place = format!(" at line {line}, column {column}");
    let message = message.strip_suffix(&place).map_or(message.clone(), str::to_owned);
    YamlError { document: document_at(text, line), line, column, message }
}

/// Which document a line belongs to. A separator with nothing but comments before it starts the first.
fn document_at(text: &str, line: usize) -> usize {
    let mut document = 1;
    let mut content = false;
    for text in text.lines().take(line) {
        let separator =
            text.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        if separator {
            document += usize::from(content);
            content = true;
        } else {
            let trimmed = text.trim();
            content |= !trimmed.is_empty() && !trimmed.starts_with(['#', '%']);
        }
    }
    document
}

#[cfg(test)]
mod tests;
