//! What fields the kinds have, of which type, and what their comments say: for explaining, and for finding the field
//! that somebody meant.

use std::fmt;

use crate::kind::{Kind, edit_distance};

pub struct Message {
    /// "k8s.core.v1"
    pub package: &'static str,
    pub name: &'static str,
    /// One paragraph, "" where nothing is said.
    pub comment: &'static str,
    pub fields: &'static [Field],
}

pub struct Field {
    /// As in JSON.
    pub name: &'static str,
    pub comment: &'static str,
    pub shape: Shape,
    pub holds: Holds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    One,
    List,
    /// By string.
    Map,
}

#[derive(Debug, Clone, Copy)]
pub enum Holds {
    /// "string", "integer", "boolean", "base64", or a type with a form of its own: "Quantity", "Time", ….
    Scalar(&'static str),
    Message(&'static Message),
}

/// The message of a kind; None for bodies of subresources that carry none.
pub fn of(kind: &Kind) -> Option<&'static Message> {
    // "core.v1.Pod"; groups are shortened to their first word in package names, but for the core and the dataplane's.
    let package = match kind.group.split('.').next().unwrap_or_default() {
        "" => "core",
        first => first,
    };
    let name = format!("{package}.{}.{}", kind.version, kind.kind);
    OF_KINDS.iter().find(|(known, _)| *known == name).map(|(_, message)| *message)
}

impl Message {
    /// This message and all that it is made of, each once.
    pub fn reachable(&'static self) -> Vec<&'static Message> {
        let mut found = vec![self];
        let mut next = 0;
        while let Some(message) = found.get(next) {
            next += 1;
            for field in message.fields {
                if let Holds::Message(below) = field.holds
                    && !found.iter().any(|known| std::ptr::eq(*known, below))
                {
                    found.push(below);
                }
            }
        }
        found
    }

    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The field whose name is most like `word`, where one is: case aside, at most half of it may differ.
    pub fn nearest(&self, word: &str) -> Option<&'static str> {
        let lower = word.to_lowercase();
        let distance = |field: &Field| edit_distance(&lower, &field.name.to_lowercase());
        let (distance, name) = self.fields.iter().map(|field| (distance(field), field.name)).min()?;
        (distance * 2 <= word.len()).then_some(name)
    }

    /// The message that holds the last step of a path such as `spec.containers[0].image`; None where the path leads
    /// nowhere before.
    pub fn holder(&'static self, path: &str) -> Option<&'static Message> {
        let Some((way, _)) = path.rsplit_once('.') else { return Some(self) };
        way.split('.').try_fold(self, |message, step| {
            let name = step.split('[').next().unwrap_or(step);
            match message.field(name)?.holds {
                Holds::Message(next) => Some(next),
                Holds::Scalar(_) => None,
            }
        })
    }
}

impl Field {
    /// "string", "[]Container", "map[string]Quantity".
    pub fn type_name(&self) -> String {
        let name = match self.holds {
            Holds::Scalar(name) => name,
            Holds::Message(message) => message.name,
        };
        match self.shape {
            Shape::One => name.to_owned(),
            Shape::List => format!("[]{name}"),
            Shape::Map => format!("map[string]{name}"),
        }
    }
}

// Messages may hold themselves: only their names are shown.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.type_name())
    }
}

include!(concat!(env!("OUT_DIR"), "/schema.rs"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{kinds, resolve};

    #[test]
    fn every_kind_has_its_message_with_the_fields_that_its_json_has() {
        for kind in kinds() {
            let message = of(kind).unwrap_or_else(|| panic!("{kind}"));
            assert_eq!(message.name, kind.kind);
            assert!(message.field("metadata").is_some(), "{kind}");
        }
    }

    #[test]
    fn types_and_comments_are_those_of_the_declaration() {
        let pod = of(resolve("pod").unwrap()).unwrap();
        assert_eq!(pod.comment, "Containers that share a network, a node and a fate.");
        let spec = pod.holder("spec.containers").unwrap();
        let shown = |name| spec.field(name).unwrap().type_name();
        assert_eq!(shown("containers"), "[]Container");
        assert_eq!(shown("terminationGracePeriodSeconds"), "integer");
        assert_eq!(shown("nodeSelector"), "map[string]string");
        assert!(spec.field("terminationGracePeriodSeconds").unwrap().comment.contains("SIGKILL"));
        let resources = pod.holder("spec.containers[0].resources.limits").unwrap();
        assert_eq!(resources.field("limits").unwrap().type_name(), "map[string]Quantity");
    }

    #[test]
    fn a_field_that_is_misspelt_is_found() {
        let pod = of(resolve("pod").unwrap()).unwrap();
        for (path, word, nearest) in [
            ("spec.nodename", "nodename", Some("nodeName")),
            ("spec.containers[0].imagee", "imagee", Some("image")),
            ("sepc", "sepc", Some("spec")),
            ("spec.containers[0].zzz", "zzz", None),
        ] {
            assert_eq!(pod.holder(path).and_then(|message| message.nearest(word)), nearest, "{path}");
        }
        assert!(pod.holder("spec.nowhere.x").is_none());
    }
}
