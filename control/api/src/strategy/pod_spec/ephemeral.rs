//! Ephemeral containers: added to a pod that is there already, at its subresource `ephemeralcontainers`, and never changed.

use std::collections::BTreeSet;

use weir_proto::core::v1::{Container, EphemeralContainer, PodSpec};

use super::containers::validate_container;
use crate::validation::{Errors, Path};

const NOT_FOR_THEM: &str = "cannot be set for an Ephemeral Container";

pub(super) fn validate(
    spec: &PodSpec,
    volumes: &BTreeSet<&str>,
    path: &Path<'_>,
    taken: &BTreeSet<&str>,
    errors: &mut Errors,
) {
    let path = path.child("ephemeralContainers");
    let mut own = BTreeSet::new();
    for (index, ephemeral) in spec.ephemeral_containers.iter().enumerate() {
        let path = path.index(index);
        let container = Container::from(ephemeral);
        validate_container(spec, &container, volumes, &path, errors);
        let name = ephemeral.name.as_str();
        if !name.is_empty() && (taken.contains(name) || !own.insert(name)) {
            errors.duplicate(&path.child("name"), name);
        }
        let target = ephemeral.target_container_name.as_str();
        if !target.is_empty() && !taken.contains(target) {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        for (field, _) in forbidden(&container).into_iter().filter(|(_, present)| *present) {
            errors.forbidden(&path.child(field), NOT_FOR_THEM);
        }
        for (index, mount) in container.volume_mounts.iter().enumerate() {
            let mounts = path.child("volumeMounts");
            let path = mounts.index(index);
            for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
                if !value.is_empty() {
                    errors.forbidden(&path.child(field), NOT_FOR_THEM);
                }
            }
        }
    }
}

/// What makes promises that nobody keeps for something that is there to look around.
fn forbidden(container: &Container) -> [(&'static str, bool); 9] {
    let resources = container.resources.as_ref();
    let reserves = resources
        .is_some_and(|all| !(all.limits.is_empty() && all.requests.is_empty() && all.claims.is_empty()));
    [
        ("ports", !container.ports.is_empty()),
        ("resources", reserves),
        ("resizePolicy", !container.resize_policy.is_empty()),
        ("restartPolicy", container.restart_policy.is_some()),
        ("restartPolicyRules", !container.restart_policy_rules.is_empty()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ]
}

/// They may be added. Those that are there stay as they are.
pub(in crate::strategy) fn validate_update(
    new: &[EphemeralContainer],
    old: &[EphemeralContainer],
    errors: &mut Errors,
) {
    let path = Path::root("spec.ephemeralContainers");
    for before in old {
        let verb = match new.iter().find(|container| container.name == before.name) {
            Some(after) if after == before => continue,
            Some(_) => "changed",
            None => "removed",
        };
        errors.forbidden(&path, format!("existing ephemeral containers {:?} may not be {verb}", before.name));
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::{ContainerPort, Lifecycle, VolumeMount};

    use super::*;

    fn debugger(name: &str) -> EphemeralContainer {
        EphemeralContainer {
            name: name.to_owned(),
            image: "busybox:1".to_owned(),
            image_pull_policy: "IfNotPresent".to_owned(),
            termination_message_policy: "File".to_owned(),
            resources: Some(Default::default()),
            ..EphemeralContainer::default()
        }
    }

    fn causes(check: impl FnOnce(&mut Errors)) -> Vec<String> {
        let mut errors = Errors::default();
        check(&mut errors);
        errors.into_causes().into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    fn validated(ephemeral: EphemeralContainer) -> Vec<String> {
        let spec = PodSpec { ephemeral_containers: vec![ephemeral], ..PodSpec::default() };
        let path = Path::root("spec");
        causes(|errors| validate(&spec, &["data"].into(), &path, &["web"].into(), errors))
    }

    #[test]
    fn one_that_only_looks_is_valid() {
        let aimed = EphemeralContainer { target_container_name: "web".to_owned(), ..debugger("d") };
        assert_eq!(validated(aimed), Vec::<String>::new());
    }

    #[test]
    fn names_targets_and_promises_are_refused_by_field() {
        assert_eq!(
            validated(debugger("web")),
            ["spec.ephemeralContainers[0].name: Duplicate value: \"web\""]
        );
        let aimed = EphemeralContainer { target_container_name: "db".to_owned(), ..debugger("d") };
        assert_eq!(validated(aimed), ["spec.ephemeralContainers[0].targetContainerName: Not found: \"db\""]);
        let mut wrong = debugger("d");
        wrong.ports = vec![ContainerPort {
            container_port: 80,
            protocol: "TCP".to_owned(),
            ..ContainerPort::default()
        }];
        wrong.lifecycle = Some(Box::new(Lifecycle::default()));
        wrong.volume_mounts = vec![VolumeMount {
            name: "data".to_owned(),
            mount_path: "/d".to_owned(),
            sub_path: "x".to_owned(),
            ..VolumeMount::default()
        }];
        let fields: Vec<_> =
            validated(wrong).iter().map(|cause| cause.split(':').next().unwrap().to_owned()).collect();
        assert_eq!(
            fields,
            [
                "spec.ephemeralContainers[0].ports",
                "spec.ephemeralContainers[0].lifecycle",
                "spec.ephemeralContainers[0].volumeMounts[0].subPath"
            ]
        );
    }

    #[test]
    fn they_are_added_and_neither_changed_nor_removed() {
        let check = |new: &[EphemeralContainer], old: &[EphemeralContainer]| {
            causes(|errors| validate_update(new, old, errors))
        };
        assert_eq!(check(&[debugger("a"), debugger("b")], &[debugger("a")]), Vec::<String>::new());
        let said = |verb: &str| {
            let path = "spec.ephemeralContainers";
            format!("{path}: Forbidden: existing ephemeral containers \"a\" may not be {verb}")
        };
        assert_eq!(check(&[debugger("b")], &[debugger("a")]), [said("removed")]);
        let other = EphemeralContainer { image: "busybox:2".to_owned(), ..debugger("a") };
        assert_eq!(check(&[other], &[debugger("a")]), [said("changed")]);
    }
}
