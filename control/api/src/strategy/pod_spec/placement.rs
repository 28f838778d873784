//! Where a pod may run: node selector, affinity, tolerations, spreading.

use weir_proto::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec, Taint, Toleration,
};

use super::spread;
use crate::validation::meta::validate_labels;
use crate::validation::{Errors, Path, names, selectors};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn validate(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    validate_labels(&spec.node_selector, &path.child("nodeSelector"), errors);
    for (index, toleration) in spec.tolerations.iter().enumerate() {
        validate_toleration(toleration, &path.child("tolerations").index(index), errors);
    }
    validate_affinity(spec, &path.child("affinity"), errors);
    spread::validate(spec, path, errors);
}

fn validate_toleration(toleration: &Toleration, path: &Path<'_>, errors: &mut Errors) {
    if !toleration.key.is_empty() {
        errors.syntax(&path.child("key"), &toleration.key, names::qualified_name(&toleration.key));
    } else if toleration.operator != "Exists" {
        let detail =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.invalid(&path.child("operator"), &toleration.operator, detail);
    }
    match toleration.operator.as_str() {
        "" | "Equal" => {
            let at = path.child("value");
            errors.syntax(&at, &toleration.value, names::label_value(&toleration.value));
        }
        "Exists" if !toleration.value.is_empty() => {
            let detail = "value must be empty when `operator` is 'Exists'";
            errors.invalid(&path.child("operator"), &toleration.value, detail);
        }
        "Exists" => {}
        other => errors.unsupported(&path.child("operator"), other, &["Equal", "Exists"]),
    }
    if !toleration.effect.is_empty() {
        errors.one_of(&path.child("effect"), &toleration.effect, &EFFECTS);
    }
    if toleration.toleration_seconds.is_some() && toleration.effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid(&path.child("effect"), &toleration.effect, detail);
    }
}

pub(in crate::strategy) fn validate_taint(taint: &Taint, path: &Path<'_>, errors: &mut Errors) {
    errors.syntax(&path.child("key"), &taint.key, names::qualified_name(&taint.key));
    errors.syntax(&path.child("value"), &taint.value, names::label_value(&taint.value));
    if taint.effect.is_empty() {
        errors.required(&path.child("effect"), "");
    } else {
        errors.one_of(&path.child("effect"), &taint.effect, &EFFECTS);
    }
}

fn validate_affinity(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(affinity) = &spec.affinity else { return };
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    if let Some(node) = &affinity.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(selector) = &node.required_during_scheduling_ignored_during_execution {
            let at_required = path.child(required);
            let terms = at_required.child("nodeSelectorTerms");
            if selector.node_selector_terms.is_empty() {
                errors.required(&terms, "must have at least one node selector term");
            }
            for (index, term) in selector.node_selector_terms.iter().enumerate() {
                validate_node_term(term, &terms.index(index), errors);
            }
        }
        for (index, term) in node.preferred_during_scheduling_ignored_during_execution.iter().enumerate() {
            let at = path.child(preferred);
            let path = at.index(index);
            validate_weight(term.weight, &path, errors);
            if let Some(term) = &term.preference {
                validate_node_term(term, &path.child("preference"), errors);
            }
        }
    }
    let pods = affinity.pod_affinity.as_ref().map(|a| {
        (
            "podAffinity",
            &a.required_during_scheduling_ignored_during_execution,
            &a.preferred_during_scheduling_ignored_during_execution,
        )
    });
    let anti = affinity.pod_anti_affinity.as_ref().map(|a| {
        (
            "podAntiAffinity",
            &a.required_during_scheduling_ignored_during_execution,
            &a.preferred_during_scheduling_ignored_during_execution,
        )
    });
    for (field, musts, wishes) in pods.into_iter().chain(anti) {
        let path = path.child(field);
        for (index, term) in musts.iter().enumerate() {
            validate_pod_term(term, &path.child(required).index(index), errors);
        }
        for (index, wish) in wishes.iter().enumerate() {
            let at = path.child(preferred);
            let path = at.index(index);
            validate_weight(wish.weight, &path, errors);
            if let Some(term) = &wish.pod_affinity_term {
                validate_pod_term(term, &path.child("podAffinityTerm"), errors);
            }
        }
    }
}

fn validate_weight(weight: i32, path: &Path<'_>, errors: &mut Errors) {
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

fn validate_node_term(term: &NodeSelectorTerm, path: &Path<'_>, errors: &mut Errors) {
    for (index, requirement) in term.match_expressions.iter().enumerate() {
        let path = path.child("matchExpressions");
        let path = path.index(index);
        errors.syntax(&path.child("key"), &requirement.key, names::qualified_name(&requirement.key));
        validate_node_requirement(requirement, &path, errors);
    }
    for (index, requirement) in term.match_fields.iter().enumerate() {
        let path = path.child("matchFields");
        let path = path.index(index);
        errors.one_of(&path.child("key"), &requirement.key, &["metadata.name"]);
        errors.one_of(&path.child("operator"), &requirement.operator, &["In", "NotIn"]);
        if requirement.values.len() != 1 {
            errors.required(
                &path.child("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            );
        }
    }
}

fn validate_node_requirement(requirement: &NodeSelectorRequirement, path: &Path<'_>, errors: &mut Errors) {
    let values = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if requirement.values.is_empty() => {
            errors.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !requirement.values.is_empty() => {
            errors.forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if requirement.values.len() != 1 => {
            errors.required(&values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
}

fn validate_pod_term(term: &PodAffinityTerm, path: &Path<'_>, errors: &mut Errors) {
    if term.topology_key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    } else {
        errors.syntax(
            &path.child("topologyKey"),
            &term.topology_key,
            names::qualified_name(&term.topology_key),
        );
    }
    for (field, selector) in
        [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)]
    {
        if let Some(selector) = selector {
            selectors::validate(selector, &path.child(field), errors);
        }
    }
    spread::validate_label_keys(term, path, errors);
    for (index, namespace) in term.namespaces.iter().enumerate() {
        errors.syntax(&path.child("namespaces").index(index), namespace, names::dns_label(namespace));
    }
}
