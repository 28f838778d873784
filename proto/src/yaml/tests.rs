use serde_json::{Value, json};

use super::*;

fn values(text: &str) -> Vec<Value> {
    documents(text).unwrap().into_iter().map(|document| document.value).collect()
}

#[test]
fn documents_know_where_they_and_their_fields_start() {
    let text = "\
# first comes a comment
---
kind: Pod
spec:
  containers:
  - name: a
    image: x # not y
  - name: b
    ports: [{containerPort: 80}]
---
---
# nothing here
---
kind: Service
metadata:
  labels:
    app.kubernetes.io/name: web
";
    let documents = documents(text).unwrap();
    assert_eq!(documents.iter().map(|document| document.line).collect::<Vec<_>>(), [3, 14]);
    for (path, line) in [
        ("", 3),
        ("spec", 4),
        ("spec.containers", 5),
        ("spec.containers[0]", 6),
        ("spec.containers[0].image", 7),
        ("spec.containers[1].ports[0].containerPort", 9),
        ("spec.containers[1].resources.limits", 8),
        ("spec.containers[7]", 5),
    ] {
        assert_eq!(documents[0].line_of(path), line, "{path}");
    }
    assert_eq!(documents[1].line_of("metadata.labels[app.kubernetes.io/name]"), 17);
}

#[test]
fn scalars_are_what_kubernetes_takes_them_for() {
    for (text, value) in [
        ("a: 0644", json!({"a": 420})),
        ("a: 0o644", json!({"a": 420})),
        ("a: 0x1F", json!({"a": 31})),
        ("a: '0644'", json!({"a": "0644"})),
        ("a: 1Gi", json!({"a": "1Gi"})),
        ("a: 0.5", json!({"a": 0.5})),
        ("a: 9223372036854775807", json!({"a": i64::MAX})),
        ("a: ~\nb: null\nc:", json!({"a": null, "b": null, "c": null})),
        ("a: yes\nb: off\nc: 'no'", json!({"a": true, "b": false, "c": "no"})),
        ("a: true\nb: 'true'", json!({"a": true, "b": "true"})),
        ("80: http\ntrue: x", json!({"80": "http", "true": "x"})),
        ("a: 2024-01-01T00:00:00Z", json!({"a": "2024-01-01T00:00:00Z"})),
        ("a: 1.2.3", json!({"a": "1.2.3"})),
        ("a: |\n  x\n  y\nb: >-\n  x\n  y", json!({"a": "x\ny\n", "b": "x y"})),
        ("a: \"\\u00e9\\n\"", json!({"a": "é\n"})),
        ("{\"a\": [1, {\"b\": null}]}", json!({"a": [1, {"b": null}]})),
        ("a: ''", json!({"a": ""})),
        ("a: {}\nb: []", json!({"a": {}, "b": []})),
    ] {
        assert_eq!(values(text), [value], "{text}");
    }
}

#[test]
fn anchors_aliases_and_merge_keys_are_resolved() {
    let text = "\
base: &base {cpu: 100m, memory: 1Gi}
same: *base
more:
  <<: *base
  cpu: 200m
";
    let expected = json!({
        "base": {"cpu": "100m", "memory": "1Gi"},
        "same": {"cpu": "100m", "memory": "1Gi"},
        "more": {"cpu": "200m", "memory": "1Gi"},
    });
    assert_eq!(values(text), [expected]);
}

#[test]
fn nothing_is_no_document() {
    for text in ["", "\n\n", "# only a comment\n", "---\n---\n", "null\n", "---\n~\n---\n# x\n"] {
        assert!(values(text).is_empty(), "{text:?}");
    }
}

#[test]
fn errors_say_where_they_are() {
    for (text, document, line) in [
        ("a: [1\nb: 2\n", 1, 2),
        ("a: 1\n---\nb: {\n", 2, 3),
        ("a: 1\n---\nb: 1\nb: 2\n", 2, 4),
        ("a: *nobody\n", 1, 1),
        ("a: .inf\n", 1, 1),
        ("{a: 1}: b\n", 1, 1),
    ] {
        let error = documents(text).unwrap_err();
        assert_eq!((error.document, error.line), (document, line), "{text:?}: {error}");
        assert_eq!(error.to_string().matches("line").count(), 1, "{error}");
    }
}

#[test]
fn bombs_are_refused() {
    let mut aliases = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let below = format!("*a{}", level - 1);
        aliases += &format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(", "));
    }
    assert!(documents(&aliases).is_err());
    assert!(documents(&format!("a: {}{}\n", "[".repeat(5_000), "]".repeat(5_000))).is_err());
    assert!(documents(&format!("a: {}{}\n", "[".repeat(90), "]".repeat(90))).is_ok());
    let nested: String = (0..5_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(documents(&nested).is_err());
}

#[test]
fn a_list_expands_into_its_items() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- kind: Pod\n  spec:\n    x: 1\n- kind: Service\n";
    let items = documents(text).unwrap().remove(0).expand();
    assert_eq!(
        items.iter().map(|item| (item.line, item.line_of("spec.x"))).collect::<Vec<_>>(),
        [(4, 6), (7, 7)]
    );
    assert_eq!(items[1].value, json!({"kind": "Service"}));
    let pod = documents("kind: Pod\nitems: 1\n").unwrap().remove(0);
    assert_eq!(pod.clone().expand(), [pod]);
}

#[test]
fn what_is_written_reads_back_the_same() {
    let value = json!({
        "strings": ["", "yes", "no", "on", "y", "0644", "1e3", "null", "~", "true", "1.0", " x", "x: y", "- x", "#x", "a\nb\n", "1_000",
            "2024-01-01", "0x1F", "é", "\u{7}", "'", "\"", "*a", "&a", "!a", "%a", "@a", "`a", "{", "[", "|", ">", "12:30:45", ".5", "-", "="],
        "numbers": [0, -1, 0.5, i64::MAX, 1e21],
        "empty": {"list": [], "map": {}, "null": null},
        "nested": [[1, [2]], {"a": [{"b": 1, "c": [2]}]}],
    });
    let text = to_string(&value);
    assert_eq!(values(&text), [value], "{text}");
}

#[test]
fn what_yaml_1_1_would_not_read_as_a_string_is_quoted() {
    for text in [
        "yes",
        "No",
        "on",
        "off",
        "y",
        "0644",
        "1e3",
        "null",
        "~",
        "true",
        "1.0",
        "0x1F",
        "12:30:45",
        "1_000",
        "2024-01-01",
        "=",
    ] {
        let written = to_string(&json!({"a": text}));
        assert!(
            written.contains(&format!("'{text}'")) || written.contains(&format!("\"{text}\"")),
            "{written}"
        );
    }
}
