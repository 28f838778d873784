//! Manifests: YAML and JSON to values, to objects, and back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use weir_proto::{Kind, find, table, yaml};

fuzz_target!(|text: &str| {
    if let Ok(documents) = yaml::documents(text) {
        // To YAML a carriage return alone ends a line too.
        let lines = text.split(['\r', '\n']).count();
        for document in documents {
            survives_printing(&document.value);
            for document in document.expand() {
                let exists = |path: &str| (1..=lines).contains(&document.line_of(path));
                object(&document.value, exists);
            }
        }
    }
    if let Ok(value) = serde_json::from_str(text) {
        object(&value, |_| true);
    }
});

fn survives_printing(value: &Value) {
    let printed = yaml::to_string(value);
    let again = yaml::documents(&printed).unwrap_or_else(|error| panic!("{error} in\n{printed}"));
    let again: Vec<Value> = again.into_iter().map(|document| document.value).collect();
    assert_eq!(again, [value.clone()], "{printed}");
}

/// Whatever is read, is read again from what it prints, and from its protobuf. What is found fault with has a place.
fn object(value: &Value, exists: impl Fn(&str) -> bool) {
    let Some(kind) = kind_of(value) else { return };
    let mut unknown = Vec::new();
    match kind.from_json(value, &mut unknown) {
        Err(error) => assert!(exists(&error.path), "{error}"),
        Ok(object) => {
            for path in &unknown {
                assert!(exists(path), "{path}");
            }
            let json = object.to_json();
            let mut unknown = Vec::new();
            let again = kind.from_json(&json, &mut unknown).unwrap_or_else(|error| panic!("{error}: {json}"));
            assert_eq!((again.to_json(), unknown), (json.clone(), Vec::new()));
            let decoded = kind.decode(&object.encode()).expect("what was encoded is decoded");
            assert_eq!(decoded.to_json(), json);
            let now = serde_json::from_str("\"2024-01-01T00:00:00Z\"").expect("a time");
            assert_eq!(table::cells(object.as_ref(), now, true).len(), table::header(kind, true).len());
        }
    }
}

fn kind_of(value: &Value) -> Option<&'static Kind> {
    let text = |field| value.get(field).and_then(Value::as_str);
    let (group, version) = text("apiVersion").map(|both| both.split_once('/').unwrap_or(("", both)))?;
    find(group, version, text("kind")?)
}
