//! `weir describe`: one object in full, for people, with its events.

use anyhow::Result;
use serde_json::Value;
use weir_client::ListOptions;
use weir_proto::Object;
use weir_proto::core::v1::Event;
use weir_proto::meta::v1::Time;
use weir_proto::table::human_duration;

use crate::arguments::Describe;
use crate::output::Grid;
use crate::session::Session;
use crate::target;

pub(crate) async fn run(session: &Session, options: &Describe) -> Result<()> {
    let mut objects = Vec::new();
    for target in target::parse(&options.targets)? {
        let api = session.api(target.kind, "");
        match &target.name {
            Some(name) => objects.push(api.get(name).await?),
            None => objects.extend(api.list(&ListOptions::labels(options.selector.as_str())).await?.items),
        }
    }
    for (number, object) in objects.iter().enumerate() {
        if number > 0 {
            println!("\n");
        }
        print!("{}", text(object.as_ref()));
        events(session, object.as_ref()).await?;
    }
    Ok(())
}

/// Name, namespace, labels and annotations first; then the rest of the object, indented.
fn text(object: &dyn Object) -> String {
    let mut lines = Vec::new();
    let meta = object.meta();
    lines.push(format!("Name:         {}", meta.name));
    if object.kind().namespaced {
        lines.push(format!("Namespace:    {}", meta.namespace));
    }
    let pairs = |title: &str, map: &std::collections::BTreeMap<String, String>, lines: &mut Vec<String>| {
        let mut title = format!("{title}:");
        let shown = map.iter().filter(|(key, _)| !key.ends_with("last-applied-configuration"));
        for (key, value) in shown {
            lines.push(format!("{title:<13} {key}={value}"));
            title.clear();
        }
        if !title.is_empty() {
            lines.push(format!("{title:<13} <none>"));
        }
    };
    pairs("Labels", &meta.labels, &mut lines);
    pairs("Annotations", &meta.annotations, &mut lines);
    for owner in &meta.owner_references {
        lines.push(format!("Owner:        {}/{}", owner.kind, owner.name));
    }
    if let Value::Object(fields) = object.to_json() {
        if let Some(created) = fields.get("metadata").and_then(|meta| meta.get("creationTimestamp")) {
            lines.push(format!("Created:      {}", created.as_str().unwrap_or_default()));
        }
        for (field, value) in
            fields.iter().filter(|(field, _)| !["apiVersion", "kind", "metadata"].contains(&field.as_str()))
        {
            section(0, &title(field), value, &mut lines);
        }
    }
    lines.join("\n") + "\n"
}

fn section(indent: usize, title: &str, value: &Value, lines: &mut Vec<String>) {
    let margin = "  ".repeat(indent);
    match value {
        Value::Object(fields) => {
            lines.push(format!("{margin}{title}:"));
            for (field, value) in fields {
                section(indent + 1, &self::title(field), value, lines);
            }
        }
        Value::Array(elements) if elements.iter().any(Value::is_object) => {
            for element in elements {
                let named = ["name", "type", "ip"].iter().find_map(|field| element[*field].as_str());
                let title = named.map(|name| format!("{title} {name}")).unwrap_or_else(|| title.to_owned());
                section(indent, &title, element, lines);
            }
        }
        Value::Array(elements) => {
            let words: Vec<String> = elements.iter().map(scalar).collect();
            lines.push(format!("{margin}{title}:  {}", words.join(", ")));
        }
        value => lines.push(format!("{margin}{title}:  {}", scalar(value))),
    }
}

fn scalar(value: &Value) -> String {
    value.as_str().map(str::to_owned).unwrap_or_else(|| value.to_string())
}

/// `terminationGracePeriodSeconds` → `Termination Grace Period Seconds`; names that are not words stay as they are.
fn title(field: &str) -> String {
    if !field.chars().all(|character| character.is_ascii_alphanumeric()) {
        return field.to_owned();
    }
    let mut title = String::new();
    let mut before_is_lower = false;
    for (at, character) in field.chars().enumerate() {
        if character.is_ascii_uppercase() && before_is_lower {
            title.push(' ');
        }
        before_is_lower = character.is_ascii_lowercase();
        title.push(if at == 0 { character.to_ascii_uppercase() } else { character });
    }
    title
}

/// The object's events, oldest first, with how often and since when.
async fn events(session: &Session, object: &dyn Object) -> Result<()> {
    let meta = object.meta();
    let selector = format!("involvedObject.kind={},involvedObject.name={}", object.kind().kind, meta.name);
    let api = session.client.namespaced::<Event>(if meta.namespace.is_empty() {
        "default"
    } else {
        &meta.namespace
    });
    let mut events = api.list(&ListOptions::fields(selector)).await?.items;
    // A namesake that is gone has events too.
    events.retain(|event| {
        event.involved_object.as_ref().is_none_or(|about| about.uid.is_empty() || about.uid == meta.uid)
    });
    if events.is_empty() {
        println!("Events:       <none>");
        return Ok(());
    }
    events.sort_by_key(|event| event.last_timestamp.map(|time| time.unix()));
    let header = ["  Type", "Reason", "Age", "From", "Message"];
    let mut grid = Grid::new(header.map(str::to_owned).to_vec());
    let now = Time::now();
    let age = |time: Time| human_duration(now.unix().saturating_sub(time.unix()));
    for event in events {
        let last = event.last_timestamp.map(age).unwrap_or_default();
        let seen = match (event.count, event.first_timestamp) {
            (count, Some(first)) if count > 1 => format!("{last} (x{count} over {})", age(first)),
            _ => last,
        };
        let from = event.source.map(|source| source.component).unwrap_or_default();
        grid.push(vec![format!("  {}", event.r#type), event.reason, seen, from, event.message]);
    }
    print!("Events:\n{grid}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_become_words() {
        assert_eq!(title("terminationGracePeriodSeconds"), "Termination Grace Period Seconds");
        assert_eq!(title("podIP"), "Pod IP");
        assert_eq!(title("app.kubernetes.io/name"), "app.kubernetes.io/name");
    }
}
