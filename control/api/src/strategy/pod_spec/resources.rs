//! Requests and limits, and the quality of service that follows from them.

use std::collections::BTreeMap;

use weir_proto::Quantity;
use weir_proto::core::v1::{PodSpec, ResourceRequirements};

use crate::validation::{Errors, Path, Shown, names};

type Quantities = BTreeMap<String, Quantity>;

pub(super) fn validate(requirements: &ResourceRequirements, path: &Path<'_>, errors: &mut Errors) {
    let (at_limits, at_requests) = (path.child("limits"), path.child("requests"));
    validate_quantities(&requirements.limits, &at_limits, errors);
    validate_quantities(&requirements.requests, &at_requests, errors);
    for name in requirements.limits.keys().chain(requirements.requests.keys()) {
        if !name.contains('/') && !is_standard(name) {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    }
    validate_huge_pages(requirements, path, errors);
    for (name, request) in &requirements.requests {
        let at = path.child("requests");
        match requirements.limits.get(name) {
            Some(limit) if overcommits(name) && request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.invalid(&at, &request.to_string(), detail);
            }
            Some(limit) if !overcommits(name) && request != limit => {
                let detail = format!("must be equal to {name} limit of {limit}");
                errors.invalid(&at, &request.to_string(), detail);
            }
            None if !overcommits(name) => {
                errors.required(&at_limits, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
}

/// Whole pages, and something to go with them.
fn validate_huge_pages(requirements: &ResourceRequirements, path: &Path<'_>, errors: &mut Errors) {
    let both = [("limits", &requirements.limits), ("requests", &requirements.requests)];
    let mut any = false;
    for (field, quantities) in both {
        let path = path.child(field);
        for (name, quantity) in quantities {
            let Some(size) = name.strip_prefix("hugepages-") else { continue };
            any = true;
            let path = path.key(name);
            let shown = quantity.to_string();
            match size.parse::<Quantity>().map(|size| size.value()) {
                Ok(size) if size > 0 && quantity.value() % size == 0 => {}
                Ok(size) if size > 0 => {
                    errors.invalid(&path, &shown, "must be a positive integer multiple of page size");
                }
                _ => errors.invalid(&path, name, "the name holds no size of pages, as in hugepages-2Mi"),
            }
        }
    }
    let beside =
        both.iter().flat_map(|(_, all)| all.keys()).any(|name| matches!(name.as_str(), "cpu" | "memory"));
    if any && !beside {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

fn is_standard(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

/// Resources of which more can be limited than requested.
fn overcommits(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("kubernetes.io/")
}

/// Names of resources, and amounts that are not negative.
pub(in crate::strategy) fn validate_quantities(
    quantities: &Quantities,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (name, quantity) in quantities {
        let path = path.key(name);
        errors.syntax(&path, name, names::qualified_name(name));
        let shown = quantity.to_string();
        if quantity.milli_value() < 0 {
            errors.invalid(&path, &shown, "must be greater than or equal to 0");
        } else if !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage" | "storage")
            && quantity.milli_value() % 1000 != 0
        {
            errors.invalid(&path, Shown::Text(&shown), "must be an integer");
        }
    }
}

/// "Guaranteed", "Burstable" or "BestEffort".
pub(in crate::strategy) fn classify(spec: &PodSpec) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    let none = ResourceRequirements::default();
    for container in spec.init_containers.iter().chain(&spec.containers) {
        let resources = container.resources.as_ref().unwrap_or(&none);
        for name in ["cpu", "memory"] {
            let positive = |quantity: &&Quantity| quantity.milli_value() > 0;
            let request = resources.requests.get(name).filter(positive);
            let limit = resources.limits.get(name).filter(positive);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
