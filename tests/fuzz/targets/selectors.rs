//! Selectors of labels and of fields, as text and as requirements, against the plainest reading of each.

#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use weir_fuzz::text_and;
use weir_proto::{Object, fields, find, labels};

const KEYS: &[&str] =
    &["app", "example.com/tier", "in", "notin", "x", "metadata.name", "spec.nodeName", "status.phase"];
const VALUES: &[&str] = &["", "web", "in", "7", "-1", "9999999999999999999", "a,b", "a=b", "\\", "false"];

#[derive(Debug, Arbitrary)]
struct Input {
    labels: Vec<(u8, u8)>,
    wanted: Vec<Wanted>,
}

#[derive(Debug, Arbitrary)]
struct Wanted {
    key: u8,
    operator: u8,
    values: Vec<u8>,
}

fuzz_target!(|input: &[u8]| {
    let Some((text, input)) = text_and::<Input>(input) else { return };
    let labels: BTreeMap<String, String> =
        input.labels.iter().map(|(key, value)| (pick(KEYS, *key), pick(VALUES, *value))).collect();
    label_text(text, &labels);
    field_text(text, &labels);
    for wanted in &input.wanted {
        label_requirement(wanted, &labels);
        field_requirement(wanted, &labels);
    }
});

fn pick(from: &[&str], index: u8) -> String {
    from[usize::from(index) % from.len()].to_owned()
}

/// What is parsed is printed as something that means the same.
fn label_text(text: &str, labels: &BTreeMap<String, String>) {
    let Ok(selector) = labels::Selector::parse(text) else { return };
    let printed = selector.to_string();
    assert_eq!(
        labels::Selector::parse(&printed).as_ref(),
        Ok(&selector),
        "{text:?} is printed as {printed:?}"
    );
    assert_eq!(selector.matches(labels), selector.requirements.iter().all(|one| holds(one, labels)));
}

fn label_requirement(wanted: &Wanted, labels: &BTreeMap<String, String>) {
    let operator = pick(&["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"], wanted.operator);
    let values: Vec<String> = wanted.values.iter().map(|value| pick(VALUES, *value)).collect();
    let Ok(requirement) = labels::Requirement::new(&pick(KEYS, wanted.key), &operator, values) else {
        return;
    };
    assert_eq!(requirement.matches(labels), holds(&requirement, labels), "{requirement:?} of {labels:?}");
}

fn holds(
    labels::Requirement { key, operator, values }: &labels::Requirement,
    labels: &BTreeMap<String, String>,
) -> bool {
    use labels::Operator::{DoesNotExist, Exists, Gt, In, Lt, NotIn};
    let number = |text: &String| text.parse::<i64>().ok();
    match (operator, labels.get(key)) {
        (In, None) | (Exists, None) | (Gt | Lt, None) => false,
        (NotIn | DoesNotExist, None) | (Exists, Some(_)) => true,
        (DoesNotExist, Some(_)) => false,
        (In, Some(found)) => values.iter().any(|value| value == found),
        (NotIn, Some(found)) => values.iter().all(|value| value != found),
        (Gt, Some(found)) => {
            number(found).zip(number(&values[0])).is_some_and(|(found, bound)| found > bound)
        }
        (Lt, Some(found)) => {
            number(found).zip(number(&values[0])).is_some_and(|(found, bound)| found < bound)
        }
    }
}

/// A pod whose fields have the labels' values.
fn pod(values: &BTreeMap<String, String>) -> Box<dyn Object> {
    let of = |path: &str| values.get(path).cloned().unwrap_or_default();
    let json = json!({
        "metadata": {"name": of("metadata.name")},
        "spec": {"nodeName": of("spec.nodeName"), "hostNetwork": values.contains_key("app")},
        "status": {"phase": of("status.phase")},
    });
    let kind = find("", "v1", "Pod").expect("there are pods");
    kind.from_json(&json, &mut Vec::new()).expect("a pod")
}

fn field_text(text: &str, values: &BTreeMap<String, String>) {
    let Ok(selector) = fields::Selector::parse(text) else { return };
    let pod = pod(values);
    let served = selector.check(pod.kind()).is_ok();
    let mut all = true;
    for fields::Requirement { path, equal, value } in &selector.requirements {
        all &= served && (field(pod.as_ref(), path) == *value) == *equal;
    }
    // What cannot be selected by is refused before anything is compared.
    assert!(!served || selector.matches(pod.as_ref()) == all, "{text:?}");
}

fn field_requirement(wanted: &Wanted, values: &BTreeMap<String, String>) {
    let (path, value) =
        (pick(KEYS, wanted.key), pick(VALUES, wanted.values.first().copied().unwrap_or_default()));
    let equal = wanted.operator % 2 == 0;
    let escaped = value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
    let text = format!("{path}{}{escaped}", if equal { "=" } else { "!=" });
    let selector = fields::Selector::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(selector.requirements, [fields::Requirement { path, equal, value }], "{text:?}");
    field_text(&text, values);
}

/// As the pod's JSON has it; what is absent there is the type's zero.
fn field(object: &dyn Object, path: &str) -> String {
    let json = object.to_json();
    match path.split('.').try_fold(&json, |value, step| value.get(step)) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None if path == "spec.hostNetwork" => "false".to_owned(),
        None => String::new(),
    }
}
