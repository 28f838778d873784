//! Pods.

mod gates;

use weir_proto::core::v1::{Pod, PodCondition, PodStatus, Toleration};
use weir_proto::meta::v1::Time;

use super::{Strategy, pod_spec, unsupported};
use crate::auth::mirror::ANNOTATION;
use crate::validation::{Errors, Path};

pub(super) struct Pods;

/// How long a pod stays on a node that is not ready or not reachable, unless it says otherwise.
const TOLERATION_SECONDS: i64 = 300;
const NODE_TROUBLES: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

impl Strategy for Pods {
    type Object = Pod;

    fn fill_defaults(&self, pod: &mut Pod) {
        let spec = pod.spec.get_or_insert_default();
        pod_spec::fill_defaults(spec);
        pod_spec::requests_from_limits(spec);
    }

    fn prepare_create(&self, pod: &mut Pod) {
        let spec = pod.spec.get_or_insert_default();
        for trouble in NODE_TROUBLES {
            tolerate(&mut spec.tolerations, trouble);
        }
        pod.status = Some(PodStatus {
            phase: "Pending".to_owned(),
            qos_class: pod_spec::classify(spec).to_owned(),
            conditions: if spec.scheduling_gates.is_empty() { Vec::new() } else { vec![gated()] },
            ..PodStatus::default()
        });
    }

    /// What admission worked out when the pod was created stays, where an update leaves it out.
    fn prepare_update(&self, new: &mut Pod, old: &Pod) {
        let (Some(new), Some(old)) = (&mut new.spec, &old.spec) else { return };
        new.priority = new.priority.or(old.priority);
        if new.preemption_policy.is_none() {
            new.preemption_policy.clone_from(&old.preemption_policy);
        }
    }

    fn copy_status(&self, to: &mut Pod, from: &Pod) {
        to.status.clone_from(&from.status);
    }

    fn generation_moves(&self, new: &Pod, old: &Pod) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn validate(&self, pod: &Pod, errors: &mut Errors) {
        if let Some(spec) = &pod.spec {
            let path = Path::root("spec");
            pod_spec::validate(spec, &path, errors);
            gates::validate(spec, &path, errors);
        }
    }

    fn validate_create(&self, pod: &Pod, errors: &mut Errors) {
        if pod.spec.as_ref().is_some_and(|spec| !spec.ephemeral_containers.is_empty()) {
            errors.forbidden(&Path::root("spec.ephemeralContainers"), "cannot be set on create");
        }
    }

    fn validate_update(&self, new: &Pod, old: &Pod, errors: &mut Errors) {
        let mirrored = |pod: &Pod| pod.meta().annotations.get(ANNOTATION).cloned();
        let detail = match (mirrored(old), mirrored(new)) {
            (None, Some(_)) => Some("may not add mirror pod annotation"),
            (before, after) if before != after => Some("may not remove or update mirror pod annotation"),
            _ => None,
        };
        if let Some(detail) = detail {
            errors.forbidden(&Path::root("metadata").child("annotations").child(ANNOTATION), detail);
        }
        let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return };
        let path = Path::root("spec");
        let kept = old.tolerations.iter().all(|toleration| new.tolerations.contains(toleration));
        if !kept {
            let detail = "existing toleration can not be modified except its tolerationSeconds";
            errors.forbidden(&path.child("tolerations"), detail);
        }
        if let (Some(before), after) = (old.active_deadline_seconds, new.active_deadline_seconds)
            && after.is_none_or(|after| after > before)
        {
            let detail = "must be less than or equal to previous value, and may not be removed";
            errors.invalid(&path.child("activeDeadlineSeconds"), after.unwrap_or(0), detail);
        }
        let counts = [
            ("containers", new.containers.len() == old.containers.len()),
            ("initContainers", new.init_containers.len() == old.init_containers.len()),
        ];
        for (field, _) in counts.into_iter().filter(|(_, same)| !same) {
            errors.forbidden(&path.child(field), "pod updates may not add or remove containers");
        }
        if counts.iter().any(|(_, same)| !same) {
            return;
        }
        // Put back what may change; what differs then may not.
        let mut rest = new.clone();
        rest.tolerations.clone_from(&old.tolerations);
        rest.active_deadline_seconds = old.active_deadline_seconds;
        let containers =
            [(&mut rest.containers, &old.containers), (&mut rest.init_containers, &old.init_containers)];
        for (containers, before) in containers {
            for (container, before) in containers.iter_mut().zip(before) {
                container.image.clone_from(&before.image);
            }
        }
        if old.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0)
            && new.termination_grace_period_seconds == Some(1)
        {
            rest.termination_grace_period_seconds = old.termination_grace_period_seconds;
        }
        gates::validate_update(new, old, &mut rest, &path, errors);
        if rest != *old {
            let detail = "pod updates may not change fields other than `spec.containers[*].image`,\
                          `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
                          additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be \
                          set to 1 if it was previously negative)";
            errors.forbidden(&path, detail);
        }
    }

    fn warnings(&self, pod: &Pod) -> Vec<String> {
        pod.spec.as_ref().map(|spec| unsupported::in_pod(spec, "spec")).unwrap_or_default()
    }

    /// Nobody has to wait for a pod that no agent runs.
    fn grace_period(&self, pod: &Pod, requested: Option<i64>) -> Option<i64> {
        let spec = pod.spec.as_ref();
        let bound = spec.is_some_and(|spec| !spec.node_name.is_empty());
        let phase = pod.status.as_ref().map_or("", |status| status.phase.as_str());
        if !bound || matches!(phase, "Succeeded" | "Failed") {
            return Some(0);
        }
        let own = spec.and_then(|spec| spec.termination_grace_period_seconds);
        let seconds = requested.or(own).unwrap_or(pod_spec::GRACE_PERIOD);
        Some(if seconds < 0 { 1 } else { seconds })
    }
}

/// What may change at the subresource `ephemeralcontainers`.
pub(crate) fn validate_ephemeral_update(new: &Pod, old: &Pod, errors: &mut Errors) {
    let of = |pod: &Pod| pod.spec.as_ref().map_or_else(Vec::new, |spec| spec.ephemeral_containers.clone());
    pod_spec::validate_ephemeral_update(&of(new), &of(old), errors);
}

/// The scheduler leaves the pod alone, and says so from the start.
fn gated() -> PodCondition {
    PodCondition {
        r#type: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: "SchedulingGated".to_owned(),
        message: "Scheduling is blocked due to non-empty scheduling gates".to_owned(),
        last_transition_time: Some(Time::now()),
        ..PodCondition::default()
    }
}

fn tolerate(tolerations: &mut Vec<Toleration>, trouble: &str) {
    let covers = |toleration: &Toleration| {
        (toleration.key.is_empty() || toleration.key == trouble)
            && (toleration.effect.is_empty() || toleration.effect == "NoExecute")
    };
    if !tolerations.iter().any(covers) {
        tolerations.push(Toleration {
            key: trouble.to_owned(),
            operator: "Exists".to_owned(),
            effect: "NoExecute".to_owned(),
            toleration_seconds: Some(TOLERATION_SECONDS),
            ..Toleration::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::{Container, PodSpec};

    use super::*;

    fn pod() -> Pod {
        let container =
            Container { name: "web".to_owned(), image: "web:1".to_owned(), ..Container::default() };
        let mut pod = Pod {
            spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
            ..Pod::default()
        };
        Pods.fill_defaults(&mut pod);
        Pods.prepare_create(&mut pod);
        pod
    }

    fn causes(check: impl FnOnce(&mut Errors)) -> Vec<String> {
        let mut errors = Errors::default();
        check(&mut errors);
        errors.into_causes().into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn the_smallest_pod_is_valid_and_pending() {
        let pod = pod();
        assert_eq!(causes(|errors| Pods.validate(&pod, errors)), Vec::<String>::new());
        let status = pod.status.unwrap();
        assert_eq!((status.phase.as_str(), status.qos_class.as_str()), ("Pending", "BestEffort"));
        assert_eq!(pod.spec.unwrap().tolerations.len(), 2);
    }

    #[test]
    fn each_fault_names_its_field() {
        let mut pod = pod();
        let spec = pod.spec.as_mut().unwrap();
        spec.containers.push(spec.containers[0].clone());
        spec.containers[1].image.clear();
        spec.containers[1].volume_mounts =
            vec![weir_proto::core::v1::VolumeMount { name: "none".to_owned(), ..Default::default() }];
        spec.restart_policy = "Sometimes".to_owned();
        let causes = causes(|errors| Pods.validate(&pod, errors)).join("\n");
        for expected in [
            "spec.containers[1].name: Duplicate value: \"web\"",
            "spec.containers[1].image: Required value",
            "spec.containers[1].volumeMounts[0].name: Not found: \"none\"",
            "spec.containers[1].volumeMounts[0].mountPath: Required value",
            "spec.restartPolicy: Unsupported value: \"Sometimes\"",
        ] {
            assert!(causes.contains(expected), "{expected} in {causes}");
        }
    }

    #[test]
    fn requests_above_limits_are_refused() {
        let mut pod = pod();
        let resources = pod.spec.as_mut().unwrap().containers[0].resources.get_or_insert_default();
        resources.requests.insert("cpu".to_owned(), "500m".parse().unwrap());
        resources.limits.insert("cpu".to_owned(), "100m".parse().unwrap());
        let causes = causes(|errors| Pods.validate(&pod, errors));
        assert_eq!(
            causes,
            [
                "spec.containers[0].resources.requests: Invalid value: \"500m\": must be less than or equal to cpu limit of 100m"
            ]
        );
    }

    #[test]
    fn only_images_tolerations_and_deadlines_may_change() {
        let old = pod();
        let mut new = old.clone();
        new.spec.as_mut().unwrap().containers[0].image = "web:2".to_owned();
        assert!(causes(|errors| Pods.validate_update(&new, &old, errors)).is_empty());
        new.spec.as_mut().unwrap().node_name = "elsewhere".to_owned();
        assert!(causes(|errors| Pods.validate_update(&new, &old, errors))[0].starts_with("spec: Forbidden"));
    }

    #[test]
    fn unbound_and_finished_pods_go_at_once() {
        let mut pod = pod();
        assert_eq!(Pods.grace_period(&pod, None), Some(0));
        pod.spec.as_mut().unwrap().node_name = "n1".to_owned();
        assert_eq!(Pods.grace_period(&pod, None), Some(30));
        assert_eq!(Pods.grace_period(&pod, Some(5)), Some(5));
        pod.status.as_mut().unwrap().phase = "Failed".to_owned();
        assert_eq!(Pods.grace_period(&pod, None), Some(0));
    }
}
