//! What makes pods: deployments, replica sets, templates.

use super::{NONE, age, or, pairs};
use crate::apps::v1::{Deployment, ReplicaSet};
use crate::core::v1::{Container, PodTemplate, PodTemplateSpec};
use crate::labels::Selector;
use crate::meta::v1::{LabelSelector, Time};

pub(super) fn deployment_cells(deployment: &Deployment, now: Time) -> Vec<String> {
    let (spec, status) = (deployment.spec(), deployment.status());
    let mut cells = vec![
        format!("{}/{}", status.ready_replicas, spec.replicas.unwrap_or(1)),
        status.updated_replicas.to_string(),
        status.available_replicas.to_string(),
        age(deployment.meta(), now),
    ];
    cells.extend(containers(spec.template.as_ref()));
    cells.push(selector(spec.selector.as_ref()));
    cells
}

pub(super) fn replica_set_cells(set: &ReplicaSet, now: Time) -> Vec<String> {
    let (spec, status) = (set.spec(), set.status());
    let mut cells = vec![
        spec.replicas.unwrap_or(1).to_string(),
        status.replicas.to_string(),
        status.ready_replicas.to_string(),
        age(set.meta(), now),
    ];
    cells.extend(containers(spec.template.as_ref()));
    cells.push(selector(spec.selector.as_ref()));
    cells
}

pub(super) fn pod_template_cells(template: &PodTemplate, now: Time) -> Vec<String> {
    let labels = template.template.as_ref().and_then(|template| template.metadata.as_ref());
    let mut cells = containers(template.template.as_ref()).to_vec();
    cells.push(labels.map_or_else(|| NONE.to_owned(), |meta| pairs(&meta.labels)));
    cells.push(age(template.meta(), now));
    cells
}

/// Names and images.
fn containers(template: Option<&PodTemplateSpec>) -> [String; 2] {
    let containers =
        template.and_then(|template| template.spec.as_ref()).map_or(&[][..], |spec| &spec.containers);
    let list = |of: fn(&Container) -> &str| containers.iter().map(of).collect::<Vec<_>>().join(",");
    [list(|container| &container.name), list(|container| &container.image)]
}

fn selector(selector: Option<&LabelSelector>) -> String {
    let parsed = selector.map(Selector::try_from).transpose().ok().flatten();
    or(&parsed.map(|selector| selector.to_string()).unwrap_or_default(), NONE)
}
