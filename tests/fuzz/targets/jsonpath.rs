//! JSONPath: any template over any document, and plain paths against JSON pointers.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use weir_document::jsonpath::{Path, Template};
use weir_fuzz::{Document, text_and};

#[derive(Debug, Arbitrary)]
struct Input {
    document: Document,
    way: Vec<u8>,
}

fuzz_target!(|input: &[u8]| {
    let Some((text, input)) = text_and::<Input>(input) else { return };
    let document = json!({"kind": "List", "items": [input.document.0, {"spec": {"a": [1, 2, {"b": "x"}]}}]});
    along(&document, &input.way);
    if let Ok(template) = Template::parse(text) {
        let rendered = template.render(&document);
        assert_eq!(rendered, template.render(&document));
        if !text.contains('{') {
            assert_eq!(rendered.as_deref(), Ok(text));
        }
        if let Ok(values) = template.values(&document) {
            for value in values {
                assert!(is_within(value, &document) || is_literal(value), "{value}");
            }
        }
    }
    if let Ok(path) = Path::parse_relaxed(text) {
        path.find(&document).ok();
    }
});

/// Goes down the document and finds the same value by a path, with its names in both of their spellings.
fn along(document: &Value, way: &[u8]) {
    let (mut value, mut dotted, mut quoted) = (document, String::from("$"), String::from("$"));
    for choice in way {
        let choice = usize::from(*choice);
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                let Some((name, field)) = fields.iter().nth(choice % fields.len()) else { return };
                // A name of no characters cannot be written; one with a dot in brackets is a path where no such field is.
                if name.is_empty() {
                    return;
                }
                let escaped: String = name.chars().flat_map(|one| ['\\', one]).collect();
                dotted.push_str(&format!(".{escaped}"));
                quoted.push_str(&format!("['{name}']"));
                value = field;
            }
            Value::Array(list) if !list.is_empty() => {
                let index = choice % list.len();
                dotted.push_str(&format!("[{index}]"));
                quoted.push_str(&format!("[{}]", index as i64 - list.len() as i64));
                value = &list[index];
            }
            _ => break,
        }
    }
    for text in [dotted, quoted] {
        let found = Path::parse_relaxed(&text).unwrap_or_else(|error| panic!("{error}")).find(document);
        assert_eq!(found, Ok(vec![value]), "{text}");
    }
}

fn is_within(value: &Value, document: &Value) -> bool {
    std::ptr::eq(value, document)
        || match document {
            Value::Array(list) => list.iter().any(|below| is_within(value, below)),
            Value::Object(fields) => fields.values().any(|below| is_within(value, below)),
            _ => false,
        }
}

fn is_literal(value: &Value) -> bool {
    !value.is_array() && !value.is_object()
}
