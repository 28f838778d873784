//! Strategic merge patch: as RFC 7386, but lists of things with a key are merged thing by thing.
//!
//! Which lists have which key follows from Kubernetes' types ([`MERGE_KEYS`]); all other lists are replaced.
//! Directives: `$patch: delete|replace|merge` in a map or list element, `$deleteFromPrimitiveList/FIELD`,
//! `$setElementOrder/FIELD` (the order of the result), `$retainKeys`.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

/// Lists that are merged: the field's name, the name of the field that holds the list's owner where that matters
/// (empty = any), and the key of an element.
const MERGE_KEYS: &[(&str, &str, &str)] = &[
    ("containers", "", "name"),
    ("initContainers", "", "name"),
    ("ephemeralContainers", "", "name"),
    ("env", "", "name"),
    ("volumes", "", "name"),
    ("volumeMounts", "", "mountPath"),
    ("volumeDevices", "", "devicePath"),
    ("imagePullSecrets", "", "name"),
    ("hostAliases", "", "ip"),
    ("topologySpreadConstraints", "", "topologyKey"),
    ("schedulingGates", "", "name"),
    ("resourceClaims", "", "name"),
    ("conditions", "", "type"),
    ("ownerReferences", "", "uid"),
    ("addresses", "status", "type"),
    ("podIPs", "", "ip"),
    ("hostIPs", "", "ip"),
    ("secrets", "", "name"),
    // A container's ports are told apart by containerPort, a service's by port.
    ("ports", "containers", "containerPort"),
    ("ports", "initContainers", "containerPort"),
    ("ports", "spec", "port"),
];
/// Lists of plain values that are merged as sets.
const MERGED_SETS: &[&str] = &["finalizers"];

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// What a patch does wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrategicError {
    #[error("unknown directive $patch: {0:?}")]
    Directive(String),
    #[error("{field}: elements of this list are objects with the key {key:?}")]
    Element { field: String, key: &'static str },
    #[error("{field}: map does not contain declared merge key: {key}")]
    Key { field: String, key: &'static str },
    #[error("{DELETE_FROM}{0} is not a list")]
    DeleteFrom(String),
}

pub(super) fn merge(document: &mut Value, patch: &Value) -> Result<(), StrategicError> {
    merge_value(document, patch, "")
}

fn merge_value(target: &mut Value, patch: &Value, owner: &str) -> Result<(), StrategicError> {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return Ok(()) };
    merge_map(map, patch, owner)
}

fn merge_map(
    map: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    owner: &str,
) -> Result<(), StrategicError> {
    match patch.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            *map = without_directives(patch);
            return Ok(());
        }
        Some("delete") => {
            map.clear();
            return Ok(());
        }
        Some(other) => return Err(StrategicError::Directive(other.to_owned())),
    }
    if let Some(retained) = patch.get(RETAIN).and_then(Value::as_array) {
        map.retain(|key, _| retained.iter().any(|retained| retained.as_str() == Some(key)));
    }
    for (field, change) in patch {
        if let Some(field) = field.strip_prefix(DELETE_FROM) {
            remove_values(map, field, change)?;
        } else if field.starts_with('$') {
            continue;
        } else if change.is_null() {
            map.remove(field);
        } else {
            merge_field(map, field, change, patch.get(&format!("{ORDER}{field}")), owner)?;
        }
    }
    Ok(())
}

fn merge_field(
    map: &mut Map<String, Value>,
    field: &str,
    change: &Value,
    order: Option<&Value>,
    owner: &str,
) -> Result<(), StrategicError> {
    let slot = map.entry(field).or_insert(Value::Null);
    let Value::Array(changes) = change else {
        return merge_value(slot, change, field);
    };
    if let Some(key) = merge_key(field, owner) {
        if !slot.is_array() {
            *slot = Value::Array(Vec::new());
        }
        if let Value::Array(items) = slot {
            merge_list(items, changes, key, field)?;
            set_order(items, order, key);
        }
    } else if MERGED_SETS.contains(&field) {
        if !slot.is_array() {
            *slot = Value::Array(Vec::new());
        }
        if let Value::Array(items) = slot {
            let mut known: HashSet<String> = items.iter().map(Value::to_string).collect();
            let new = changes.iter().filter(|change| !change.is_object());
            items.extend(new.filter(|change| known.insert(change.to_string())).cloned());
        }
    } else {
        let plain = changes.iter().filter(|change| change.get(PATCH).is_none());
        *slot = Value::Array(plain.cloned().collect());
    }
    Ok(())
}

fn merge_key(field: &str, owner: &str) -> Option<&'static str> {
    let fits =
        |(name, under, _): &&(&str, &str, &str)| *name == field && (under.is_empty() || *under == owner);
    MERGE_KEYS.iter().find(fits).map(|(.., key)| *key)
}

/// What tells an element from others: its key, and for ports the protocol too. None without the key.
fn identity(item: &Value, key: &str) -> Option<(String, String)> {
    let of = |field: &str| item.get(field).map(Value::to_string);
    let is_port = matches!(key, "port" | "containerPort");
    let protocol =
        if is_port { of("protocol").unwrap_or_else(|| "\"TCP\"".to_owned()) } else { String::new() };
    Some((of(key)?, protocol))
}

fn merge_list(
    items: &mut Vec<Value>,
    changes: &[Value],
    key: &'static str,
    field: &str,
) -> Result<(), StrategicError> {
    let whole = |change: &Value, directive: &str| {
        change.get(PATCH).and_then(Value::as_str) == Some(directive) && change.get(key).is_none()
    };
    if changes.iter().any(|change| whole(change, "replace")) {
        let rest = changes.iter().filter(|change| change.get(PATCH).is_none());
        *items = rest.cloned().collect();
        return Ok(());
    }
    // By identity, since a patch may name as many elements as fit into a request.
    let mut places: HashMap<_, Vec<usize>> = HashMap::new();
    for (place, item) in items.iter().enumerate() {
        places.entry(identity(item, key)).or_default().push(place);
    }
    let mut deleted = HashSet::new();
    for change in changes {
        let Value::Object(fields) = change else {
            return Err(StrategicError::Element { field: field.to_owned(), key });
        };
        let identity = identity(change, key);
        if identity.is_none() {
            return Err(StrategicError::Key { field: field.to_owned(), key });
        }
        if fields.get(PATCH).and_then(Value::as_str) == Some("delete") {
            deleted.extend(places.remove(&identity).unwrap_or_default());
            continue;
        }
        match places.get(&identity).and_then(|places| items.get_mut(*places.first()?)) {
            Some(Value::Object(item)) => merge_map(item, fields, field)?,
            _ => {
                places.entry(identity).or_default().push(items.len());
                items.push(Value::Object(without_directives(fields)));
            }
        }
    }
    let mut place = 0..;
    items.retain(|_| place.next().is_none_or(|place| !deleted.contains(&place)));
    Ok(())
}

/// Elements that the patch puts in order come first, in that order; a server-side element keeps its place behind.
fn set_order(items: &mut [Value], order: Option<&Value>, key: &str) {
    let Some(Value::Array(order)) = order else { return };
    let mut places = HashMap::new();
    for (place, wanted) in order.iter().enumerate() {
        places.entry(identity(wanted, key)).or_insert(place);
    }
    items.sort_by_cached_key(|item| {
        identity(item, key).and_then(|one| places.get(&Some(one)).copied()).unwrap_or(order.len())
    });
}

fn remove_values(map: &mut Map<String, Value>, field: &str, values: &Value) -> Result<(), StrategicError> {
    let Value::Array(values) = values else {
        return Err(StrategicError::DeleteFrom(field.to_owned()));
    };
    if let Some(Value::Array(items)) = map.get_mut(field) {
        let values: HashSet<String> = values.iter().map(Value::to_string).collect();
        items.retain(|item| !values.contains(&item.to_string()));
    }
    Ok(())
}

/// A new thing from a patch: nulls mean "absent", and directives are not data.
fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    let fields = patch.iter().filter(|(field, value)| !field.starts_with('$') && !value.is_null());
    fields
        .map(|(field, value)| {
            let value = match value {
                Value::Object(inner) => Value::Object(without_directives(inner)),
                Value::Array(items) => Value::Array(
                    items
                        .iter()
                        .filter(|item| item.get(PATCH).is_none())
                        .map(|item| match item {
                            Value::Object(inner) => Value::Object(without_directives(inner)),
                            other => other.clone(),
                        })
                        .collect(),
                ),
                other => other.clone(),
            };
            (field.clone(), value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(mut document: Value, patch: Value) -> Value {
        merge(&mut document, &patch).unwrap();
        document
    }

    #[test]
    fn named_things_are_merged_by_name() {
        let document = json!({"spec": {"containers": [
            {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]},
            {"name": "b", "image": "b:1"},
        ]}});
        let patch = json!({"spec": {"containers": [
            {"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}]},
            {"name": "b", "$patch": "delete"},
            {"name": "c", "image": "c:1"},
        ]}});
        let expected = json!({"spec": {"containers": [
            {"name": "a", "image": "a:2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "c", "image": "c:1"},
        ]}});
        assert_eq!(merged(document, patch), expected);
    }

    #[test]
    fn ports_are_told_apart_by_number_and_protocol() {
        let document =
            json!({"spec": {"ports": [{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
        let patch = json!({"spec": {"ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}]}});
        let expected = json!({"spec": {"ports": [
            {"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP", "nodePort": 30053},
        ]}});
        assert_eq!(merged(document, patch), expected);
    }

    #[test]
    fn other_lists_are_replaced_and_nulls_delete() {
        let document = json!({"spec": {"tolerations": [{"key": "a"}], "nodeName": "n"}, "metadata": {"labels": {"a": "1"}}});
        let patch = json!({"spec": {"tolerations": [{"key": "b"}], "nodeName": null}, "metadata": {"labels": {"b": "2"}}});
        let expected =
            json!({"spec": {"tolerations": [{"key": "b"}]}, "metadata": {"labels": {"a": "1", "b": "2"}}});
        assert_eq!(merged(document, patch), expected);
    }

    #[test]
    fn directives_replace_order_and_remove() {
        let document = json!({
            "metadata": {"finalizers": ["a", "b"]},
            "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
                     "volumes": [{"name": "x"}, {"name": "y"}]},
        });
        let patch = json!({
            "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]},
            "spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"},
                     "$setElementOrder/volumes": [{"name": "y"}, {"name": "x"}],
                     "volumes": [{"name": "x", "emptyDir": {}}]},
        });
        let expected = json!({
            "metadata": {"finalizers": ["b"]},
            "spec": {"strategy": {"type": "Recreate"}, "volumes": [{"name": "y"}, {"name": "x", "emptyDir": {}}]},
        });
        assert_eq!(merged(document, patch), expected);
        let replaced = merged(
            json!({"spec": {"volumes": [{"name": "x"}]}}),
            json!({"spec": {"volumes": [{"$patch": "replace"}, {"name": "z"}]}}),
        );
        assert_eq!(replaced, json!({"spec": {"volumes": [{"name": "z"}]}}));
    }

    #[test]
    fn a_patch_of_as_many_elements_as_fit_into_a_request_takes_no_time() {
        let many =
            |from: usize| (from..from + 100_000).map(|name| json!({"name": name.to_string()})).collect();
        let (document, patch): (Vec<Value>, Vec<Value>) = (many(0), many(50_000));
        let order = json!({"volumes": patch.clone(), "$setElementOrder/volumes": patch});
        let merged = merged(json!({"volumes": document}), order);
        assert_eq!(merged["volumes"].as_array().unwrap().len(), 150_000);
        assert_eq!(merged["volumes"][0]["name"], "50000");
    }

    #[test]
    fn an_element_without_its_key_is_refused() {
        let mut document = json!({"spec": {"containers": []}});
        let error = merge(&mut document, &json!({"spec": {"containers": [{"image": "x"}]}})).unwrap_err();
        assert!(error.to_string().contains("merge key: name"), "{error}");
    }
}
