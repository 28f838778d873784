//! ReplicaSets.

use weir_proto::apps::v1::{ReplicaSet, ReplicaSetStatus};

use super::{Strategy, pod_spec, unsupported};
use crate::validation::{Errors, Path};

pub(super) struct ReplicaSets;

impl Strategy for ReplicaSets {
    type Object = ReplicaSet;

    fn fill_defaults(&self, set: &mut ReplicaSet) {
        let spec = set.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        if let Some(template) = spec.template.as_mut().and_then(|template| template.spec.as_mut()) {
            pod_spec::fill_defaults(template);
        }
    }

    fn prepare_create(&self, set: &mut ReplicaSet) {
        set.status = Some(ReplicaSetStatus::default());
    }

    fn copy_status(&self, to: &mut ReplicaSet, from: &ReplicaSet) {
        to.status.clone_from(&from.status);
    }

    fn generation_moves(&self, new: &ReplicaSet, old: &ReplicaSet) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn validate(&self, set: &ReplicaSet, errors: &mut Errors) {
        let Some(spec) = &set.spec else { return };
        let path = Path::root("spec");
        errors.not_negative(&path.child("replicas"), spec.replicas.unwrap_or(0).into());
        errors.not_negative(&path.child("minReadySeconds"), spec.min_ready_seconds.into());
        pod_spec::validate_template(spec.template.as_ref(), spec.selector.as_ref(), "replicaset", errors);
    }

    fn validate_update(&self, new: &ReplicaSet, old: &ReplicaSet, errors: &mut Errors) {
        let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return };
        let shown = serde_json::to_string(&new.selector).unwrap_or_default();
        errors.immutable(&Path::root("spec").child("selector"), &new.selector, &old.selector, shown);
    }

    fn warnings(&self, set: &ReplicaSet) -> Vec<String> {
        unsupported::in_template(set.spec.as_ref().and_then(|spec| spec.template.as_ref()))
    }
}
