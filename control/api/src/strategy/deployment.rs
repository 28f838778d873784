//! Deployments.

use weir_proto::IntOrString;
use weir_proto::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, RollingUpdateDeployment};

use super::{Strategy, pod_spec, unsupported};
use crate::validation::{Errors, Path, Shown};

pub(super) struct Deployments;

impl Strategy for Deployments {
    type Object = Deployment;

    fn fill_defaults(&self, deployment: &mut Deployment) {
        let spec = deployment.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        spec.progress_deadline_seconds.get_or_insert(600);
        let strategy = spec.strategy.get_or_insert_default();
        if strategy.r#type.is_empty() {
            "RollingUpdate".clone_into(&mut strategy.r#type);
        }
        if strategy.r#type == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_surge.get_or_insert_with(|| "25%".into());
            rolling.max_unavailable.get_or_insert_with(|| "25%".into());
        }
        if let Some(template) = spec.template.as_mut().and_then(|template| template.spec.as_mut()) {
            pod_spec::fill_defaults(template);
        }
    }

    fn prepare_create(&self, deployment: &mut Deployment) {
        deployment.status = Some(DeploymentStatus::default());
    }

    fn copy_status(&self, to: &mut Deployment, from: &Deployment) {
        to.status.clone_from(&from.status);
    }

    fn generation_moves(&self, new: &Deployment, old: &Deployment) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn validate(&self, deployment: &Deployment, errors: &mut Errors) {
        let Some(spec) = &deployment.spec else { return };
        let path = Path::root("spec");
        let counts = [
            ("replicas", spec.replicas),
            ("minReadySeconds", Some(spec.min_ready_seconds)),
            ("revisionHistoryLimit", spec.revision_history_limit),
            ("progressDeadlineSeconds", spec.progress_deadline_seconds),
        ];
        for (field, count) in counts {
            errors.not_negative(&path.child(field), count.unwrap_or(0).into());
        }
        if let Some(deadline) = spec.progress_deadline_seconds
            && deadline <= spec.min_ready_seconds
        {
            errors.invalid(
                &path.child("progressDeadlineSeconds"),
                deadline,
                "must be greater than minReadySeconds",
            );
        }
        validate_strategy(spec, &path.child("strategy"), errors);
        pod_spec::validate_template(spec.template.as_ref(), spec.selector.as_ref(), "deployment", errors);
    }

    fn validate_update(&self, new: &Deployment, old: &Deployment, errors: &mut Errors) {
        let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return };
        let shown = serde_json::to_string(&new.selector).unwrap_or_default();
        errors.immutable(&Path::root("spec").child("selector"), &new.selector, &old.selector, shown);
    }

    fn warnings(&self, deployment: &Deployment) -> Vec<String> {
        unsupported::in_template(deployment.spec.as_ref().and_then(|spec| spec.template.as_ref()))
    }
}

fn validate_strategy(spec: &DeploymentSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(strategy) = &spec.strategy else { return };
    match (strategy.r#type.as_str(), &strategy.rolling_update) {
        ("Recreate", Some(_)) => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.forbidden(&path.child("rollingUpdate"), detail);
        }
        ("Recreate", None) => {}
        ("RollingUpdate", None) => errors.required(&path.child("rollingUpdate"), ""),
        ("RollingUpdate", Some(rolling)) => validate_rolling(rolling, &path.child("rollingUpdate"), errors),
        (other, _) => errors.unsupported(&path.child("type"), other, &["Recreate", "RollingUpdate"]),
    }
}

fn validate_rolling(rolling: &RollingUpdateDeployment, path: &Path<'_>, errors: &mut Errors) {
    let surge = amount(rolling.max_surge.as_ref(), &path.child("maxSurge"), errors);
    let unavailable = amount(rolling.max_unavailable.as_ref(), &path.child("maxUnavailable"), errors);
    if surge == Some(0) && unavailable == Some(0) {
        errors.invalid(&path.child("maxUnavailable"), 0, "may not be 0 when `maxSurge` is 0");
    }
    if let Some(IntOrString::String(text)) = &rolling.max_unavailable
        && unavailable.is_some_and(|percent| percent > 100)
    {
        errors.invalid(&path.child("maxUnavailable"), text, "must not be greater than 100%");
    }
}

/// The number, or the percentage; `None` if it is neither.
fn amount(value: Option<&IntOrString>, path: &Path<'_>, errors: &mut Errors) -> Option<i32> {
    match value? {
        IntOrString::Int(number) => {
            errors.not_negative(path, (*number).into());
            Some(*number)
        }
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|digits| digits.parse::<u16>().ok());
            if percent.is_none() {
                let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  \
                              or '93%', regex used for validation is '[0-9]+%')";
                errors.invalid(path, Shown::Text(text), detail);
            }
            percent.map(i32::from)
        }
    }
}
