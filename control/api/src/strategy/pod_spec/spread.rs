//! Topology spread constraints, and labels of the pod itself that narrow what it is counted with.

use weir_proto::core::v1::{PodAffinityTerm, PodSpec, TopologySpreadConstraint};
use weir_proto::meta::v1::LabelSelector;

use crate::validation::{Errors, Path, names, selectors};

const DO_NOT_SCHEDULE: &str = "DoNotSchedule";
const NO_SELECTOR: &str = "must not be specified when labelSelector is not set";

pub(super) fn validate(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let constraints = &spec.topology_spread_constraints;
    let path = path.child("topologySpreadConstraints");
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.index(index);
        validate_constraint(constraint, &path, errors);
        let (key, then) = (&constraint.topology_key, &constraint.when_unsatisfiable);
        let same = |other: &TopologySpreadConstraint| {
            other.topology_key == *key && other.when_unsatisfiable == *then
        };
        if constraints[..index].iter().any(same) {
            let value = format!("{{{key}, {then}}}");
            errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), value.as_str());
        }
    }
}

fn validate_constraint(constraint: &TopologySpreadConstraint, path: &Path<'_>, errors: &mut Errors) {
    if constraint.max_skew <= 0 {
        errors.invalid(&path.child("maxSkew"), constraint.max_skew, "must be greater than zero");
    }
    if constraint.topology_key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    let then = constraint.when_unsatisfiable.as_str();
    errors.one_of(&path.child("whenUnsatisfiable"), then, &[DO_NOT_SCHEDULE, "ScheduleAnyway"]);
    if let Some(domains) = constraint.min_domains {
        let path = path.child("minDomains");
        if domains <= 0 {
            errors.invalid(&path, domains, "must be greater than zero");
        }
        if then != DO_NOT_SCHEDULE {
            let detail =
                format!("can only use minDomains if whenUnsatisfiable={DO_NOT_SCHEDULE}, not {then}");
            errors.invalid(&path, domains, detail);
        }
    }
    for (field, policy) in [
        ("nodeAffinityPolicy", &constraint.node_affinity_policy),
        ("nodeTaintsPolicy", &constraint.node_taints_policy),
    ] {
        if let Some(policy) = policy {
            errors.one_of(&path.child(field), policy, &["Honor", "Ignore"]);
        }
    }
    let selector = constraint.label_selector.as_ref();
    if let Some(selector) = selector {
        selectors::validate(selector, &path.child("labelSelector"), errors);
    }
    let keys = path.child("matchLabelKeys");
    if selector.is_none() && !constraint.match_label_keys.is_empty() {
        errors.forbidden(&keys, NO_SELECTOR);
    }
    validate_keys(&constraint.match_label_keys, selector, "matchLabelKeys", &keys, errors);
}

/// `matchLabelKeys` and `mismatchLabelKeys` of an affinity term.
pub(super) fn validate_label_keys(term: &PodAffinityTerm, path: &Path<'_>, errors: &mut Errors) {
    let selector = term.label_selector.as_ref();
    let (like, unlike) = (path.child("matchLabelKeys"), path.child("mismatchLabelKeys"));
    for (keys, path) in [(&term.match_label_keys, &like), (&term.mismatch_label_keys, &unlike)] {
        if selector.is_none() && !keys.is_empty() {
            errors.forbidden(path, NO_SELECTOR);
        }
    }
    // A key that is to be the same may not stand in the selector as well; one that is to differ may.
    validate_keys(&term.match_label_keys, selector, "matchLabelKeys", &like, errors);
    validate_keys(&term.mismatch_label_keys, None, "mismatchLabelKeys", &unlike, errors);
    for (index, key) in term.match_label_keys.iter().enumerate() {
        if term.mismatch_label_keys.contains(key) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.invalid(&like.index(index), key, detail);
        }
    }
}

fn validate_keys(
    keys: &[String],
    selector: Option<&LabelSelector>,
    field: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let selected = |key: &String| {
        selector.is_some_and(|selector| {
            selector.match_labels.contains_key(key)
                || selector.match_expressions.iter().any(|requirement| requirement.key == *key)
        })
    };
    for (index, key) in keys.iter().enumerate() {
        let path = path.index(index);
        errors.syntax(&path, key, names::qualified_name(key));
        if selected(key) {
            errors.invalid(&path, key, format!("exists in both {field} and labelSelector"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constraint() -> TopologySpreadConstraint {
        TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "zone".to_owned(),
            when_unsatisfiable: DO_NOT_SCHEDULE.to_owned(),
            label_selector: Some(LabelSelector {
                match_labels: [("app".to_owned(), "web".to_owned())].into(),
                ..LabelSelector::default()
            }),
            ..TopologySpreadConstraint::default()
        }
    }

    fn causes(constraints: Vec<TopologySpreadConstraint>) -> Vec<String> {
        let spec = PodSpec { topology_spread_constraints: constraints, ..PodSpec::default() };
        let mut errors = Errors::default();
        validate(&spec, &Path::root("spec"), &mut errors);
        let strip = |field: String| field.replace("spec.topologySpreadConstraints", "");
        errors
            .into_causes()
            .into_iter()
            .map(|cause| format!("{}: {}", strip(cause.field), cause.message))
            .collect()
    }

    #[test]
    fn constraints_are_checked_as_kubernetes_checks_them() {
        let but = |change: fn(&mut TopologySpreadConstraint)| {
            let mut changed = constraint();
            change(&mut changed);
            causes(vec![changed])
        };
        let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        let none: [&str; 0] = [];
        assert_eq!(but(|_| ()), none);
        assert_eq!(but(|one| one.max_skew = 0), ["[0].maxSkew: Invalid value: 0: must be greater than zero"]);
        assert_eq!(
            but(|one| one.min_domains = Some(0)),
            ["[0].minDomains: Invalid value: 0: must be greater than zero"]
        );
        assert_eq!(
            but(|one| {
                one.when_unsatisfiable = "ScheduleAnyway".to_owned();
                one.min_domains = Some(2);
            }),
            [
                "[0].minDomains: Invalid value: 2: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not \
              ScheduleAnyway"
            ]
        );
        assert_eq!(
            but(|one| one.node_taints_policy = Some("Maybe".to_owned())),
            ["[0].nodeTaintsPolicy: Unsupported value: \"Maybe\": supported values: \"Honor\", \"Ignore\""]
        );
        let mut alike = constraint();
        alike.match_label_keys = keys(&["rev", "app"]);
        assert_eq!(
            causes(vec![alike.clone()]),
            [
                "[0].matchLabelKeys[1]: Invalid value: \"app\": exists in both matchLabelKeys and labelSelector"
            ]
        );
        alike.label_selector = None;
        assert_eq!(causes(vec![alike]), [format!("[0].matchLabelKeys: Forbidden: {NO_SELECTOR}")]);
        let twice = causes(vec![constraint(), constraint()]);
        assert_eq!(
            twice,
            ["[1].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{zone, DoNotSchedule}\""]
        );
    }

    #[test]
    fn a_label_is_to_be_the_same_or_to_differ() {
        let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        let mut term = PodAffinityTerm {
            label_selector: constraint().label_selector,
            match_label_keys: keys(&["rev"]),
            mismatch_label_keys: keys(&["tenant", "rev"]),
            ..PodAffinityTerm::default()
        };
        let fields = |term: &PodAffinityTerm| {
            let mut errors = Errors::default();
            validate_label_keys(term, &Path::root("term"), &mut errors);
            errors.into_causes().into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        assert_eq!(fields(&term), ["term.matchLabelKeys[0]"]);
        term.mismatch_label_keys.pop();
        assert_eq!(fields(&term), [""; 0]);
        term.label_selector = None;
        assert_eq!(fields(&term), ["term.matchLabelKeys", "term.mismatchLabelKeys"]);
    }
}
