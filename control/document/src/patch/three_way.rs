//! The three-way merge.
//!
//! Objects merge field by field. A list whose elements have an identity (containers by name, ports by number and
//! protocol, …) merges element by element; any other list is replaced whole. The identities are Kubernetes'
//! `patchMergeKey`s, but for ports, where the protocol belongs to the identity.

use serde_json::{Map, Value};

/// The live object with what `modified` says set, and what only `original` said removed.
pub fn three_way(original: Option<&Value>, modified: &Value, live: &Value) -> Value {
    merge("", original, modified, Some(live))
}

fn merge(field: &str, original: Option<&Value>, modified: &Value, live: Option<&Value>) -> Value {
    match (modified, live) {
        (Value::Object(modified), Some(Value::Object(live))) => {
            Value::Object(fields(original.and_then(Value::as_object), modified, live))
        }
        (Value::Array(modified), Some(Value::Array(live))) => {
            let keys = identity_of(field);
            let original = original.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let everywhere = [original, modified, live];
            if !keys.is_empty() && everywhere.iter().all(|list| list.iter().all(|element| has(element, keys)))
            {
                Value::Array(elements(keys, original, modified, live))
            } else {
                Value::Array(modified.clone())
            }
        }
        _ => modified.clone(),
    }
}

fn fields(
    original: Option<&Map<String, Value>>,
    modified: &Map<String, Value>,
    live: &Map<String, Value>,
) -> Map<String, Value> {
    let mut merged = live.clone();
    for field in original.into_iter().flat_map(Map::keys) {
        if !modified.contains_key(field) {
            merged.remove(field);
        }
    }
    for (field, value) in modified {
        let original = original.and_then(|original| original.get(field));
        merged.insert(field.clone(), merge(field, original, value, live.get(field)));
    }
    merged
}

/// The user's elements in the user's order, then those that others added.
fn elements(keys: &[Key], original: &[Value], modified: &[Value], live: &[Value]) -> Vec<Value> {
    let same =
        |list: &'_ [Value], element: &Value| list.iter().find(|other| is_same(keys, element, other)).cloned();
    let mut merged: Vec<Value> = modified
        .iter()
        .map(|element| merge("", same(original, element).as_ref(), element, same(live, element).as_ref()))
        .collect();
    let of_others =
        live.iter().filter(|element| same(modified, element).is_none() && same(original, element).is_none());
    merged.extend(of_others.cloned());
    merged
}

/// A field of an element's identity, and the value that its absence means.
type Key = (&'static str, Option<&'static str>);

/// By the list's field name; the same name has the same identity in every kind served, but for `ports`, where the
/// element's own fields tell a container's from a service's.
fn identity_of(field: &str) -> &'static [Key] {
    match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "secrets" => &[("name", None)],
        "volumeMounts" => &[("mountPath", None)],
        "volumeDevices" => &[("devicePath", None)],
        "hostAliases" => &[("ip", None)],
        "ports" => &[("containerPort", Some("")), ("port", Some("")), ("protocol", Some("TCP"))],
        "conditions" => &[("type", None)],
        "ownerReferences" => &[("uid", None)],
        "taints" => &[("key", None), ("effect", None)],
        "topologySpreadConstraints" => &[("topologyKey", None), ("whenUnsatisfiable", None)],
        _ => &[],
    }
}

fn has(element: &Value, keys: &[Key]) -> bool {
    element.is_object() && keys.iter().all(|(key, default)| default.is_some() || element.get(key).is_some())
}

fn is_same(keys: &[Key], one: &Value, other: &Value) -> bool {
    keys.iter().all(|(key, default)| {
        let value = |element: &Value| element.get(key).cloned().or(default.map(Value::from));
        value(one) == value(other)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_new_manifest_no_longer_says_is_removed_and_what_others_set_stays() {
        let original = json!({ "spec": { "replicas": 3, "paused": true } });
        let modified = json!({ "spec": { "replicas": 4 } });
        let live = json!({ "spec": { "replicas": 3, "paused": true, "minReadySeconds": 5 }, "status": { "replicas": 3 } });
        let want = json!({ "spec": { "replicas": 4, "minReadySeconds": 5 }, "status": { "replicas": 3 } });
        assert_eq!(three_way(Some(&original), &modified, &live), want);
    }

    #[test]
    fn lists_of_named_things_merge_by_name_in_the_manifests_order() {
        let original = json!({ "containers": [{ "name": "a" }, { "name": "gone" }] });
        let modified =
            json!({ "containers": [{ "name": "b", "image": "b:2" }, { "name": "a", "image": "a:1" }] });
        let live = json!({ "containers": [
            { "name": "a", "image": "a:0", "imagePullPolicy": "Always" }, { "name": "gone" }, { "name": "injected" },
        ] });
        let want = json!({ "containers": [
            { "name": "b", "image": "b:2" },
            { "name": "a", "image": "a:1", "imagePullPolicy": "Always" },
            { "name": "injected" },
        ] });
        assert_eq!(three_way(Some(&original), &modified, &live), want);
    }

    #[test]
    fn a_port_number_may_serve_two_protocols() {
        let modified =
            json!({ "ports": [{ "port": 53 }, { "port": 53, "protocol": "UDP", "nodePort": 30053 }] });
        let live = json!({ "ports": [{ "port": 53, "protocol": "TCP", "targetPort": 53 }, { "port": 53, "protocol": "UDP" }] });
        let want = json!({ "ports": [
            { "port": 53, "protocol": "TCP", "targetPort": 53 },
            { "port": 53, "protocol": "UDP", "nodePort": 30053 },
        ] });
        assert_eq!(three_way(None, &modified, &live), want);
    }

    #[test]
    fn lists_without_identity_are_replaced_whole() {
        let modified = json!({ "args": ["c"], "tolerations": [] });
        let live = json!({ "args": ["a", "b"], "tolerations": [{ "key": "x" }] });
        assert_eq!(three_way(None, &modified, &live), modified);
    }

    proptest::proptest! {
        #[test]
        fn applying_twice_is_applying_once(
            original in document(), modified in document(), live in document()
        ) {
            let once = three_way(Some(&original), &modified, &live);
            let twice = three_way(Some(&modified), &modified, &once);
            proptest::prop_assert_eq!(once, twice);
        }
    }

    /// Small documents over few names, so that they overlap.
    fn document() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let element = (0..3_u8, proptest::option::of(0..3_u8)).prop_map(|(name, image)| match image {
            Some(image) => json!({ "name": name.to_string(), "image": image }),
            None => json!({ "name": name.to_string() }),
        });
        let containers = proptest::collection::vec(element, 0..4).prop_map(|mut list: Vec<Value>| {
            list.sort_by_key(|element| element["name"].to_string());
            list.dedup_by_key(|element| element["name"].to_string());
            list
        });
        (containers, proptest::collection::btree_map("[a-c]", 0..3_u8, 0..3), proptest::option::of(0..3_u8))
            .prop_map(|(containers, labels, replicas)| {
                let mut value = json!({ "containers": containers, "labels": labels });
                if let Some(replicas) = replicas {
                    value["replicas"] = replicas.into();
                }
                value
            })
    }
}
