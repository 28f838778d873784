//! A container's environment: values, references, and `$(NAME)` in them. Pure.
//!
//! Left out: variables for services (`NAME_SERVICE_HOST`), `fileKeyRef`.

use std::collections::BTreeMap;

use thiserror::Error;
use weir_proto::core::v1::{Container, EnvVarSource, Pod};

use super::downward::{self, FieldError, Surroundings};
use super::sources::{Sources, config_map_data, secret_data};

#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum EnvError {
    #[error("{kind} {name:?} not found")]
    NotFound { kind: &'static str, name: String },
    #[error("{kind} {name:?} has no key {key:?}")]
    NoKey { kind: &'static str, name: String, key: String },
    #[error("env {variable:?}: valueFrom.fileKeyRef is not supported yet")]
    FileKey { variable: String },
    #[error("env {variable:?}: {source}")]
    Field { variable: String, source: FieldError },
}

/// Name and value of each variable, in the order in which they are set.
pub(super) fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    around: &Surroundings,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut variables = from_objects(container, sources)?;
    let mut known: BTreeMap<String, String> = variables.iter().cloned().collect();
    for variable in &container.env {
        let value = match &variable.value_from {
            None => Some(expand(&variable.value, &known)),
            Some(source) => referred(pod, container, &variable.name, source, sources, around)?,
        };
        // An optional reference that leads nowhere sets nothing.
        if let Some(value) = value {
            known.insert(variable.name.clone(), value.clone());
            variables.push((variable.name.clone(), value));
        }
    }
    Ok(variables)
}

/// Replaces `$(NAME)` by the variable's value; `$$` is a dollar sign; what is unknown stays as it is.
pub(super) fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        result.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        let name = rest.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match name {
            Some((name, after)) => {
                match known.get(name) {
                    Some(value) => result.push_str(value),
                    None => result.push_str(&format!("$({name})")),
                }
                rest = after;
            }
            None => {
                result.push('$');
                rest = rest.strip_prefix('$').unwrap_or(rest);
            }
        }
    }
    result.push_str(rest);
    result
}

fn from_objects(container: &Container, sources: &Sources) -> Result<Vec<(String, String)>, EnvError> {
    let mut variables = Vec::new();
    for from in &container.env_from {
        let (kind, name, optional, data) = if let Some(reference) = &from.config_map_ref {
            let data = sources.config_maps.get(&reference.name).map(config_map_data);
            ("ConfigMap", &reference.name, reference.optional, data)
        } else if let Some(reference) = &from.secret_ref {
            let data = sources.secrets.get(&reference.name).map(secret_data);
            ("Secret", &reference.name, reference.optional, data)
        } else {
            continue;
        };
        let Some(data) = data else {
            if optional == Some(true) {
                continue;
            }
            return Err(EnvError::NotFound { kind, name: name.clone() });
        };
        // A name with "=" in it would set another variable.
        let usable = data.into_iter().filter(|(key, _)| !key.is_empty() && !key.contains('='));
        variables.extend(usable.map(|(key, value)| (format!("{}{key}", from.prefix), text(&value))));
    }
    Ok(variables)
}

fn referred(
    pod: &Pod,
    container: &Container,
    variable: &str,
    source: &EnvVarSource,
    sources: &Sources,
    around: &Surroundings,
) -> Result<Option<String>, EnvError> {
    let of_field = |source| EnvError::Field { variable: variable.to_owned(), source };
    if let Some(field) = &source.field_ref {
        return downward::field(pod, &field.field_path, around).map(Some).map_err(of_field);
    }
    if let Some(selector) = &source.resource_field_ref {
        return downward::resource(pod, Some(container), selector, around).map(Some).map_err(of_field);
    }
    let (kind, name, key, optional, data) = if let Some(reference) = &source.config_map_key_ref {
        let data = sources.config_maps.get(&reference.name).map(config_map_data);
        ("ConfigMap", &reference.name, &reference.key, reference.optional, data)
    } else if let Some(reference) = &source.secret_key_ref {
        let data = sources.secrets.get(&reference.name).map(secret_data);
        ("Secret", &reference.name, &reference.key, reference.optional, data)
    } else if source.file_key_ref.is_some() {
        return Err(EnvError::FileKey { variable: variable.to_owned() });
    } else {
        return Ok(Some(String::new()));
    };
    let missing = match data {
        Some(data) => match data.get(key) {
            Some(value) => return Ok(Some(text(value))),
            None => EnvError::NoKey { kind, name: name.clone(), key: key.clone() },
        },
        None => EnvError::NotFound { kind, name: name.clone() },
    };
    if optional == Some(true) { Ok(None) } else { Err(missing) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_proto::core::v1::{
        ConfigMap, ConfigMapEnvSource, ConfigMapKeySelector, EnvFromSource, EnvVar, ObjectFieldSelector,
    };

    use super::*;
    use crate::pods::downward::surroundings;

    fn variable(name: &str, value: &str) -> EnvVar {
        EnvVar { name: name.to_owned(), value: value.to_owned(), ..EnvVar::default() }
    }

    fn from_key(name: &str, key: &str, optional: bool) -> EnvVar {
        let reference =
            ConfigMapKeySelector { name: "map".to_owned(), key: key.to_owned(), optional: Some(optional) };
        let source = EnvVarSource { config_map_key_ref: Some(reference), ..EnvVarSource::default() };
        EnvVar { name: name.to_owned(), value_from: Some(source), ..EnvVar::default() }
    }

    fn sources() -> Sources {
        let data = BTreeMap::from([("colour".to_owned(), "blue".to_owned())]);
        let map = ConfigMap { data, ..ConfigMap::default() };
        Sources { config_maps: BTreeMap::from([("map".to_owned(), map)]), ..Sources::default() }
    }

    #[test]
    fn dollars_are_expanded_as_kubernetes_does() {
        let known = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("5$", "5$"),
            ("$$", "$"),
        ] {
            assert_eq!(expand(text, &known), expected, "{text}");
        }
    }

    #[test]
    fn variables_come_from_values_objects_and_fields_in_order() {
        let from = EnvFromSource {
            prefix: "P_".to_owned(),
            config_map_ref: Some(ConfigMapEnvSource { name: "map".to_owned(), optional: None }),
            secret_ref: None,
        };
        let field = ObjectFieldSelector { field_path: "spec.nodeName".to_owned(), ..Default::default() };
        let node = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
        let container = Container {
            env_from: vec![from],
            env: vec![
                variable("A", "1"),
                variable("B", "$(A)$(P_colour)$(LATER)"),
                from_key("C", "colour", false),
                from_key("D", "none", true),
                EnvVar { name: "N".to_owned(), value_from: Some(node), ..EnvVar::default() },
                variable("LATER", "x"),
            ],
            ..Container::default()
        };
        let variables =
            environment(&Pod::default(), &container, &sources(), &surroundings()).expect("all there");
        let expected = [
            ("P_colour", "blue"),
            ("A", "1"),
            ("B", "1blue$(LATER)"),
            ("C", "blue"),
            ("N", "n1"),
            ("LATER", "x"),
        ];
        assert_eq!(variables, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn what_is_missing_is_named() {
        let of = |variable: EnvVar, sources: &Sources| {
            let container = Container { env: vec![variable], ..Container::default() };
            environment(&Pod::default(), &container, sources, &surroundings())
                .expect_err("missing")
                .to_string()
        };
        assert_eq!(of(from_key("C", "none", false), &sources()), "ConfigMap \"map\" has no key \"none\"");
        assert_eq!(of(from_key("C", "colour", false), &Sources::default()), "ConfigMap \"map\" not found");
    }

    proptest! {
        #[test]
        fn expansion_never_panics_and_leaves_text_without_dollars_alone(text in "[^$]{0,20}", any in "[$()A-C]{0,20}") {
            prop_assert_eq!(expand(&text, &BTreeMap::new()), text);
            expand(&any, &BTreeMap::from([("A".to_owned(), "$(B)".to_owned())]));
        }
    }
}
