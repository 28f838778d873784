//! A pod's specification, alone or as the template of a controller: its defaults and its rules.

mod containers;
mod defaults;
mod dns;
mod environment;
mod ephemeral;
mod placement;
mod probes;
mod resources;
mod security;
mod spread;
mod volumes;

use std::collections::BTreeSet;

use weir_proto::core::v1::{PodSpec, PodTemplateSpec};
use weir_proto::labels;
use weir_proto::meta::v1::LabelSelector;

pub(super) use defaults::{fill_defaults, requests_from_limits};
pub(super) use ephemeral::validate_update as validate_ephemeral_update;
pub(super) use placement::validate_taint;
pub(super) use resources::{classify, validate_quantities};

use crate::validation::meta::{validate_annotations, validate_labels};
use crate::validation::{Errors, Path, Shown, names, selectors};

/// Seconds between SIGTERM and SIGKILL.
pub(super) const GRACE_PERIOD: i64 = 30;

pub(super) fn validate(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let volumes = volumes::validate(&spec.volumes, &path.child("volumes"), errors);
    containers::validate(spec, &volumes, path, errors);
    placement::validate(spec, path, errors);
    validate_lifetime(spec, path, errors);
    validate_identity(spec, path, errors);
    security::validate_pod(spec, path, errors);
    if let Some(policy) = &spec.preemption_policy {
        validate_preemption_policy(policy, &path.child("preemptionPolicy"), errors);
    }
    dns::validate(spec, path, errors);
    validate_host_aliases(spec, path, errors);
}

fn validate_lifetime(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    errors.one_of(&path.child("restartPolicy"), &spec.restart_policy, &["Always", "OnFailure", "Never"]);
    if let Some(seconds) = spec.termination_grace_period_seconds {
        errors.not_negative(&path.child("terminationGracePeriodSeconds"), seconds);
    }
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = format!("must be between 1 and {}, inclusive", i32::MAX);
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, detail);
    }
}

fn validate_identity(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let named = [
        ("serviceAccountName", &spec.service_account_name, names::dns_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", &spec.node_name, names::dns_subdomain),
        ("hostname", &spec.hostname, names::dns_label),
        ("subdomain", &spec.subdomain, names::dns_label),
        ("priorityClassName", &spec.priority_class_name, names::dns_subdomain),
    ];
    for (field, value, check) in named {
        if !value.is_empty() {
            errors.syntax(&path.child(field), value, check(value));
        }
    }
    for (index, secret) in spec.image_pull_secrets.iter().enumerate() {
        if secret.name.is_empty() {
            errors.required(&path.child("imagePullSecrets").index(index).child("name"), "");
        }
    }
}

pub(super) fn validate_preemption_policy(policy: &str, path: &Path<'_>, errors: &mut Errors) {
    match policy {
        "" => errors.required(path, ""),
        _ => errors.one_of(path, policy, &["PreemptLowerPriority", "Never"]),
    }
}

fn validate_host_aliases(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    for (index, alias) in spec.host_aliases.iter().enumerate() {
        let path = path.child("hostAliases");
        let path = path.index(index);
        validate_ip(&path.child("ip"), &alias.ip, errors);
        for (index, hostname) in alias.hostnames.iter().enumerate() {
            let hostnames = path.child("hostnames");
            errors.syntax(&hostnames.index(index), hostname, names::dns_subdomain(hostname));
        }
    }
}

pub(super) fn validate_ip(path: &Path<'_>, value: &str, errors: &mut Errors) {
    if value.parse::<std::net::IpAddr>().is_err() {
        errors.invalid(path, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
}

/// Rules of a template under a controller that keeps its pods running (`owner`: "deployment", "replicaset").
pub(super) fn validate_template(
    template: Option<&PodTemplateSpec>,
    selector: Option<&LabelSelector>,
    owner: &str,
    errors: &mut Errors,
) {
    let spec = Path::root("spec");
    let at_selector = spec.child("selector");
    match selector {
        None => errors.required(&at_selector, ""),
        Some(selector) => {
            selectors::validate(selector, &at_selector, errors);
            if selectors::is_empty(selector) {
                errors.invalid(
                    &at_selector,
                    Shown::Plain("{}".to_owned()),
                    format!("empty selector is invalid for {owner}"),
                );
            }
        }
    }

    let path = spec.child("template");
    let Some(template) = template else {
        return errors.required(&path, "");
    };
    let at_labels = path.child("metadata.labels");
    let no_labels = Default::default();
    let labels = template.metadata.as_ref().map_or(&no_labels, |meta| &meta.labels);
    let compiled = selector.and_then(|selector| labels::Selector::try_from(selector).ok());
    if compiled.is_some_and(|selector| !selector.matches(labels)) {
        let shown: Vec<_> = labels.iter().map(|(key, value)| format!("{key:?}:{value:?}")).collect();
        let shown = Shown::Plain(format!("{{{}}}", shown.join(",")));
        errors.invalid(&at_labels, shown, "`selector` does not match template `labels`");
    }
    validate_labels(labels, &at_labels, errors);
    if let Some(meta) = &template.metadata {
        validate_annotations(&meta.annotations, &path.child("metadata.annotations"), errors);
    }
    let path = path.child("spec");
    let Some(spec) = &template.spec else {
        return errors.required(&path, "");
    };
    validate(spec, &path, errors);
    if !spec.ephemeral_containers.is_empty() {
        errors.forbidden(
            &path.child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
    if spec.restart_policy != "Always" {
        errors.unsupported(&path.child("restartPolicy"), &spec.restart_policy, &["Always"]);
    }
    if spec.active_deadline_seconds.is_some() {
        let detail = format!("activeDeadlineSeconds in {owner} is not Supported");
        errors.forbidden(&path.child("activeDeadlineSeconds"), detail);
    }
}

/// ConfigMaps and Secrets that the pod reads, by name: what its node may read for it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    pub(crate) config_maps: BTreeSet<String>,
    pub(crate) secrets: BTreeSet<String>,
}

impl References {
    pub(crate) fn of(spec: &PodSpec) -> Self {
        let mut found = References::default();
        environment::references(spec, &mut found);
        volumes::references(spec, &mut found);
        found.secrets.extend(spec.image_pull_secrets.iter().map(|secret| secret.name.clone()));
        found
    }
}
