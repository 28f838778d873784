//! Metadata: names, labels, annotations, owners, finalizers, and what of it an update may change.

use std::collections::BTreeMap;

use weir_proto::meta::v1::{ObjectMeta, OwnerReference};

use super::{Errors, Path, names};

/// Bytes of all annotations together.
const ANNOTATIONS: usize = 256 * 1024;
/// Finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// How a kind's names are written.
pub(crate) type NameCheck = fn(&str) -> Vec<String>;

pub(crate) fn validate(meta: &ObjectMeta, namespaced: bool, name_check: NameCheck, errors: &mut Errors) {
    let path = Path::root("metadata");
    if !meta.generate_name.is_empty() {
        // What is generated ends in a letter, so the prefix may end in a hyphen.
        let as_named = meta.generate_name.trim_end_matches('-').to_owned() + "a";
        errors.syntax(&path.child("generateName"), &meta.generate_name, name_check(&as_named));
    }
    if meta.name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        errors.syntax(&path.child("name"), &meta.name, name_check(&meta.name));
    }
    if namespaced {
        errors.syntax(&path.child("namespace"), &meta.namespace, names::dns_label(&meta.namespace));
    } else if !meta.namespace.is_empty() {
        errors.forbidden(&path.child("namespace"), "not allowed on this type");
    }
    validate_labels(&meta.labels, &path.child("labels"), errors);
    validate_annotations(&meta.annotations, &path.child("annotations"), errors);
    validate_owners(&meta.owner_references, &path.child("ownerReferences"), errors);
    validate_finalizers(&meta.finalizers, &path.child("finalizers"), errors);
}

pub(crate) fn validate_labels(labels: &BTreeMap<String, String>, path: &Path<'_>, errors: &mut Errors) {
    for (key, value) in labels {
        errors.syntax(path, key, names::qualified_name(key));
        errors.syntax(path, value, names::label_value(value));
    }
}

pub(crate) fn validate_annotations(
    annotations: &BTreeMap<String, String>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for key in annotations.keys() {
        errors.syntax(path, key, names::qualified_name(&key.to_lowercase()));
    }
    if annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > ANNOTATIONS {
        errors.too_long(path, ANNOTATIONS);
    }
}

fn validate_owners(owners: &[OwnerReference], path: &Path<'_>, errors: &mut Errors) {
    let mut controller: Option<&str> = None;
    for (index, owner) in owners.iter().enumerate() {
        let path = path.index(index);
        let required = [
            ("apiVersion", &owner.api_version, "version must not be empty"),
            ("kind", &owner.kind, "must not be empty"),
            ("name", &owner.name, "must not be empty"),
            ("uid", &owner.uid, "must not be empty"),
        ];
        for (field, value, detail) in required {
            if value.is_empty() {
                errors.invalid(&path.child(field), value, detail);
            }
        }
        if owner.controller != Some(true) {
            continue;
        }
        if let Some(first) = controller {
            let detail = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                owner.name
            );
            errors.invalid(&path.child("controller"), true, detail);
        }
        controller = Some(&owner.name);
    }
}

fn validate_finalizers(finalizers: &[String], path: &Path<'_>, errors: &mut Errors) {
    for finalizer in finalizers {
        errors.syntax(path, finalizer, names::qualified_name(finalizer));
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer.as_str()) {
            errors.invalid(
                path,
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.invalid(path, &finalizers.join(","), detail);
    }
}

pub(crate) fn validate_update(new: &ObjectMeta, old: &ObjectMeta, errors: &mut Errors) {
    let path = Path::root("metadata");
    errors.immutable(&path.child("uid"), &new.uid, &old.uid, &new.uid);
    errors.immutable(&path.child("name"), &new.name, &old.name, &new.name);
    errors.immutable(&path.child("namespace"), &new.namespace, &old.namespace, &new.namespace);
    if old.deletion_timestamp.is_some() {
        let added: Vec<_> = new.finalizers.iter().filter(|name| !old.finalizers.contains(name)).collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            );
            errors.forbidden(&path.child("finalizers"), detail);
        }
    }
}

/// Takes over what the server alone writes, so that a client need not send it.
pub(crate) fn keep_system_fields(new: &mut ObjectMeta, old: &ObjectMeta) {
    new.creation_timestamp = old.creation_timestamp;
    new.deletion_timestamp = old.deletion_timestamp;
    new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    new.generation = old.generation;
    new.resource_version.clone_from(&old.resource_version);
    if new.uid.is_empty() {
        new.uid.clone_from(&old.uid);
    }
    drop_unkept_fields(new);
}

/// Fields that are accepted, for clients that send back what another server gave them, and not kept.
pub(crate) fn drop_unkept_fields(meta: &mut ObjectMeta) {
    meta.managed_fields.clear();
    meta.self_link.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn causes(meta: &ObjectMeta) -> Vec<String> {
        let mut errors = Errors::default();
        validate(meta, true, names::dns_subdomain, &mut errors);
        errors.into_causes().into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    fn named(name: &str) -> ObjectMeta {
        ObjectMeta { name: name.to_owned(), namespace: "default".to_owned(), ..ObjectMeta::default() }
    }

    #[test]
    fn good_metadata_passes() {
        let mut meta = named("web");
        meta.generate_name = "web-".to_owned();
        meta.labels.insert("app.kubernetes.io/name".to_owned(), "web".to_owned());
        meta.finalizers = vec!["foregroundDeletion".to_owned(), "example.com/hold".to_owned()];
        assert_eq!(causes(&meta), Vec::<String>::new());
    }

    #[test]
    fn each_fault_names_its_field() {
        let mut meta = named("Web_1");
        meta.labels.insert("a b".to_owned(), "-".to_owned());
        meta.annotations.insert("k".to_owned(), "x".repeat(ANNOTATIONS));
        meta.owner_references = vec![OwnerReference::default()];
        meta.finalizers = vec!["hold".to_owned()];
        let causes = causes(&meta).join("\n");
        for field in
            ["metadata.name", "metadata.labels", "metadata.annotations", "metadata.ownerReferences[0].uid"]
        {
            assert!(causes.contains(field), "{field} in {causes}");
        }
        assert!(causes.contains("may not be more than 262144 bytes"));
        assert!(causes.contains("neither a standard finalizer"));
    }

    #[test]
    fn two_controllers_are_one_too_many() {
        let mut meta = named("web");
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: "a".to_owned(),
            uid: "u".to_owned(),
            controller: Some(true),
            block_owner_deletion: None,
        };
        meta.owner_references = vec![owner.clone(), owner];
        assert!(causes(&meta)[0].contains("Only one reference"));
    }

    #[test]
    fn finalizers_cannot_be_added_to_what_is_being_deleted() {
        let mut old = named("web");
        old.deletion_timestamp = Some(Default::default());
        let mut new = old.clone();
        new.finalizers = vec!["example.com/hold".to_owned()];
        let mut errors = Errors::default();
        validate_update(&new, &old, &mut errors);
        assert_eq!(errors.into_causes()[0].field, "metadata.finalizers");
    }
}
