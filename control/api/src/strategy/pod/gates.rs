//! Scheduling gates, and what of a pod may change while it has some.

use std::collections::BTreeMap;

use weir_proto::core::v1::{NodeAffinity, NodeSelectorTerm, PodSpec};

use crate::validation::{Errors, Path, Shown, names};

pub(super) fn validate(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let gates = &spec.scheduling_gates;
    let at = path.child("schedulingGates");
    for (index, gate) in gates.iter().enumerate() {
        errors.syntax(&at.index(index), &gate.name, names::qualified_name(&gate.name));
        if gates[..index].iter().any(|other| other.name == gate.name) {
            errors.duplicate(&at.index(index), &gate.name);
        }
    }
    if !gates.is_empty() && !spec.node_name.is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(&path.child("nodeName"), detail);
    }
}

/// Gates may only go. While there are some, where the pod may go can be narrowed down: what is allowed is put back
/// in `rest`, what is not is an error.
pub(super) fn validate_update(
    new: &PodSpec,
    old: &PodSpec,
    rest: &mut PodSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for gate in new.scheduling_gates.iter().filter(|gate| !old.scheduling_gates.contains(gate)) {
        let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
        errors.forbidden(&path.child("schedulingGates"), detail);
    }
    rest.scheduling_gates.clone_from(&old.scheduling_gates);
    if old.scheduling_gates.is_empty() {
        return;
    }
    if !includes(&new.node_selector, &old.node_selector) {
        let pairs: Vec<_> =
            new.node_selector.iter().map(|(key, value)| format!("{key:?}:{value:?}")).collect();
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        let shown = Shown::Plain(format!("{{{}}}", pairs.join(",")));
        errors.invalid(&path.child("nodeSelector"), shown, detail);
    }
    rest.node_selector.clone_from(&old.node_selector);
    let affinity =
        |spec: &PodSpec| spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
    let at = path.child("affinity.nodeAffinity");
    narrowed(&affinity(new).unwrap_or_default(), &affinity(old).unwrap_or_default(), &at, errors);
    match (&mut rest.affinity, &old.affinity) {
        (Some(affinity), Some(before)) => affinity.node_affinity.clone_from(&before.node_affinity),
        (Some(affinity), None) => {
            affinity.node_affinity = None;
            if *affinity == Default::default() {
                rest.affinity = None;
            }
        }
        (None, Some(before)) if before.pod_affinity.is_none() && before.pod_anti_affinity.is_none() => {
            rest.affinity = Some(before.clone());
        }
        (None, _) => {}
    }
}

fn includes(new: &BTreeMap<String, String>, old: &BTreeMap<String, String>) -> bool {
    old.iter().all(|(key, value)| new.get(key) == Some(value))
}

fn narrowed(new: &NodeAffinity, old: &NodeAffinity, path: &Path<'_>, errors: &mut Errors) {
    let terms = |affinity: &NodeAffinity| {
        let required = affinity.required_during_scheduling_ignored_during_execution.as_ref();
        required.map(|required| required.node_selector_terms.clone()).unwrap_or_default()
    };
    let (new, old) = (terms(new), terms(old));
    let path = path.child("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
    if !old.is_empty() && new.len() != old.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return errors.invalid(&path, Shown::Plain(format!("{} terms", new.len())), detail);
    }
    for (index, (new, old)) in new.iter().zip(&old).enumerate() {
        if !adds_to(new, old) {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.invalid(&path.index(index), Shown::Plain(format!("term {index}")), detail);
        }
    }
}

fn adds_to(new: &NodeSelectorTerm, old: &NodeSelectorTerm) -> bool {
    // An empty term matches nothing: whatever is added to it widens it.
    let was_empty = old.match_expressions.is_empty() && old.match_fields.is_empty();
    (!was_empty || new == old)
        && old.match_expressions.iter().all(|requirement| new.match_expressions.contains(requirement))
        && old.match_fields.iter().all(|requirement| new.match_fields.contains(requirement))
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::{Affinity, NodeSelector, NodeSelectorRequirement, PodSchedulingGate};

    use super::*;

    fn gated(gates: &[&str]) -> PodSpec {
        let gates = gates.iter().map(|name| PodSchedulingGate { name: (*name).to_owned() });
        PodSpec { scheduling_gates: gates.collect(), ..PodSpec::default() }
    }

    fn on_labels(mut spec: PodSpec, keys: &[&str]) -> PodSpec {
        let requirement = |key: &&str| NodeSelectorRequirement {
            key: (*key).to_owned(),
            operator: "Exists".to_owned(),
            ..NodeSelectorRequirement::default()
        };
        let match_expressions = keys.iter().map(requirement).collect();
        let term = NodeSelectorTerm { match_expressions, ..NodeSelectorTerm::default() };
        let node_affinity = Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                node_selector_terms: vec![term],
            }),
            ..NodeAffinity::default()
        });
        spec.affinity = Some(Affinity { node_affinity, ..Affinity::default() });
        spec
    }

    /// The fields at fault, and whether something is left that nobody allowed.
    fn update(new: &PodSpec, old: &PodSpec) -> (Vec<String>, bool) {
        let (mut rest, mut errors) = (new.clone(), Errors::default());
        validate_update(new, old, &mut rest, &Path::root("spec"), &mut errors);
        (errors.into_causes().into_iter().map(|cause| cause.field).collect(), rest != *old)
    }

    #[test]
    fn gates_are_named_once_and_keep_a_pod_from_its_node() {
        let mut errors = Errors::default();
        let mut spec = gated(&["a", "a", "not/a/name"]);
        spec.node_name = "n1".to_owned();
        validate(&spec, &Path::root("spec"), &mut errors);
        let fields: Vec<_> = errors.into_causes().into_iter().map(|cause| cause.field).collect();
        assert_eq!(fields, ["spec.schedulingGates[1]", "spec.schedulingGates[2]", "spec.nodeName"]);
    }

    #[test]
    fn gates_only_go() {
        let fine = (vec![], false);
        assert_eq!(update(&gated(&[]), &gated(&["a"])), fine);
        assert_eq!(update(&gated(&["b"]), &gated(&["a", "b"])), fine);
        let refused = (vec!["spec.schedulingGates".to_owned()], false);
        assert_eq!(update(&gated(&["a", "b"]), &gated(&["a"])), refused);
        assert_eq!(update(&gated(&["a"]), &gated(&[])), refused);
    }

    #[test]
    fn where_a_gated_pod_may_go_is_narrowed_but_never_widened() {
        let selecting = |mut spec: PodSpec, pairs: &[(&str, &str)]| {
            spec.node_selector =
                pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            spec
        };
        let old = on_labels(selecting(gated(&["a"]), &[("zone", "a")]), &["disk"]);
        let with = |pairs: &[(&str, &str)], keys: &[&str]| on_labels(selecting(gated(&["a"]), pairs), keys);
        let fine = (vec![], false);
        assert_eq!(update(&with(&[("zone", "a"), ("rack", "1")], &["disk", "gpu"]), &old), fine);
        let (fields, _) = update(&with(&[("zone", "b")], &["disk"]), &old);
        assert_eq!(fields, ["spec.nodeSelector"]);
        let (fields, _) = update(&with(&[("zone", "a")], &["gpu"]), &old);
        let term =
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]";
        assert_eq!(fields, [term]);
        assert_eq!(update(&on_labels(gated(&["a"]), &["disk"]), &gated(&["a"])), fine);
        // Without a gate nothing of this may change.
        assert!(update(&on_labels(gated(&[]), &["disk"]), &gated(&[])).1);
    }
}
