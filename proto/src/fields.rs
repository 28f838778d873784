//! Field selectors: "status.phase!=Running,metadata.name=web-1". A kind declares which fields they may name.

use crate::kind::Kind;
use crate::object::Object;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("field selector {term:?} is not FIELD=VALUE or FIELD!=VALUE")]
    Syntax { term: String },
    #[error("field {path:?} cannot be selected by; {kind} can by {}", supported.join(", "))]
    Unsupported { path: String, kind: &'static str, supported: Vec<&'static str> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// JSON path.
    pub path: String,
    /// False: the value must differ.
    pub equal: bool,
    pub value: String,
}

/// All requirements must hold; without any, everything matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    pub requirements: Vec<Requirement>,
}

const ALWAYS: [&str; 2] = ["metadata.name", "metadata.namespace"];

impl Selector {
    /// "a=b", "a==b", "a!=b", joined by commas; a backslash before `\`, `,` and `=` takes their meaning.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let terms = split(text).into_iter().filter(|term| !term.trim().is_empty());
        Ok(Self { requirements: terms.map(|term| requirement(&term)).collect::<Result<_, _>>()? })
    }

    /// Refuses fields that objects of the kind cannot be selected by.
    pub fn check(&self, kind: &'static Kind) -> Result<(), SelectorError> {
        let supported: Vec<_> = ALWAYS.into_iter().chain(kind.selectable_fields.iter().copied()).collect();
        match self.requirements.iter().find(|requirement| !supported.contains(&requirement.path.as_str())) {
            None => Ok(()),
            Some(Requirement { path, .. }) => {
                Err(SelectorError::Unsupported { path: path.clone(), kind: kind.plural, supported })
            }
        }
    }

    /// A field that cannot be selected by matches nothing; see [`Selector::check`].
    pub fn matches(&self, object: &dyn Object) -> bool {
        self.requirements.iter().all(|Requirement { path, equal, value }| {
            object.field(path).is_some_and(|found| (found == value.as_str()) == *equal)
        })
    }

    /// The value that the field must have, if the selector pins it: "spec.nodeName" of a node's pods.
    pub fn pinned(&self, path: &str) -> Option<&str> {
        let pins = |requirement: &&Requirement| requirement.equal && requirement.path == path;
        self.requirements.iter().find(pins).map(|requirement| requirement.value.as_str())
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

/// At commas that no backslash precedes; the backslashes stay.
fn split(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        match terms.last_mut() {
            Some(term) if c != ',' || escaped => term.push(c),
            _ => terms.push(String::new()),
        }
        escaped = c == '\\' && !escaped;
    }
    terms
}

fn requirement(term: &str) -> Result<Requirement, SelectorError> {
    let wrong = || SelectorError::Syntax { term: term.to_owned() };
    let (path, value) = term.split_once('=').ok_or_else(wrong)?;
    let (path, equal) = path.strip_suffix('!').map_or((path, true), |path| (path, false));
    let value = if equal { value.strip_prefix('=').unwrap_or(value) } else { value };
    let path = path.trim();
    if path.is_empty() {
        return Err(wrong());
    }
    let value = unescape(value.trim()).ok_or_else(wrong)?;
    Ok(Requirement { path: path.to_owned(), equal, value })
}

fn unescape(text: &str) -> Option<String> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next().filter(|next| matches!(next, '\\' | ',' | '='))?),
            '=' => return None,
            other => plain.push(other),
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::v1::{Event, Node, Pod};
    use crate::object::Resource;

    fn pod() -> Pod {
        let mut pod = Pod::default();
        pod.meta_mut().name = "web-1".to_owned();
        pod.spec_mut().node_name = "n1".to_owned();
        pod.status_mut().phase = "Running".to_owned();
        pod
    }

    #[test]
    fn fields_are_compared_as_text() {
        for (selector, expected) in [
            ("", true),
            ("metadata.name=web-1,spec.nodeName==n1", true),
            ("status.phase!=Running", false),
            ("status.podIP=", true),
            ("spec.hostNetwork=false", true),
            ("metadata.namespace!=a\\,b", true),
            ("spec.containers=x", false),
        ] {
            assert_eq!(Selector::parse(selector).unwrap().matches(&pod()), expected, "{selector}");
        }
        let mut node = Node::default();
        node.spec_mut().unschedulable = true;
        assert!(Selector::parse("spec.unschedulable=true").unwrap().matches(&node));
    }

    #[test]
    fn malformed_and_unsupported_selectors_are_refused() {
        for selector in ["metadata.name", "=x", "a=b=c", "a=\\x"] {
            assert!(Selector::parse(selector).is_err(), "{selector}");
        }
        let selector = Selector::parse("involvedObject.name=x").unwrap();
        assert!(selector.check(Event::KIND).is_ok());
        assert!(selector.check(Pod::KIND).unwrap_err().to_string().contains("spec.nodeName"));
    }

    #[test]
    fn a_pinned_field_is_found() {
        let selector = Selector::parse("spec.nodeName=n1,status.phase!=Failed").unwrap();
        assert_eq!(selector.pinned("spec.nodeName"), Some("n1"));
        assert_eq!(selector.pinned("status.phase"), None);
    }
}
