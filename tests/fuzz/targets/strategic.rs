//! Strategic merge patches and the three-way merge of `apply`, on pods' lists of named things.

#![no_main]

use std::collections::BTreeSet;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use weir_document::patch::{Patch, PatchType, three_way};
use weir_fuzz::{Change, Document, text_and};

#[derive(Debug, Arbitrary)]
struct Input {
    from: Vec<Named>,
    to: Vec<Named>,
    document: Document,
    change: Change,
}

#[derive(Debug, Arbitrary)]
struct Named {
    name: u8,
    image: Option<u8>,
    env: Vec<(u8, u8)>,
}

fuzz_target!(|input: &[u8]| {
    let Some((text, input)) = text_and::<Input>(input) else { return };
    let (from, to) = (pod(&input.from), pod(&input.to));
    let patch = json!({"spec": difference(&from["spec"], &to["spec"])});
    let patched = merged(&from, &patch);
    assert_eq!(patched.as_ref(), Some(&to), "{patch}");
    assert_eq!(merged(&to, &patch).as_ref(), Some(&to), "twice is once: {patch}");

    assert_eq!(three_way(Some(&from), &to, &from), to, "what one has applied alone is what one applies next");
    let others = three_way(None, &to, &from);
    assert_eq!(three_way(Some(&to), &to, &others), others, "twice is once");

    // Where nothing has a merge key, a strategic merge is a merge.
    let (document, change) = (input.document.0, input.change.0);
    if change.is_object() {
        let mut plain = document.clone();
        let merge = Patch::Merge(change.clone());
        merge.apply(&mut plain).expect("merging fails never");
        assert_eq!(merged(&document, &change), Some(plain));
    }

    if let Ok(patch) = Patch::read(PatchType::Strategic, text.as_bytes()) {
        patch.apply(&mut from.clone()).ok();
        patch.apply(&mut document.clone()).ok();
    }
});

fn merged(document: &Value, patch: &Value) -> Option<Value> {
    let mut document = document.clone();
    Patch::Strategic(patch.clone()).apply(&mut document).ok()?;
    Some(document)
}

/// A pod with a container of each name, each with a variable of each name.
fn pod(containers: &[Named]) -> Value {
    let mut names = BTreeSet::new();
    let containers: Vec<Value> = containers
        .iter()
        .filter(|container| names.insert(container.name % 5))
        .map(|Named { name, image, env }| {
            let mut names = BTreeSet::new();
            let env = env.iter().filter(|(name, _)| names.insert(name % 5));
            let env: Vec<_> = env
                .map(|(name, value)| json!({"name": format!("E{}", name % 5), "value": value % 3}))
                .collect();
            let mut container = json!({"name": format!("c{}", name % 5), "env": env});
            if let Some(image) = image {
                container["image"] = json!(image % 3);
            }
            container
        })
        .collect();
    json!({"spec": {"containers": containers}})
}

/// The strategic merge patch from one object to another, as kubectl would make it.
fn difference(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut patch = Map::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (field, value) in to {
        match (from.get(field), value) {
            (Some(Value::Array(old)), Value::Array(new)) => {
                let (order, changes) = elements(old, new);
                patch.insert(format!("$setElementOrder/{field}"), Value::Array(order));
                patch.insert(field.clone(), Value::Array(changes));
            }
            (Some(old), value) if old == value => {}
            _ => {
                patch.insert(field.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}

fn elements(old: &[Value], new: &[Value]) -> (Vec<Value>, Vec<Value>) {
    let named = |list: &[Value], name: &Value| list.iter().find(|element| element["name"] == *name).cloned();
    let order = new.iter().map(|element| json!({"name": element["name"]})).collect();
    let gone = old.iter().filter(|element| named(new, &element["name"]).is_none());
    let mut changes: Vec<Value> =
        gone.map(|element| json!({"name": element["name"], "$patch": "delete"})).collect();
    for element in new {
        match named(old, &element["name"]) {
            None => changes.push(element.clone()),
            Some(old) => {
                let mut change = difference(&old, element);
                change["name"] = element["name"].clone();
                changes.push(change);
            }
        }
    }
    (order, changes)
}
