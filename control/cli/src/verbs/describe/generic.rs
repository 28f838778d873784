//! Any kind: every field it has, indented, under titles made of the fields' names. Keys of maps stay as they are.

use serde_json::Value;
use weir_proto::Object;
use weir_proto::schema::{self, Holds, Message, Shape};

use super::{labels, line, time};

pub(super) fn describe(out: &mut String, object: &dyn Object) {
    let meta = object.meta();
    line!(out, "Name:\t{}", meta.name);
    if object.kind().namespaced {
        line!(out, "Namespace:\t{}", meta.namespace);
    }
    labels(out, meta);
    line!(out, "API Version:\t{}", object.kind().api_version());
    line!(out, "Kind:\t{}", object.kind().kind);
    line!(out, "Created:\t{}", time(meta.creation_timestamp));
    for owner in &meta.owner_references {
        line!(out, "Owner:\t{}/{}", owner.kind, owner.name);
    }
    let Value::Object(mut fields) = object.to_json() else { return };
    fields.retain(|field, _| !["apiVersion", "kind", "metadata"].contains(&field.as_str()));
    self::fields(out, 0, &fields, schema::of(object.kind()));
}

fn fields(
    out: &mut String,
    indent: usize,
    fields: &serde_json::Map<String, Value>,
    message: Option<&Message>,
) {
    for (name, value) in fields {
        let field = message.and_then(|message| message.field(name));
        let holds = match field.map(|field| field.holds) {
            Some(Holds::Message(next)) => Some(next),
            _ => None,
        };
        match (field.map(|field| field.shape), value) {
            (Some(Shape::Map), Value::Object(entries)) => {
                line!(out, "{}{}:", "  ".repeat(indent), title(name));
                entries.iter().for_each(|(key, value)| section(out, indent + 1, key, value, holds));
            }
            (None, value) => section(out, indent, name, value, None),
            (Some(_), value) => section(out, indent, &title(name), value, holds),
        }
    }
}

fn section(out: &mut String, indent: usize, title: &str, value: &Value, message: Option<&Message>) {
    let margin = "  ".repeat(indent);
    match value {
        Value::Object(fields) => {
            line!(out, "{margin}{title}:");
            self::fields(out, indent + 1, fields, message);
        }
        Value::Array(elements) if elements.iter().any(Value::is_object) => {
            for element in elements {
                let named = ["name", "type", "ip"].iter().find_map(|field| element[*field].as_str());
                let title = named.map(|name| format!("{title} {name}")).unwrap_or_else(|| title.to_owned());
                section(out, indent, &title, element, message);
            }
        }
        Value::Array(elements) => {
            let words: Vec<String> = elements.iter().map(scalar).collect();
            line!(out, "{margin}{title}:\t{}", words.join(", "));
        }
        Value::String(text) if text.trim_end().contains('\n') => {
            line!(out, "{margin}{title}:");
            text.lines().for_each(|text| line!(out, "{margin}  {}", text.replace('\t', "    ")));
        }
        value => line!(out, "{margin}{title}:\t{}", scalar(value)),
    }
}

fn scalar(value: &Value) -> String {
    value.as_str().map(|text| text.trim_end().to_owned()).unwrap_or_else(|| value.to_string())
}

/// `terminationGracePeriodSeconds` → `Termination Grace Period Seconds`.
fn title(field: &str) -> String {
    let mut title = String::new();
    let mut before_is_lower = false;
    for (at, character) in field.chars().enumerate() {
        if character.is_ascii_uppercase() && before_is_lower {
            title.push(' ');
        }
        before_is_lower = character.is_ascii_lowercase() || character.is_ascii_digit();
        match at {
            0 => title.push(character.to_ascii_uppercase()),
            _ => title.push(character),
        }
    }
    title
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_become_words() {
        assert_eq!(title("terminationGracePeriodSeconds"), "Termination Grace Period Seconds");
        assert_eq!(title("podIP"), "Pod IP");
    }
}
