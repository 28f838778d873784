//! Containers: names, images, ports, mounts.

use std::collections::{BTreeMap, BTreeSet};

use weir_proto::core::v1::{Container, ContainerPort, PodSpec, VolumeMount};

use super::{environment, ephemeral, probes, resources, security, validate_ip};
use crate::validation::{Errors, Path, names};

pub(super) fn validate(spec: &PodSpec, volumes: &BTreeSet<&str>, path: &Path<'_>, errors: &mut Errors) {
    if spec.containers.is_empty() {
        errors.required(&path.child("containers"), "");
    }
    let mut taken = BTreeSet::new();
    for (field, containers) in [("initContainers", &spec.init_containers), ("containers", &spec.containers)] {
        let path = path.child(field);
        let mut host_ports = BTreeSet::new();
        for (index, container) in containers.iter().enumerate() {
            let path = path.index(index);
            validate_container(spec, container, volumes, &path, errors);
            if !container.name.is_empty() && !taken.insert(container.name.as_str()) {
                errors.duplicate(&path.child("name"), &container.name);
            }
            validate_host_ports(&container.ports, &mut host_ports, &path.child("ports"), errors);
            if spec.host_network {
                validate_ports_of_host(&container.ports, &path.child("ports"), errors);
            }
            if field == "initContainers" {
                validate_init(container, &path, errors);
            } else {
                validate_main(container, &path, errors);
            }
        }
    }
    ephemeral::validate(spec, volumes, path, &taken, errors);
}

pub(super) fn validate_container(
    spec: &PodSpec,
    container: &Container,
    volumes: &BTreeSet<&str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if container.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        errors.syntax(&path.child("name"), &container.name, names::dns_label(&container.name));
    }
    let image = path.child("image");
    if container.image.is_empty() {
        errors.required(&image, "");
    } else if container.image.trim() != container.image {
        errors.invalid(&image, &container.image, "must not have leading or trailing whitespace");
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    errors.one_of(&path.child("imagePullPolicy"), &container.image_pull_policy, &policies);
    let policies = ["File", "FallbackToLogsOnError"];
    errors.one_of(&path.child("terminationMessagePolicy"), &container.termination_message_policy, &policies);
    validate_ports(&container.ports, &path.child("ports"), errors);
    environment::validate(spec, container, path, errors);
    validate_mounts(container, volumes, path, errors);
    if let Some(requirements) = &container.resources {
        resources::validate(requirements, &path.child("resources"), errors);
    }
    if let Some(context) = &container.security_context {
        security::validate_container(spec, context, path, errors);
    }
    probes::validate(container, path, errors);
}

fn validate_main(container: &Container, path: &Path<'_>, errors: &mut Errors) {
    if container.restart_policy.is_some() {
        errors.forbidden(&path.child("restartPolicy"), "may not be set for non-init containers");
    }
}

fn validate_init(container: &Container, path: &Path<'_>, errors: &mut Errors) {
    match container.restart_policy.as_deref() {
        Some("Always") => return,
        Some(other) => errors.unsupported(&path.child("restartPolicy"), other, &["Always"]),
        None => {}
    }
    let forbidden = [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ];
    for (field, _) in forbidden.into_iter().filter(|(_, present)| *present) {
        errors
            .forbidden(&path.child(field), "may not be set for init containers without restartPolicy=Always");
    }
}

fn validate_ports(ports: &[ContainerPort], path: &Path<'_>, errors: &mut Errors) {
    let mut taken = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        if !port.name.is_empty() {
            errors.syntax(&path.child("name"), &port.name, names::port_name(&port.name));
            if !taken.insert(port.name.as_str()) {
                errors.duplicate(&path.child("name"), &port.name);
            }
        }
        if port.container_port == 0 {
            errors.required(&path.child("containerPort"), "");
        } else {
            errors.port(&path.child("containerPort"), port.container_port);
        }
        if port.host_port != 0 {
            errors.port(&path.child("hostPort"), port.host_port);
        }
        if !port.host_ip.is_empty() {
            validate_ip(&path.child("hostIP"), &port.host_ip, errors);
        }
        errors.one_of(&path.child("protocol"), &port.protocol, &["TCP", "UDP", "SCTP"]);
    }
}

fn validate_host_ports<'a>(
    ports: &'a [ContainerPort],
    taken: &mut BTreeSet<(&'a str, &'a str, i32)>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (index, port) in ports.iter().enumerate().filter(|(_, port)| port.host_port != 0) {
        if !taken.insert((&port.protocol, &port.host_ip, port.host_port)) {
            let shown = format!("{}/{}/{}", port.protocol, port.host_ip, port.host_port);
            errors.duplicate(&path.index(index).child("hostPort"), &shown);
        }
    }
}

fn validate_ports_of_host(ports: &[ContainerPort], path: &Path<'_>, errors: &mut Errors) {
    for (index, port) in ports.iter().enumerate() {
        if port.host_port != port.container_port {
            let detail = "must match `hostPort` when `hostNetwork` is true";
            errors.invalid(&path.index(index).child("containerPort"), port.container_port, detail);
        }
    }
}

fn validate_mounts(container: &Container, volumes: &BTreeSet<&str>, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("volumeMounts");
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let path = path.index(index);
        if mount.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !volumes.contains(mount.name.as_str()) {
            errors.not_found(&path.child("name"), &mount.name);
        }
        let at = path.child("mountPath");
        if mount.mount_path.is_empty() {
            errors.required(&at, "");
        } else if mount.mount_path.contains(':') {
            errors.invalid(&at, &mount.mount_path, "must not contain ':'");
        } else if taken.insert(&mount.mount_path, index).is_some() {
            errors.invalid(&at, &mount.mount_path, "must be unique");
        }
        for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            validate_inner_path(value, &path.child(field), errors);
        }
        if !mount.sub_path.is_empty() && !mount.sub_path_expr.is_empty() {
            errors.invalid(
                &path.child("subPathExpr"),
                &mount.sub_path_expr,
                "subPathExpr and subPath are mutually exclusive",
            );
        }
        if let Some(propagation) = &mount.mount_propagation {
            let known = ["None", "HostToContainer", "Bidirectional"];
            errors.one_of(&path.child("mountPropagation"), propagation, &known);
            let privileged =
                container.security_context.as_ref().is_some_and(|own| own.privileged == Some(true));
            if propagation == "Bidirectional" && !privileged {
                let detail = "Bidirectional mount propagation is available only to privileged containers";
                errors.forbidden(&path.child("mountPropagation"), detail);
            }
        }
        validate_recursive_read_only(mount, &path, errors);
    }
}

fn validate_recursive_read_only(mount: &VolumeMount, path: &Path<'_>, errors: &mut Errors) {
    let Some(value) = &mount.recursive_read_only else { return };
    let path = path.child("recursiveReadOnly");
    errors.one_of(&path, value, &["Disabled", "Enabled", "IfPossible"]);
    if matches!(value.as_str(), "Enabled" | "IfPossible") {
        if !mount.read_only {
            errors.forbidden(&path, "may only be specified when readOnly is true");
        }
        if !matches!(mount.mount_propagation.as_deref(), None | Some("None")) {
            errors.forbidden(&path, "may only be specified when mountPropagation is None or not specified");
        }
    }
}

/// A path that must stay inside of what it is relative to.
pub(super) fn validate_inner_path(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.starts_with('/') {
        errors.invalid(path, value, "must be a relative path");
    }
    if value.split('/').any(|part| part == "..") {
        errors.invalid(path, value, "must not contain '..'");
    }
}
