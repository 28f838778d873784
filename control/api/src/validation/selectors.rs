//! Label selectors inside objects.

use weir_proto::meta::v1::LabelSelector;

use super::meta::validate_labels;
use super::{Errors, Path, names};

pub(crate) fn validate(selector: &LabelSelector, path: &Path<'_>, errors: &mut Errors) {
    validate_labels(&selector.match_labels, &path.child("matchLabels"), errors);
    for (index, requirement) in selector.match_expressions.iter().enumerate() {
        let path = path.child("matchExpressions");
        let path = path.index(index);
        let values = path.child("values");
        match requirement.operator.as_str() {
            "In" | "NotIn" if requirement.values.is_empty() => {
                errors.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !requirement.values.is_empty() => {
                errors
                    .forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        errors.syntax(&path.child("key"), &requirement.key, names::qualified_name(&requirement.key));
        for (index, value) in requirement.values.iter().enumerate() {
            errors.syntax(&values.index(index), value, names::label_value(value));
        }
    }
}

/// A selector that selects nothing in particular.
pub(crate) fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.is_empty() && selector.match_expressions.is_empty()
}
