//! Deployments and the ReplicaSets they are made of.

use anyhow::Result;
use weir_client::ListOptions;
use weir_proto::apps::v1::{Deployment, ReplicaSet};
use weir_proto::core::v1::PodTemplateSpec;
use weir_proto::labels::Selector;
use weir_proto::meta::v1::LabelSelector;

use super::{labels, line, or_none, template, time};
use crate::session::Session;

pub(super) async fn describe(session: &Session, out: &mut String, deployment: &Deployment) -> Result<()> {
    let (meta, spec, status) = (deployment.meta(), deployment.spec(), deployment.status());
    line!(out, "Name:\t{}", meta.name);
    line!(out, "Namespace:\t{}", meta.namespace);
    line!(out, "CreationTimestamp:\t{}", time(meta.creation_timestamp));
    labels(out, meta);
    line!(out, "Selector:\t{}", selector(spec.selector.as_ref()));
    line!(
        out,
        "Replicas:\t{} desired | {} updated | {} total | {} available | {} unavailable",
        spec.replicas.unwrap_or(1),
        status.updated_replicas,
        status.replicas,
        status.available_replicas,
        status.unavailable_replicas
    );
    let strategy = spec.strategy.clone().unwrap_or_default();
    line!(out, "StrategyType:\t{}", or_none(&strategy.r#type));
    line!(out, "MinReadySeconds:\t{}", spec.min_ready_seconds);
    if let Some(rolling) = strategy.rolling_update {
        let text =
            |value: Option<weir_proto::IntOrString>| value.map(|value| value.to_string()).unwrap_or_default();
        line!(
            out,
            "RollingUpdateStrategy:\t{} max unavailable, {} max surge",
            text(rolling.max_unavailable),
            text(rolling.max_surge)
        );
    }
    line!(out, "Pod Template:");
    template(out, spec.template.as_ref().unwrap_or(&PodTemplateSpec::default()));
    if !status.conditions.is_empty() {
        line!(out, "Conditions:\n  Type\tStatus\tReason\n  ----\t------\t------");
        for condition in &status.conditions {
            line!(out, "  {}\t{}\t{}", condition.r#type, condition.status, condition.reason);
        }
    }
    sets(session, out, deployment).await
}

async fn sets(session: &Session, out: &mut String, deployment: &Deployment) -> Result<()> {
    let api = session.client.namespaced::<ReplicaSet>(&deployment.meta().namespace);
    let mut sets = api.list(&ListOptions::default()).await?.items;
    let uid = &deployment.meta().uid;
    sets.retain(|set| set.meta().owner_references.iter().any(|owner| owner.uid == *uid));
    // The new one has the template as it is now, with a label of its own.
    let is_new = |set: &ReplicaSet| {
        let mut of_set = set.spec().template.clone().unwrap_or_default();
        of_set.metadata.get_or_insert_default().labels.remove("pod-template-hash");
        Some(of_set) == deployment.spec().template
    };
    let (new, old): (Vec<ReplicaSet>, Vec<ReplicaSet>) = sets.into_iter().partition(is_new);
    let words = |sets: &[ReplicaSet]| {
        let word = |set: &ReplicaSet| {
            let wanted = set.spec().replicas.unwrap_or(1);
            format!("{} ({}/{wanted} replicas created)", set.meta().name, set.status().replicas)
        };
        or_none(&sets.iter().map(word).collect::<Vec<_>>().join(", ")).to_owned()
    };
    line!(out, "OldReplicaSets:\t{}", words(&old));
    line!(out, "NewReplicaSet:\t{}", words(&new));
    Ok(())
}

pub(super) fn describe_set(out: &mut String, set: &ReplicaSet) {
    let (meta, spec, status) = (set.meta(), set.spec(), set.status());
    line!(out, "Name:\t{}", meta.name);
    line!(out, "Namespace:\t{}", meta.namespace);
    line!(out, "Selector:\t{}", selector(spec.selector.as_ref()));
    labels(out, meta);
    if let Some(owner) = meta.owner_references.iter().find(|owner| owner.controller == Some(true)) {
        line!(out, "Controlled By:\t{}/{}", owner.kind, owner.name);
    }
    line!(out, "Replicas:\t{} current / {} desired", status.replicas, spec.replicas.unwrap_or(1));
    line!(out, "Pods Status:\t{} ready / {} available", status.ready_replicas, status.available_replicas);
    line!(out, "Pod Template:");
    template(out, spec.template.as_ref().unwrap_or(&PodTemplateSpec::default()));
    for condition in &status.conditions {
        line!(out, "Condition:\t{} {} {}", condition.r#type, condition.status, condition.reason);
    }
}

fn selector(selector: Option<&LabelSelector>) -> String {
    let parsed = selector.and_then(|selector| Selector::try_from(selector).ok());
    or_none(&parsed.map(|selector| selector.to_string()).unwrap_or_default()).to_owned()
}
