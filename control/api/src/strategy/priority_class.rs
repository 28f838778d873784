//! Priority classes. Their value and policy are copied into pods when those are made, and so may never change.

use weir_proto::scheduling::v1::PriorityClass;

use super::{Strategy, pod_spec};
use crate::validation::{Errors, Path};

pub(super) struct PriorityClasses;

/// Names that begin with this are the system's.
const SYSTEM_PREFIX: &str = "system-";
const HIGHEST_OF_USERS: i32 = 1_000_000_000;

/// The classes that every cluster has: name, value, description.
const SYSTEM: [(&str, i32, &str); 2] = [
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];

pub(crate) fn system_classes() -> impl Iterator<Item = PriorityClass> {
    SYSTEM.into_iter().map(|(name, value, description)| PriorityClass {
        metadata: Some(weir_proto::meta::v1::ObjectMeta { name: name.to_owned(), ..Default::default() }),
        value,
        description: description.to_owned(),
        ..PriorityClass::default()
    })
}

pub(crate) fn is_of_the_system(name: &str) -> bool {
    SYSTEM.iter().any(|(known, ..)| *known == name)
}

impl Strategy for PriorityClasses {
    type Object = PriorityClass;

    fn fill_defaults(&self, class: &mut PriorityClass) {
        class.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".to_owned());
    }

    fn generation_moves(&self, _new: &PriorityClass, _old: &PriorityClass) -> Option<bool> {
        // A class has no spec and so never moves on from its first generation.
        Some(false)
    }

    fn validate(&self, class: &PriorityClass, errors: &mut Errors) {
        let name = class.metadata.as_ref().map_or("", |meta| &meta.name);
        if name.starts_with(SYSTEM_PREFIX) {
            if let Err(why) = check_system_class(name, class) {
                let detail = format!(
                    "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {why}"
                );
                errors.forbidden(&Path::root("metadata.name"), detail);
            }
        } else if class.value > HIGHEST_OF_USERS {
            let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_OF_USERS}");
            errors.forbidden(&Path::root("value"), detail);
        }
        if let Some(policy) = &class.preemption_policy {
            pod_spec::validate_preemption_policy(policy, &Path::root("preemptionPolicy"), errors);
        }
    }

    fn validate_update(&self, new: &PriorityClass, old: &PriorityClass, errors: &mut Errors) {
        if new.value != old.value {
            errors.forbidden(&Path::root("value"), "may not be changed in an update.");
        }
        let (policy, before) = (&new.preemption_policy, &old.preemption_policy);
        let shown = format!("{:?}", policy.as_deref().unwrap_or_default());
        errors.immutable(&Path::root("preemptionPolicy"), policy, before, shown);
    }
}

fn check_system_class(name: &str, class: &PriorityClass) -> Result<(), String> {
    match SYSTEM.iter().find(|(known, ..)| *known == name) {
        None => Err(format!("{name} is not a known system priority class")),
        Some((_, value, _)) if class.value != *value => {
            Err(format!("value of {name} PriorityClass must be {value}"))
        }
        Some(_) if class.global_default => {
            Err(format!("globalDefault of {name} PriorityClass must be false"))
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, value: i32) -> PriorityClass {
        let metadata = Some(weir_proto::meta::v1::ObjectMeta { name: name.to_owned(), ..Default::default() });
        let mut class = PriorityClass { metadata, value, ..PriorityClass::default() };
        PriorityClasses.fill_defaults(&mut class);
        class
    }

    fn causes(check: impl FnOnce(&mut Errors)) -> Vec<String> {
        let mut errors = Errors::default();
        check(&mut errors);
        errors.into_causes().into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn values_and_names_of_the_system_are_its_own() {
        let reserved = "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only.";
        for (name, value, expected) in [
            ("high", 1_000_000_000, None),
            ("low", i32::MIN, None),
            ("system-node-critical", 2_000_001_000, None),
            (
                "higher",
                1_000_000_001,
                Some(
                    "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"
                        .to_owned(),
                ),
            ),
            (
                "system-mine",
                5,
                Some(format!("{reserved} error: system-mine is not a known system priority class")),
            ),
            (
                "system-node-critical",
                5,
                Some(format!(
                    "{reserved} error: value of system-node-critical PriorityClass must be 2000001000"
                )),
            ),
        ] {
            let found = causes(|errors| PriorityClasses.validate(&class(name, value), errors));
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{name}");
        }
    }

    #[test]
    fn the_policy_is_one_of_two_and_neither_it_nor_the_value_changes() {
        let mut wrong = class("high", 1);
        wrong.preemption_policy = Some("Always".to_owned());
        let found = causes(|errors| PriorityClasses.validate(&wrong, errors));
        let expected = "preemptionPolicy: Unsupported value: \"Always\": supported values: \"Never\", \
                        \"PreemptLowerPriority\"";
        assert_eq!(found, [expected]);

        let (old, mut new) = (class("high", 1), class("high", 2));
        new.preemption_policy = Some("Never".to_owned());
        new.global_default = true;
        let found = causes(|errors| PriorityClasses.validate_update(&new, &old, errors));
        let expected = [
            "value: Forbidden: may not be changed in an update.",
            "preemptionPolicy: Invalid value: \"Never\": field is immutable",
        ];
        assert_eq!(found, expected);
    }
}
