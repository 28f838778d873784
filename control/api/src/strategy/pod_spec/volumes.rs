//! Volumes: unique names, one source each, paths that stay inside.

use std::collections::BTreeSet;

use weir_proto::core::v1::{KeyToPath, PodSpec, ProjectedVolumeSource, Volume};

use super::References;
use super::containers::validate_inner_path;
use super::environment::{validate_field, validate_resource_field};
use crate::tokens::check_seconds;
use crate::validation::{Errors, Path, names};

/// Returns the names that mounts may refer to.
pub(super) fn validate<'a>(volumes: &'a [Volume], path: &Path<'_>, errors: &mut Errors) -> BTreeSet<&'a str> {
    let mut taken = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let at_name = path.child("name");
        if volume.name.is_empty() {
            errors.required(&at_name, "");
        } else {
            errors.syntax(&at_name, &volume.name, names::dns_label(&volume.name));
        }
        if !taken.insert(volume.name.as_str()) {
            errors.duplicate(&at_name, &volume.name);
        }
        validate_source(volume, &path, errors);
    }
    taken
}

fn validate_source(volume: &Volume, path: &Path<'_>, errors: &mut Errors) {
    if count_sources(volume) > 1 {
        errors.forbidden(path, "may not specify more than 1 volume type");
    }
    if let Some(empty) = &volume.empty_dir {
        if !empty.medium.starts_with("HugePages") {
            errors.one_of(&path.child("emptyDir.medium"), &empty.medium, &["", "Memory"]);
        }
        if let Some(limit) = empty.size_limit.as_ref().filter(|limit| limit.milli_value() < 0) {
            errors.forbidden(&path.child("emptyDir.sizeLimit"), format!("size limit {limit} is negative"));
        }
    }
    if let Some(host) = &volume.host_path {
        let at = path.child("hostPath.path");
        if host.path.is_empty() {
            errors.required(&at, "");
        } else if host.path.split('/').any(|part| part == "..") {
            errors.invalid(&at, &host.path, "must not contain '..'");
        }
        if let Some(kind) = &host.r#type {
            let known = [
                "",
                "DirectoryOrCreate",
                "Directory",
                "FileOrCreate",
                "File",
                "Socket",
                "CharDevice",
                "BlockDevice",
            ];
            errors.one_of(&path.child("hostPath.type"), kind, &known);
        }
    }
    if let Some(map) = &volume.config_map {
        let path = path.child("configMap");
        required_name(&map.name, &path.child("name"), errors);
        validate_mode(map.default_mode, &path.child("defaultMode"), errors);
        validate_items(&map.items, &path.child("items"), errors);
    }
    if let Some(secret) = &volume.secret {
        let path = path.child("secret");
        required_name(&secret.secret_name, &path.child("secretName"), errors);
        validate_mode(secret.default_mode, &path.child("defaultMode"), errors);
        validate_items(&secret.items, &path.child("items"), errors);
    }
    if let Some(downward) = &volume.downward_api {
        let path = path.child("downwardAPI");
        validate_mode(downward.default_mode, &path.child("defaultMode"), errors);
        for (index, file) in downward.items.iter().enumerate() {
            let path = path.child("items");
            let path = path.index(index);
            validate_file_path(&file.path, &path.child("path"), errors);
            match (&file.field_ref, &file.resource_field_ref) {
                (Some(field), None)
                    if matches!(field.field_path.as_str(), "metadata.labels" | "metadata.annotations") => {}
                (Some(field), None) => {
                    validate_field(&field.field_path, &path.child("fieldRef.fieldPath"), errors)
                }
                (None, Some(resource)) => {
                    validate_resource_field(
                        &resource.resource,
                        &path.child("resourceFieldRef.resource"),
                        errors,
                    );
                }
                (Some(_), Some(_)) => {
                    errors.invalid(
                        &path,
                        "resource",
                        "fieldRef and resourceFieldRef can not be specified simultaneously",
                    );
                }
                (None, None) => errors.required(&path.child("fieldRef"), ""),
            }
        }
    }
    if let Some(projected) = &volume.projected {
        validate_projected(projected, &path.child("projected"), errors);
    }
    if let Some(image) = &volume.image {
        let path = path.child("image");
        if image.reference.is_empty() {
            errors.required(&path.child("reference"), "");
        }
        if !image.pull_policy.is_empty() {
            let policies = ["Always", "IfNotPresent", "Never"];
            errors.one_of(&path.child("pullPolicy"), &image.pull_policy, &policies);
        }
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        required_name(&claim.claim_name, &path.child("persistentVolumeClaim.claimName"), errors);
    }
}

fn validate_projected(projected: &ProjectedVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    validate_mode(projected.default_mode, &path.child("defaultMode"), errors);
    for (index, source) in projected.sources.iter().enumerate() {
        let path = path.child("sources");
        let path = path.index(index);
        if let Some(map) = &source.config_map {
            required_name(&map.name, &path.child("configMap.name"), errors);
            validate_items(&map.items, &path.child("configMap.items"), errors);
        }
        if let Some(secret) = &source.secret {
            required_name(&secret.name, &path.child("secret.name"), errors);
            validate_items(&secret.items, &path.child("secret.items"), errors);
        }
        if let Some(token) = &source.service_account_token {
            let path = path.child("serviceAccountToken");
            check_seconds(token.expiration_seconds, &path.child("expirationSeconds"), errors);
            validate_file_path(&token.path, &path.child("path"), errors);
        }
    }
}

fn required_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
    }
}

fn validate_mode(mode: Option<i32>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(mode) = mode
        && !(0..=0o777).contains(&mode)
    {
        errors.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn validate_items(items: &[KeyToPath], path: &Path<'_>, errors: &mut Errors) {
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        if item.key.is_empty() {
            errors.required(&path.child("key"), "");
        }
        validate_file_path(&item.path, &path.child("path"), errors);
        validate_mode(item.mode, &path.child("mode"), errors);
    }
}

/// The names beginning with dots are those that files are laid out with.
pub(super) fn validate_file_path(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.required(path, "");
        return;
    }
    validate_inner_path(value, path, errors);
    if value.starts_with("..") && !value.starts_with("../") && value != ".." {
        errors.invalid(path, value, "must not start with '..'");
    }
}

fn count_sources(volume: &Volume) -> usize {
    [
        volume.empty_dir.is_some(),
        volume.host_path.is_some(),
        volume.config_map.is_some(),
        volume.secret.is_some(),
        volume.downward_api.is_some(),
        volume.projected.is_some(),
        volume.image.is_some(),
        volume.persistent_volume_claim.is_some(),
        volume.ephemeral.is_some(),
        volume.csi.is_some(),
        volume.nfs.is_some(),
    ]
    .into_iter()
    .filter(|set| *set)
    .count()
}

pub(super) fn references(spec: &PodSpec, found: &mut References) {
    for volume in &spec.volumes {
        found.config_maps.extend(volume.config_map.iter().map(|map| map.name.clone()));
        found.secrets.extend(volume.secret.iter().map(|secret| secret.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|projected| &projected.sources) {
            found.config_maps.extend(source.config_map.iter().map(|map| map.name.clone()));
            found.secrets.extend(source.secret.iter().map(|secret| secret.name.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::{Container, SecurityContext, VolumeMount};

    use super::*;

    fn causes(volume: Volume, mount: Option<VolumeMount>, privileged: bool) -> Vec<String> {
        let volume = Volume { name: "v".to_owned(), ..volume };
        let mounts =
            mount.map(|mount| VolumeMount { name: "v".to_owned(), mount_path: "/v".to_owned(), ..mount });
        let own = SecurityContext { privileged: Some(privileged), ..SecurityContext::default() };
        let container = Container {
            name: "c".to_owned(),
            image: "i".to_owned(),
            image_pull_policy: "Always".to_owned(),
            termination_message_policy: "File".to_owned(),
            volume_mounts: mounts.into_iter().collect(),
            security_context: Some(own.into()),
            ..Container::default()
        };
        let spec = PodSpec { containers: vec![container], volumes: vec![volume], ..PodSpec::default() };
        let (path, mut errors) = (Path::root("spec"), Errors::default());
        let names = validate(&spec.volumes, &path.child("volumes"), &mut errors);
        super::super::containers::validate(&spec, &names, &path, &mut errors);
        let causes = errors.into_causes().into_iter();
        causes.map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    fn shows_image(reference: &str, policy: &str) -> Volume {
        let image = weir_proto::core::v1::ImageVolumeSource {
            reference: reference.to_owned(),
            pull_policy: policy.to_owned(),
        };
        Volume { image: Some(image), ..Volume::default() }
    }

    #[test]
    fn volumes_that_show_images_and_files_are_checked() {
        let none: [&str; 0] = [];
        let of = |volume| causes(volume, None, false);
        assert_eq!(of(shows_image("r/i:1", "Never")), none);
        assert_eq!(of(shows_image("", "")), ["spec.volumes[0].image.reference: Required value"]);
        let wrong = of(shows_image("r/i:1", "Sometimes"));
        assert!(wrong[0].starts_with("spec.volumes[0].image.pullPolicy: Unsupported value"), "{wrong:?}");
        let item = |path: &str| {
            let items = vec![KeyToPath { key: "k".to_owned(), path: path.to_owned(), mode: None }];
            let map = weir_proto::core::v1::ConfigMapVolumeSource {
                name: "m".to_owned(),
                items,
                ..Default::default()
            };
            of(Volume { config_map: Some(map), ..Volume::default() })
        };
        assert_eq!(item("a/..b"), none);
        let at = "spec.volumes[0].configMap.items[0].path";
        assert_eq!(item("..data"), [format!("{at}: Invalid value: \"..data\": must not start with '..'")]);
        assert_eq!(item("../a"), [format!("{at}: Invalid value: \"../a\": must not contain '..'")]);
    }

    #[test]
    fn mounts_pass_on_and_are_fixed_only_where_that_can_be() {
        let none: [&str; 0] = [];
        let mount = |propagation: Option<&str>, recursive: Option<&str>, read_only, privileged| {
            let mount = VolumeMount {
                mount_propagation: propagation.map(str::to_owned),
                recursive_read_only: recursive.map(str::to_owned),
                read_only,
                ..VolumeMount::default()
            };
            causes(Volume::default(), Some(mount), privileged)
        };
        assert_eq!(mount(Some("Bidirectional"), None, false, true), none);
        assert_eq!(mount(Some("None"), Some("Enabled"), true, false), none);
        let at = "spec.containers[0].volumeMounts[0]";
        assert_eq!(
            mount(Some("Bidirectional"), None, false, false),
            [format!(
                "{at}.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged \
                 containers"
            )]
        );
        assert_eq!(
            mount(Some("HostToContainer"), Some("IfPossible"), false, false),
            [
                format!("{at}.recursiveReadOnly: Forbidden: may only be specified when readOnly is true"),
                format!(
                    "{at}.recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not \
                     specified"
                ),
            ]
        );
    }
}
