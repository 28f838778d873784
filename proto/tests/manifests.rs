//! Manifests as people write them: everything in them is understood, and nothing is lost on the way.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weir_proto::meta::v1::Time;
use weir_proto::{IntOrString, Kind, Object, Quantity, Resource, find, kinds, resolve, yaml};

fn kind_of(value: &Value) -> &'static Kind {
    let text = |field: &str| value[field].as_str().unwrap();
    let (group, version) = text("apiVersion").rsplit_once('/').unwrap_or(("", text("apiVersion")));
    find(group, version, text("kind")).unwrap_or_else(|| panic!("{group} {version} {}", text("kind")))
}

fn read(value: &Value) -> Box<dyn Object> {
    let mut unknown = Vec::new();
    let object = kind_of(value).from_json(value, &mut unknown).unwrap();
    assert_eq!(unknown, Vec::<String>::new());
    object
}

/// Everything in `written` that says something is in `kept`, quantities and times by what they mean.
fn assert_kept(written: &Value, kept: &Value, path: &str) {
    match (written, kept) {
        (Value::Object(fields), _) => {
            for (name, value) in fields {
                assert_kept(value, &kept[name], &format!("{path}.{name}"));
            }
        }
        (Value::Array(items), _) => {
            for (index, value) in items.iter().enumerate() {
                assert_kept(value, &kept[index], &format!("{path}[{index}]"));
            }
        }
        // A zero says nothing where Kubernetes leaves it out.
        (Value::Null, Value::Null) | (Value::Bool(false), Value::Null) => {}
        (Value::Number(number), Value::Null) if number.as_i64() == Some(0) => {}
        (Value::String(text), Value::Null) if text.is_empty() => {}
        (written, kept) if written == kept => {}
        // Base64 may be wrapped.
        (Value::String(written), Value::String(kept)) if written.replace('\n', "") == *kept => {}
        (written, kept) => {
            assert!(
                same::<Quantity>(written, kept) || same::<Time>(written, kept),
                "{path}: {written} became {kept}"
            );
        }
    }
}

fn same<T: DeserializeOwned + PartialEq>(a: &Value, b: &Value) -> bool {
    let value = |json: &Value| serde_json::from_value::<T>(json.clone()).ok();
    value(a).is_some_and(|a| value(b) == Some(a))
}

fn manifests() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for document in yaml::documents(&text).unwrap_or_else(|error| panic!("{path:?}: {error}")) {
            for document in document.expand() {
                found.push((format!("{}:{}", path.display(), document.line), document.value));
            }
        }
    }
    found
}

#[test]
fn every_manifest_is_understood_and_kept() {
    for (place, value) in manifests() {
        let object = read(&value);
        let json = object.to_json();
        assert_kept(&value, &json, &place);
        let decoded = object.kind().decode(&object.encode()).unwrap();
        assert_eq!(decoded.to_json(), json, "{place}");
        let reread = yaml::documents(&yaml::to_string(&json)).unwrap().remove(0).value;
        assert_eq!(read(&reread).to_json(), json, "{place}");
    }
}

#[test]
fn every_kind_has_a_manifest() {
    let found: Vec<_> = manifests().iter().map(|(_, value)| kind_of(value)).collect();
    for kind in kinds() {
        assert!(found.contains(kind), "{kind}");
    }
}

#[test]
fn unknown_fields_are_named_by_their_paths() {
    let pod = json!({
        "metadata": {"name": "web", "lables": {}},
        "spec": {"containers": [{"name": "a"}, {"name": "b", "port": 80, "env": [{"nam": "x"}]}]},
        "specification": null,
        "stauts": {},
    });
    let mut unknown = Vec::new();
    let kind = resolve("pod").unwrap();
    kind.from_json(&pod, &mut unknown).unwrap();
    unknown.sort();
    let expected = ["metadata.lables", "spec.containers[1].env[0].nam", "spec.containers[1].port", "stauts"];
    assert_eq!(unknown, expected);
}

#[test]
fn errors_name_the_field_and_what_stands_there() {
    let deployment = |container: Value| json!({"spec": {"template": {"spec": {"containers": [container]}}}});
    let long = "x".repeat(100);
    for (container, message) in [
        (
            json!({"ports": [{"containerPort": "x"}]}),
            "spec.template.spec.containers[0].ports[0].containerPort: expected integer, got string \"x\"",
        ),
        (
            json!({"ports": [{"containerPort": 4_294_967_296_i64}]}),
            "spec.template.spec.containers[0].ports[0].containerPort: expected integer of 32 bits, got number 4294967296",
        ),
        (
            json!({"env": [{"name": "A", "value": 1}]}),
            "spec.template.spec.containers[0].env[0].value: expected string, got number 1",
        ),
        (
            json!({"resources": {"limits": {"cpu": "lots"}}}),
            "spec.template.spec.containers[0].resources.limits[cpu]: \"lots\" is not a quantity such as 250m, 0.5 or 1Gi",
        ),
        (
            json!({"command": "sh"}),
            "spec.template.spec.containers[0].command: expected a list, got string \"sh\"",
        ),
        (
            json!(long),
            &format!("spec.template.spec.containers[0]: expected an object, got string \"{}\"…", &long[..40]),
        ),
        (
            json!({"stdin": "yes"}),
            "spec.template.spec.containers[0].stdin: expected true or false, got string \"yes\"",
        ),
        (
            json!({"livenessProbe": {"httpGet": {"port": 1.5}}}),
            "spec.template.spec.containers[0].livenessProbe.httpGet.port: expected integer, got number 1.5",
        ),
    ] {
        let error =
            resolve("deploy").unwrap().from_json(&deployment(container), &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let secret = resolve("secret").unwrap();
    for (value, message) in [
        (json!({"data": {"a": "!"}}), "data[a]: expected base64, got string \"!\""),
        (json!({"kind": "Pod"}), "kind: expected \"Secret\", got string \"Pod\""),
        (json!({"apiVersion": 1}), "apiVersion: expected \"v1\", got number 1"),
        (json!([]), "expected an object, got a list"),
        (json!(null), "expected an object, got null"),
        (
            json!({"metadata": {"creationTimestamp": "yesterday"}}),
            "metadata.creationTimestamp: \"yesterday\" is not a time such as 2006-01-02T15:04:05Z",
        ),
    ] {
        assert_eq!(secret.from_json(&value, &mut Vec::new()).unwrap_err().to_string(), message);
    }
}

#[test]
fn json_of_any_shape_is_bounded_in_depth() {
    let mut deep = json!({});
    for _ in 0..120 {
        deep = json!({"f": deep});
    }
    let pod = json!({"metadata": {"managedFields": [{"fieldsV1": deep}]}});
    let error = resolve("pod").unwrap().from_json(&pod, &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "metadata.managedFields[0].fieldsV1: nested deeper than 100 levels");
}

#[test]
fn what_clients_require_is_written_even_when_empty() {
    use weir_proto::core::v1::{ContainerStatus, Pod};
    use weir_proto::discovery::v1::EndpointSlice;
    let status = serde_json::to_value(ContainerStatus::default()).unwrap();
    assert_eq!(status, json!({"name": "", "ready": false, "restartCount": 0, "image": "", "imageID": ""}));
    let slice = serde_json::to_value(EndpointSlice::default()).unwrap();
    let expected = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "", "endpoints": []});
    assert_eq!(slice, expected);
    assert_eq!(serde_json::to_value(Pod::default()).unwrap(), json!({"apiVersion": "v1", "kind": "Pod"}));
}

#[test]
fn values_keep_the_form_they_have_in_kubernetes() {
    let (_, web) = manifests()
        .into_iter()
        .find(|(_, value)| value["metadata"]["name"] == "web" && value["kind"] == "Deployment")
        .unwrap();
    let object = read(&web);
    let deployment: &weir_proto::apps::v1::Deployment = object.downcast_ref().unwrap();
    let rolling = deployment.spec().strategy.clone().unwrap().rolling_update.unwrap();
    assert_eq!(rolling.max_surge, Some(IntOrString::from("25%")));
    assert_eq!(rolling.max_unavailable, Some(IntOrString::from(0)));
    let json = object.to_json();
    assert_eq!(json["spec"]["strategy"]["rollingUpdate"], json!({"maxSurge": "25%", "maxUnavailable": 0}));
    let limits = &json["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"];
    assert_eq!(*limits, json!({"cpu": "500m", "memory": "1Gi"}));
}

#[test]
fn names_resolve_however_people_say_them() {
    for (word, plural) in [
        ("po", "pods"),
        ("pod", "pods"),
        ("Pods", "pods"),
        ("deployments.apps", "deployments"),
        ("deploy.v1.apps", "deployments"),
        ("svc", "services"),
        ("dpn", "dataplanenodes"),
        ("EndpointSlice", "endpointslices"),
    ] {
        assert_eq!(resolve(word).unwrap().plural, plural);
    }
    let near = |word: &str| resolve(word).unwrap_err().nearest;
    assert_eq!(near("deploymnet"), Some("deployment"));
    assert_eq!(near("podz"), Some("pod"));
    assert_eq!(near("ingress"), None);
    assert_eq!(near(&"x".repeat(10_000)), None);
    assert!(resolve("pods.apps").is_err());
    assert!(resolve("").is_err());
}

#[test]
fn keys_are_laid_out_as_in_kubernetes() {
    let pod = weir_proto::core::v1::Pod::KIND;
    assert_eq!(pod.key("default", "web-1"), "/registry/pods/default/web-1");
    assert_eq!(pod.prefix(Some("default")), "/registry/pods/default/");
    assert_eq!(pod.prefix(None), "/registry/pods/");
    assert_eq!(resolve("deploy").unwrap().key("ns", "n"), "/registry/apps/deployments/ns/n");
    assert_eq!(resolve("node").unwrap().key("", "n1"), "/registry/nodes/n1");
    assert_eq!(resolve("node").unwrap().prefix(Some("ignored")), "/registry/nodes/");
}

#[test]
fn names_of_kinds_are_unambiguous() {
    let mut seen = std::collections::BTreeMap::new();
    for kind in kinds() {
        for name in [kind.plural, kind.singular].iter().chain(kind.short_names) {
            assert_eq!(seen.insert(*name, kind.kind), None, "{name}");
        }
    }
    assert_eq!(find("", "v1", "Binding").map(|kind| kind.plural), Some(""));
}
