//! A container's environment: services, values, references, and `$(NAME)` in them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;
use weir_proto::core::v1::{Container, EnvVarSource, FileKeySelector, Pod};

use super::downward::{self, FieldError, Surroundings};
use super::env_files;
use super::perform::Result as Performed;
use super::sources::{Needed, Sources, config_map_text, secret_data};
use super::worker::Worker;

#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum EnvError {
    #[error("{kind} {name:?} not found; make it, or set optional: true")]
    NotFound { kind: &'static str, name: String },
    /// The kubelet's words.
    #[error("couldn't find key {key} in {kind} {name}")]
    NoKey { kind: &'static str, name: String, key: String },
    #[error("env {variable:?}: file {path:?} of volume {volume:?}: {problem}")]
    FileKey { variable: String, volume: String, path: String, problem: String },
    #[error("env {variable:?}: {source}")]
    Field { variable: String, source: FieldError },
}

/// What variables are made from, beside the pod itself.
#[derive(Debug)]
pub(super) struct Origins<'a> {
    pub sources: &'a Sources,
    pub files: &'a Files,
    pub services: &'a [(String, String)],
    pub around: &'a Surroundings,
}

/// What files of volumes hold, by volume and path; an error is what was wrong with the file.
pub(super) type Files = BTreeMap<(String, String), Result<Option<BTreeMap<String, String>>, String>>;

/// The variables, and the keys of objects that cannot be any.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Environment {
    /// Name and value, in the order in which they are set.
    pub variables: Vec<(String, String)>,
    pub skipped: Vec<Skipped>,
}

/// Keys of one object that are no names of variables.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Skipped {
    pub kind: &'static str,
    pub name: String,
    pub keys: Vec<String>,
}

pub(super) fn environment(
    pod: &Pod,
    container: &Container,
    origins: &Origins<'_>,
) -> Result<Environment, EnvError> {
    let mut variables = origins.services.to_vec();
    let skipped = from_objects(container, origins.sources, &mut variables)?;
    let mut known: BTreeMap<String, String> = variables.iter().cloned().collect();
    for variable in &container.env {
        let value = match &variable.value_from {
            None => Some(expand(&variable.value, &known)),
            Some(source) => referred(pod, container, &variable.name, source, origins)?,
        };
        // An optional reference that leads nowhere sets nothing.
        if let Some(value) = value {
            known.insert(variable.name.clone(), value.clone());
            variables.push((variable.name.clone(), value));
        }
    }
    Ok(Environment { variables, skipped })
}

impl Worker {
    /// The variables of a container that starts now.
    pub(super) async fn environment(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        dir: &Path,
    ) -> Performed<Vec<(String, String)>> {
        let context = &self.context;
        let services = context.services.variables(&context.client, pod).await?;
        let needed = Needed::by_container(container);
        let sources = needed.fetch(&context.client, &pod.meta().namespace).await?;
        let (of, variables, dir) = (Arc::clone(pod), container.env.clone(), dir.to_owned());
        let files = self.blocking(move |_| env_files::of(&of, &variables, &dir)).await?;
        let around = self.surroundings(pod);
        let origins = Origins { sources: &sources, files: &files, services: &services, around: &around };
        let found = environment(pod, container, &origins)?;
        for Skipped { kind, name, keys } in found.skipped {
            let message = format!(
                "Keys [{}] from the EnvFrom {kind} {}/{name} were skipped since they are considered invalid environment \
                 variable names.",
                keys.join(", "),
                pod.meta().namespace
            );
            self.warn(pod, &container.name, "InvalidEnvironmentVariableNames", message);
        }
        Ok(found.variables)
    }
}

/// Replaces `$(NAME)` by the variable's value; `$$` is a dollar sign; what is unknown stays as it is.
pub(super) fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    expand_with(text, &mut |name| known.get(name).cloned())
}

/// As [`expand`], but a variable that is unknown is an error: its name.
pub(super) fn expand_known(text: &str, known: &BTreeMap<String, String>) -> Result<String, String> {
    let mut missing = None;
    let expanded = expand_with(text, &mut |name| {
        let value = known.get(name).cloned();
        if value.is_none() {
            missing.get_or_insert_with(|| name.to_owned());
        }
        value
    });
    missing.map_or(Ok(expanded), Err)
}

fn expand_with(text: &str, value_of: &mut dyn FnMut(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        result.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        let name = rest.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match name {
            Some((name, after)) => {
                match value_of(name) {
                    Some(value) => result.push_str(&value),
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

fn from_objects(
    container: &Container,
    sources: &Sources,
    variables: &mut Vec<(String, String)>,
) -> Result<Vec<Skipped>, EnvError> {
    let mut skipped = Vec::new();
    for from in &container.env_from {
        let (kind, name, optional, data) = if let Some(reference) = &from.config_map_ref {
            let data = sources.config_maps.get(&reference.name).map(config_map_text);
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
        let named = data.into_iter().map(|(key, value)| (format!("{}{key}", from.prefix), text(&value)));
        let (usable, others): (Vec<_>, Vec<_>) = named.partition(|(name, _)| is_name(name));
        variables.extend(usable);
        if !others.is_empty() {
            let keys = others.into_iter().map(|(name, _)| name).collect();
            skipped.push(Skipped { kind, name: name.clone(), keys });
        }
    }
    Ok(skipped)
}

/// Printable, and without "=", with which it would set another variable.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=')
}

fn referred(
    pod: &Pod,
    container: &Container,
    variable: &str,
    source: &EnvVarSource,
    origins: &Origins<'_>,
) -> Result<Option<String>, EnvError> {
    let Origins { sources, around, .. } = origins;
    let of_field = |source| EnvError::Field { variable: variable.to_owned(), source };
    if let Some(field) = &source.field_ref {
        return downward::field(pod, &field.field_path, around).map(Some).map_err(of_field);
    }
    if let Some(selector) = &source.resource_field_ref {
        return downward::resource(pod, Some(container), selector, around).map(Some).map_err(of_field);
    }
    let (kind, name, key, optional, data) = if let Some(reference) = &source.config_map_key_ref {
        let data = sources.config_maps.get(&reference.name).map(config_map_text);
        ("ConfigMap", &reference.name, &reference.key, reference.optional, data)
    } else if let Some(reference) = &source.secret_key_ref {
        let data = sources.secrets.get(&reference.name).map(secret_data);
        ("Secret", &reference.name, &reference.key, reference.optional, data)
    } else if let Some(reference) = &source.file_key_ref {
        return from_file(variable, reference, origins.files);
    } else {
        return Ok(Some(String::new()));
    };
    let missing = match data {
        Some(data) => match data.get(key) {
            Some(value) => return Ok(Some(text(value))),
            None => {
                let name = format!("{}/{name}", pod.meta().namespace);
                EnvError::NoKey { kind, name, key: key.clone() }
            }
        },
        None => EnvError::NotFound { kind, name: name.clone() },
    };
    if optional == Some(true) { Ok(None) } else { Err(missing) }
}

fn from_file(variable: &str, reference: &FileKeySelector, files: &Files) -> Result<Option<String>, EnvError> {
    let FileKeySelector { volume_name, path, key, optional } = reference;
    let read = files.get(&(volume_name.clone(), path.clone())).unwrap_or(&Ok(None));
    let problem = match read {
        Err(problem) => problem.clone(),
        Ok(found) => match found.as_ref().map(|file| file.get(key)) {
            Some(Some(value)) => return Ok(Some(value.clone())),
            _ if *optional == Some(true) => return Ok(None),
            Some(None) => format!("it has no variable {key:?}"),
            None => "it does not exist; let an init container write it, or set optional: true".to_owned(),
        },
    };
    let (volume, path) = (volume_name.clone(), path.clone());
    Err(EnvError::FileKey { variable: variable.to_owned(), volume, path, problem })
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

    fn of(container: &Container, sources: &Sources) -> Result<Environment, EnvError> {
        let mut pod = Pod::default();
        pod.meta_mut().namespace = "default".to_owned();
        let at = |path: &str| ("v".to_owned(), path.to_owned());
        let with = |name: &str| Ok(Some(BTreeMap::from([(name.to_owned(), "v".to_owned())])));
        let files = Files::from([
            (at("good"), with("K")),
            (at("other"), with("L")),
            (at("none"), Ok(None)),
            (at("broken"), Err("line 1 is not NAME=value".to_owned())),
        ]);
        let services = [("WEB_SERVICE_HOST".to_owned(), "10.96.0.3".to_owned())];
        let around = surroundings();
        environment(
            &pod,
            container,
            &Origins { sources, files: &files, services: &services, around: &around },
        )
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
                variable("B", "$(A)$(P_colour)$(WEB_SERVICE_HOST)$(LATER)"),
                from_key("C", "colour", false),
                from_key("D", "none", true),
                EnvVar { name: "N".to_owned(), value_from: Some(node), ..EnvVar::default() },
                variable("LATER", "x"),
            ],
            ..Container::default()
        };
        let variables = of(&container, &sources()).expect("all there").variables;
        let expected = [
            ("WEB_SERVICE_HOST", "10.96.0.3"),
            ("P_colour", "blue"),
            ("A", "1"),
            ("B", "1blue10.96.0.3$(LATER)"),
            ("C", "blue"),
            ("N", "n1"),
            ("LATER", "x"),
        ];
        assert_eq!(variables, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn what_is_missing_is_named() {
        let problem = |variable: EnvVar, sources: &Sources| {
            let container = Container { env: vec![variable], ..Container::default() };
            of(&container, sources).expect_err("missing").to_string()
        };
        assert_eq!(
            problem(from_key("C", "none", false), &sources()),
            "couldn't find key none in ConfigMap default/map"
        );
        assert_eq!(
            problem(from_key("C", "colour", false), &Sources::default()),
            "ConfigMap \"map\" not found; make it, or set optional: true"
        );
        let file = |path: &str| {
            let reference = FileKeySelector {
                volume_name: "v".to_owned(),
                path: path.to_owned(),
                key: "K".to_owned(),
                optional: None,
            };
            let source = EnvVarSource { file_key_ref: Some(reference), ..EnvVarSource::default() };
            EnvVar { name: "F".to_owned(), value_from: Some(source), ..EnvVar::default() }
        };
        assert!(problem(file("none"), &sources()).contains("\"none\" of volume \"v\": it does not exist"));
        assert!(problem(file("other"), &sources()).contains("it has no variable \"K\""));
        assert!(problem(file("broken"), &sources()).ends_with("line 1 is not NAME=value"));
        let container = Container { env: vec![file("good")], ..Container::default() };
        let found = of(&container, &sources()).expect("there").variables;
        assert!(found.contains(&("F".to_owned(), "v".to_owned())));
    }

    #[test]
    fn binary_keys_are_no_variables_and_names_that_cannot_be_are_skipped_and_named() {
        let mut sources = sources();
        let map = sources.config_maps.get_mut("map").expect("there");
        map.binary_data.insert("binary".to_owned(), b"1".to_vec());
        map.data.insert("with=equals".to_owned(), "x".to_owned());
        let from = EnvFromSource {
            config_map_ref: Some(ConfigMapEnvSource { name: "map".to_owned(), optional: None }),
            ..EnvFromSource::default()
        };
        let container = Container { env_from: vec![from], ..Container::default() };
        let found = of(&container, &sources).expect("there");
        assert_eq!(found.variables.last(), Some(&("colour".to_owned(), "blue".to_owned())));
        assert!(!found.variables.iter().any(|(name, _)| name == "binary"));
        let keys = vec!["with=equals".to_owned()];
        assert_eq!(found.skipped, [Skipped { kind: "ConfigMap", name: "map".to_owned(), keys }]);
    }

    proptest! {
        #[test]
        fn expansion_never_panics_and_leaves_text_without_dollars_alone(text in "[^$]{0,20}", any in "[$()A-C]{0,20}") {
            prop_assert_eq!(expand(&text, &BTreeMap::new()), text);
            expand(&any, &BTreeMap::from([("A".to_owned(), "$(B)".to_owned())]));
        }
    }
}
