//! Environment variables and where their values come from.

use weir_proto::core::v1::{Container, EnvVar, EnvVarSource, FileKeySelector, PodSpec};

use super::References;
use super::volumes::validate_file_path;
use crate::validation::{Errors, Path, names};

const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub(super) fn validate(spec: &PodSpec, container: &Container, path: &Path<'_>, errors: &mut Errors) {
    let at_env = path.child("env");
    for (index, variable) in container.env.iter().enumerate() {
        validate_variable(spec, variable, &at_env.index(index), errors);
    }
    let at_from = path.child("envFrom");
    for (index, source) in container.env_from.iter().enumerate() {
        let path = at_from.index(index);
        if !source.prefix.is_empty() {
            errors.syntax(&path.child("prefix"), &source.prefix, names::environment_variable(&source.prefix));
        }
        match (&source.config_map_ref, &source.secret_ref) {
            (Some(_), Some(_)) => {
                errors.invalid(&path, "", "may not have more than one field specified at a time")
            }
            (None, None) => errors.invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`"),
            (Some(map), None) => validate_reference("configMapRef", &map.name, &path, errors),
            (None, Some(secret)) => validate_reference("secretRef", &secret.name, &path, errors),
        }
    }
}

fn validate_variable(spec: &PodSpec, variable: &EnvVar, path: &Path<'_>, errors: &mut Errors) {
    if variable.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        errors.syntax(&path.child("name"), &variable.name, names::environment_variable(&variable.name));
    }
    let Some(source) = &variable.value_from else { return };
    let path = path.child("valueFrom");
    if !variable.value.is_empty() {
        errors.invalid(&path, "", "may not be specified when `value` is not empty");
    }
    validate_source(spec, source, &path, errors);
}

fn validate_source(spec: &PodSpec, source: &EnvVarSource, path: &Path<'_>, errors: &mut Errors) {
    let set = [
        source.field_ref.is_some(),
        source.resource_field_ref.is_some(),
        source.config_map_key_ref.is_some(),
        source.secret_key_ref.is_some(),
        source.file_key_ref.is_some(),
    ];
    match set.into_iter().filter(|set| *set).count() {
        0 => {
            let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                          `fileKeyRef`";
            errors.invalid(path, "", detail);
        }
        1 => {}
        _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
    }
    if let Some(field) = &source.field_ref {
        validate_field(&field.field_path, &path.child("fieldRef.fieldPath"), errors);
    }
    if let Some(resource) = &source.resource_field_ref {
        validate_resource_field(&resource.resource, &path.child("resourceFieldRef.resource"), errors);
    }
    if let Some(key) = &source.config_map_key_ref {
        validate_reference("configMapKeyRef", &key.name, path, errors);
        validate_key(&key.key, &path.child("configMapKeyRef.key"), errors);
    }
    if let Some(key) = &source.secret_key_ref {
        validate_reference("secretKeyRef", &key.name, path, errors);
        validate_key(&key.key, &path.child("secretKeyRef.key"), errors);
    }
    if let Some(file) = &source.file_key_ref {
        validate_file_key(spec, file, &path.child("fileKeyRef"), errors);
    }
}

/// The file is one that another container of the pod writes: into a volume that lives and ends with it.
fn validate_file_key(spec: &PodSpec, file: &FileKeySelector, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("key");
    if file.key.is_empty() {
        errors.required(&at, "");
    } else {
        errors.syntax(&at, &file.key, names::environment_variable(&file.key));
    }
    validate_file_path(&file.path, &path.child("path"), errors);
    let at = path.child("volumeName");
    if file.volume_name.is_empty() {
        return errors.required(&at, "");
    }
    match spec.volumes.iter().find(|volume| volume.name == file.volume_name) {
        None => errors.not_found(&at, &file.volume_name),
        Some(volume) if volume.empty_dir.is_none() => {
            errors.invalid(&at, &file.volume_name, "referenced volume must be of type emptyDir");
        }
        Some(_) => {}
    }
}

/// The fields of a pod that its containers may be told.
pub(super) fn validate_field(field: &str, path: &Path<'_>, errors: &mut Errors) {
    let subscripted = ["metadata.labels['", "metadata.annotations['"]
        .iter()
        .any(|prefix| field.strip_prefix(prefix).is_some_and(|rest| rest.ends_with("']")));
    if field.is_empty() {
        errors.required(path, "");
    } else if !subscripted {
        errors.one_of(path, field, &FIELDS);
    }
}

pub(super) fn validate_resource_field(resource: &str, path: &Path<'_>, errors: &mut Errors) {
    if resource.is_empty() {
        errors.required(path, "");
    } else if !resource.contains("hugepages-") {
        errors.one_of(path, resource, &RESOURCES);
    }
}

fn validate_reference(field: &str, name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(&path.child(field).child("name"), "");
    } else {
        errors.syntax(&path.child(field).child("name"), name, names::dns_subdomain(name));
    }
}

fn validate_key(key: &str, path: &Path<'_>, errors: &mut Errors) {
    if key.is_empty() {
        errors.required(path, "");
    } else {
        errors.syntax(path, key, names::config_key(key));
    }
}

pub(super) fn references(spec: &PodSpec, found: &mut References) {
    let ephemeral = spec.ephemeral_containers.iter().map(|container| (&container.env_from, &container.env));
    let others = spec.init_containers.iter().chain(&spec.containers);
    for (env_from, env) in others.map(|container| (&container.env_from, &container.env)).chain(ephemeral) {
        for source in env_from {
            found.config_maps.extend(source.config_map_ref.iter().map(|map| map.name.clone()));
            found.secrets.extend(source.secret_ref.iter().map(|secret| secret.name.clone()));
        }
        for source in env.iter().filter_map(|variable| variable.value_from.as_ref()) {
            found.config_maps.extend(source.config_map_key_ref.iter().map(|key| key.name.clone()));
            found.secrets.extend(source.secret_key_ref.iter().map(|key| key.name.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::Volume;

    use super::*;

    #[test]
    fn a_variable_from_a_file_names_an_empty_dir_of_the_pod_a_path_inside_and_a_variable() {
        let volume = |name: &str| Volume { name: name.to_owned(), ..Volume::default() };
        let shared = Volume { empty_dir: Some(Default::default()), ..volume("shared") };
        let spec = PodSpec { volumes: vec![shared, volume("other")], ..PodSpec::default() };
        let cases = [
            ("shared", "config.env", "NAME", ""),
            ("", "config.env", "NAME", "valueFrom.fileKeyRef.volumeName"),
            ("none", "config.env", "NAME", "valueFrom.fileKeyRef.volumeName"),
            ("other", "config.env", "NAME", "valueFrom.fileKeyRef.volumeName"),
            ("shared", "", "NAME", "valueFrom.fileKeyRef.path"),
            ("shared", "/config.env", "NAME", "valueFrom.fileKeyRef.path"),
            ("shared", "a/../../b", "NAME", "valueFrom.fileKeyRef.path"),
            ("shared", "..data", "NAME", "valueFrom.fileKeyRef.path"),
            ("shared", "config.env", "", "valueFrom.fileKeyRef.key"),
            ("shared", "config.env", "A=B", "valueFrom.fileKeyRef.key"),
        ];
        for (volume_name, path, key, expected) in cases {
            let file = FileKeySelector {
                volume_name: volume_name.to_owned(),
                path: path.to_owned(),
                key: key.to_owned(),
                optional: None,
            };
            let source = EnvVarSource { file_key_ref: Some(file), ..EnvVarSource::default() };
            let variable = EnvVar { name: "A".to_owned(), value_from: Some(source), ..EnvVar::default() };
            let mut errors = Errors::default();
            validate_variable(&spec, &variable, &Path::root("env"), &mut errors);
            let fields: Vec<_> = errors.into_causes().into_iter().map(|cause| cause.field).collect();
            let expected: Vec<_> = Some(expected).filter(|field| !field.is_empty()).into_iter().collect();
            let fields: Vec<_> = fields.iter().filter_map(|field| field.strip_prefix("env.")).collect();
            assert_eq!(fields, expected, "{volume_name:?} {path:?} {key:?}");
        }
    }
}
