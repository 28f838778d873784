//! JSON patches and merge patches: a patch from one document to another leads there, whatever they are; any patch ends.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use weir_document::patch::{Patch, PatchError, PatchType};
use weir_fuzz::{Change, Document, text_and};

#[derive(Debug, Arbitrary)]
struct Input {
    from: Document,
    to: Document,
    change: Change,
}

fuzz_target!(|input: &[u8]| {
    let Some((text, input)) = text_and::<Input>(input) else { return };
    let (from, to, change) = (input.from.0, input.to.0, input.change.0);
    let mut operations = Vec::new();
    operations_between(&from, &to, String::new(), &mut operations);
    assert_eq!(applied(PatchType::Json, &Value::Array(operations), &from).ok().as_ref(), Some(&to));

    if change.is_object() {
        let once = applied(PatchType::Merge, &change, &from).expect("merging fails never");
        assert_eq!(once, merged(Some(&from), &change));
        assert_eq!(applied(PatchType::Merge, &change, &once).ok().as_ref(), Some(&once), "twice is once");
    }
    if let (Value::Object(_), Some(patch @ Value::Object(_))) = (&from, difference(&from, &to)) {
        assert_eq!(applied(PatchType::Merge, &patch, &from).ok().as_ref(), Some(&to), "{patch}");
    }

    for patch_type in [PatchType::Json, PatchType::Merge] {
        if let Ok(patch) = Patch::read(patch_type, text.as_bytes()) {
            patch.apply(&mut from.clone()).ok();
        }
    }
});

fn applied(patch_type: PatchType, patch: &Value, document: &Value) -> Result<Value, PatchError> {
    let mut document = document.clone();
    Patch::read(patch_type, patch.to_string().as_bytes())?.apply(&mut document)?;
    Ok(document)
}

/// RFC 7386, section 2, as it stands there.
fn merged(target: Option<&Value>, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = target.and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            let new = merged(target.get(name), value);
            target.insert(name.clone(), new);
        }
    }
    Value::Object(target)
}

/// The merge patch between two documents without nulls; None where they are equal.
fn difference(from: &Value, to: &Value) -> Option<Value> {
    let (Value::Object(from), Value::Object(to)) = (from, to) else {
        return (from != to).then(|| to.clone());
    };
    let mut patch: Map<String, Value> =
        from.keys().filter(|name| !to.contains_key(*name)).map(|name| (name.clone(), Value::Null)).collect();
    for (name, value) in to {
        let change = match from.get(name) {
            None => Some(value.clone()),
            // An object in place of something else is merged into nothing, and so is itself.
            Some(old) => difference(old, value),
        };
        patch.extend(change.map(|change| (name.clone(), change)));
    }
    Some(Value::Object(patch))
}

/// Operations that lead from one document to the other, each of its own kind where there is a choice.
fn operations_between(from: &Value, to: &Value, at: String, operations: &mut Vec<Value>) {
    match (from, to) {
        _ if from == to => operations.push(json!({"op": "test", "path": at, "value": to})),
        (Value::Object(old), Value::Object(new)) => {
            let below = |name: &String| format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
            for name in old.keys().filter(|name| !new.contains_key(*name)) {
                operations.push(json!({"op": "remove", "path": below(name)}));
            }
            for (name, value) in new {
                match old.get(name) {
                    Some(old) => operations_between(old, value, below(name), operations),
                    None => operations.push(json!({"op": "add", "path": below(name), "value": value})),
                }
            }
        }
        (Value::Array(old), Value::Array(new)) if new.starts_with(old) => {
            let more = new.iter().skip(old.len());
            operations
                .extend(more.map(|value| json!({"op": "add", "path": format!("{at}/-"), "value": value})));
        }
        _ => operations.push(json!({"op": "replace", "path": at, "value": to})),
    }
}
