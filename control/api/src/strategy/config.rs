//! ConfigMaps and Secrets: named values, with a limit on their size, that may be frozen.

use weir_proto::core::v1::{ConfigMap, Secret};

use super::Strategy;
use crate::validation::{Errors, Path, names};

/// Bytes of all values together, as in Kubernetes.
const LARGEST: usize = 1024 * 1024;

pub(super) struct ConfigMaps;

impl Strategy for ConfigMaps {
    type Object = ConfigMap;

    fn validate(&self, map: &ConfigMap, errors: &mut Errors) {
        let (data, binary) = (Path::root("data"), Path::root("binaryData"));
        validate_keys(map.data.keys(), &data, errors);
        validate_keys(map.binary_data.keys(), &binary, errors);
        for key in map.data.keys().filter(|key| map.binary_data.contains_key(*key)) {
            errors.invalid(&binary.key(key), key, "duplicate of key present in data");
        }
        let size = map.data.values().map(String::len).sum::<usize>()
            + map.binary_data.values().map(|value| value.len()).sum::<usize>();
        if size > LARGEST {
            errors.too_long(&Path::root("[]"), LARGEST);
        }
    }

    fn validate_update(&self, new: &ConfigMap, old: &ConfigMap, errors: &mut Errors) {
        if old.immutable != Some(true) {
            return;
        }
        let changed = [
            ("immutable", new.immutable != Some(true)),
            ("data", new.data != old.data),
            ("binaryData", new.binary_data != old.binary_data),
        ];
        frozen(&changed, errors);
    }
}

pub(super) struct Secrets;

impl Strategy for Secrets {
    type Object = Secret;

    fn fill_defaults(&self, secret: &mut Secret) {
        if secret.r#type.is_empty() {
            "Opaque".clone_into(&mut secret.r#type);
        }
        for (key, value) in std::mem::take(&mut secret.string_data) {
            secret.data.insert(key, value.into_bytes());
        }
    }

    fn validate(&self, secret: &Secret, errors: &mut Errors) {
        let data = Path::root("data");
        validate_keys(secret.data.keys(), &data, errors);
        if secret.data.values().map(|value| value.len()).sum::<usize>() > LARGEST {
            errors.too_long(&data, LARGEST);
        }
        let required: &[&str] = match secret.r#type.as_str() {
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/dockercfg" => &[".dockercfg"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            _ => &[],
        };
        for key in required.iter().filter(|key| !secret.data.contains_key(**key)) {
            errors.required(&data.key(key), "");
        }
        match secret.r#type.as_str() {
            "kubernetes.io/basic-auth"
                if !["username", "password"].iter().any(|key| secret.data.contains_key(*key)) =>
            {
                errors.required(&data.key("username"), "");
                errors.required(&data.key("password"), "");
            }
            "kubernetes.io/dockerconfigjson" | "kubernetes.io/dockercfg" => {
                for key in required.iter() {
                    validate_json(secret.data.get(*key).map(|value| &value[..]), &data.key(key), errors);
                }
            }
            _ => {}
        }
    }

    fn validate_update(&self, new: &Secret, old: &Secret, errors: &mut Errors) {
        errors.immutable(&Path::root("type"), &new.r#type, &old.r#type, format!("{:?}", new.r#type));
        if old.immutable == Some(true) {
            frozen(&[("immutable", new.immutable != Some(true)), ("data", new.data != old.data)], errors);
        }
    }
}

/// What is wrong is said without repeating any of it.
fn validate_json(value: Option<&[u8]>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(value) = value
        && let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(value)
    {
        let reason = match error.classify() {
            serde_json::error::Category::Eof => "unexpected end of JSON input",
            _ => "invalid character in JSON input",
        };
        errors.invalid(path, "<secret contents redacted>", reason);
    }
}

fn validate_keys<'a>(keys: impl Iterator<Item = &'a String>, path: &Path<'_>, errors: &mut Errors) {
    for key in keys {
        errors.syntax(&path.key(key), key, names::config_key(key));
    }
}

fn frozen(changed: &[(&str, bool)], errors: &mut Errors) {
    for (field, _) in changed.iter().filter(|(_, changed)| *changed) {
        errors.forbidden(&Path::root(field), "field is immutable when `immutable` is set");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn fields(check: impl FnOnce(&mut Errors)) -> Vec<String> {
        let mut errors = Errors::default();
        check(&mut errors);
        errors.into_causes().into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn keys_must_be_file_names() {
        let data = BTreeMap::from([("a/b".to_owned(), String::new())]);
        let map = ConfigMap { data, ..ConfigMap::default() };
        assert_eq!(fields(|errors| ConfigMaps.validate(&map, errors)), ["data[a/b]"]);
    }

    #[test]
    fn what_is_frozen_stays() {
        let old = ConfigMap { immutable: Some(true), ..ConfigMap::default() };
        let mut new = old.clone();
        new.data.insert("a".to_owned(), "b".to_owned());
        assert_eq!(fields(|errors| ConfigMaps.validate_update(&new, &old, errors)), ["data"]);
    }

    #[test]
    fn text_of_a_secret_moves_into_its_data() {
        let string_data = BTreeMap::from([("user".to_owned(), "admin".to_owned())]);
        let mut secret = Secret { string_data, ..Secret::default() };
        Secrets.fill_defaults(&mut secret);
        assert_eq!(&secret.data["user"][..], b"admin");
        assert!(secret.string_data.is_empty());
        assert_eq!(secret.r#type, "Opaque");
    }
}
