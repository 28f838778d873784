//! Security contexts, of pods and of containers.

use std::collections::BTreeSet;

use weir_proto::core::v1::{AppArmorProfile, PodSpec, SeccompProfile, SecurityContext};

use super::containers::validate_inner_path;
use crate::validation::{Errors, Path};

pub(super) fn validate_pod(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    if spec.host_pid && spec.share_process_namespace == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), true, detail);
    }
    if spec.host_users == Some(false) {
        let shared =
            [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)];
        for (field, _) in shared.into_iter().filter(|(_, shared)| *shared) {
            errors.forbidden(&path.child(field), "when `hostUsers` is false");
        }
    }
    let Some(context) = &spec.security_context else { return };
    let path = path.child("securityContext");
    let ids = [
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
        ("fsGroup", context.fs_group),
    ];
    for (field, id) in ids {
        validate_id(&path.child(field), id, errors);
    }
    for (index, group) in context.supplemental_groups.iter().enumerate() {
        validate_id(&path.child("supplementalGroups").index(index), Some(*group), errors);
    }
    let policies = [
        ("fsGroupChangePolicy", &context.fs_group_change_policy, ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &context.supplemental_groups_policy, ["Merge", "Strict"]),
    ];
    for (field, policy, known) in policies {
        if let Some(policy) = policy {
            errors.one_of(&path.child(field), policy, &known);
        }
    }
    let mut taken = BTreeSet::new();
    for (index, sysctl) in context.sysctls.iter().enumerate() {
        let sysctls = path.child("sysctls");
        let at = sysctls.index(index);
        let at = at.child("name");
        if sysctl.name.is_empty() {
            errors.required(&at, "");
        } else if !is_sysctl(&sysctl.name) {
            let detail = "must have at most 253 characters and consist of lower case letters, digits, '-', '_', and \
                          '.' or '/' between its parts";
            errors.invalid(&at, &sysctl.name, detail);
        } else if !taken.insert(sysctl.name.replace('/', ".")) {
            errors.duplicate(&at, &sysctl.name);
        }
    }
    validate_profiles(context.seccomp_profile.as_ref(), context.app_armor_profile.as_ref(), &path, errors);
}

/// `path` is of the container.
pub(super) fn validate_container(
    spec: &PodSpec,
    context: &SecurityContext,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let path = path.child("securityContext");
    validate_id(&path.child("runAsUser"), context.run_as_user, errors);
    validate_id(&path.child("runAsGroup"), context.run_as_group, errors);
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(&path, "", detail);
        }
        let added = context.capabilities.iter().flat_map(|capabilities| &capabilities.add);
        if added.into_iter().any(|name| matches!(name.as_str(), "CAP_SYS_ADMIN" | "SYS_ADMIN")) {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(&path, "", detail);
        }
    }
    if let Some(mount) = &context.proc_mount {
        let at = path.child("procMount");
        errors.one_of(&at, mount, &["Default", "Unmasked"]);
        if mount == "Unmasked" && spec.host_users != Some(false) {
            errors.invalid(&at, mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    validate_profiles(context.seccomp_profile.as_ref(), context.app_armor_profile.as_ref(), &path, errors);
}

pub(super) fn validate_id(path: &Path<'_>, id: Option<i64>, errors: &mut Errors) {
    if let Some(id) = id
        && !(0..=i64::from(i32::MAX)).contains(&id)
    {
        errors.invalid(path, id, format!("must be between 0 and {}, inclusive", i32::MAX));
    }
}

fn validate_profiles(
    seccomp: Option<&SeccompProfile>,
    app_armor: Option<&AppArmorProfile>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(profile) = seccomp {
        let path = path.child("seccompProfile");
        validate_profile(&profile.r#type, profile.localhost_profile.as_deref(), &path, errors);
        // Below the node's own directory, whoever wrote the manifest.
        if let Some(file) = &profile.localhost_profile {
            validate_inner_path(file, &path.child("localhostProfile"), errors);
        }
    }
    if let Some(profile) = app_armor {
        let path = path.child("appArmorProfile");
        validate_profile(&profile.r#type, profile.localhost_profile.as_deref(), &path, errors);
    }
}

fn validate_profile(kind: &str, localhost: Option<&str>, path: &Path<'_>, errors: &mut Errors) {
    errors.one_of(&path.child("type"), kind, &["Localhost", "RuntimeDefault", "Unconfined"]);
    match (kind, localhost) {
        ("Localhost", None | Some("")) => {
            errors.required(&path.child("localhostProfile"), "must be set when type is Localhost");
        }
        ("Localhost", Some(_)) | (_, None) => {}
        (_, Some(profile)) => {
            let detail = "can only be set when type is Localhost";
            errors.invalid(&path.child("localhostProfile"), profile, detail);
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let part = |part: &str| {
        let bytes = part.as_bytes();
        let ends =
            bytes.first().is_some_and(|byte| plain(*byte)) && bytes.last().is_some_and(|byte| plain(*byte));
        ends && bytes.iter().all(|byte| plain(*byte) || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::{Capabilities, PodSecurityContext, Sysctl};

    use super::*;

    fn causes(check: impl FnOnce(&mut Errors)) -> Vec<String> {
        let mut errors = Errors::default();
        check(&mut errors);
        errors.into_causes().into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    fn of_pod(context: PodSecurityContext) -> Vec<String> {
        let spec = PodSpec { security_context: Some(context), ..PodSpec::default() };
        causes(|errors| validate_pod(&spec, &Path::root("spec"), errors))
    }

    fn of_container(context: &SecurityContext) -> Vec<String> {
        let spec = PodSpec::default();
        causes(|errors| validate_container(&spec, context, &Path::root("c"), errors))
    }

    fn localhost(file: Option<&str>) -> SeccompProfile {
        SeccompProfile { r#type: "Localhost".to_owned(), localhost_profile: file.map(str::to_owned) }
    }

    #[test]
    fn profiles_lie_below_the_nodes_directory() {
        let seccomp = |file| SecurityContext { seccomp_profile: Some(localhost(file)), ..Default::default() };
        assert_eq!(of_container(&seccomp(Some("web/strict.json"))), Vec::<String>::new());
        for (file, word) in [
            (None, "Required value"),
            (Some("/etc/passwd"), "must be a relative path"),
            (Some("a/../b"), "'..'"),
        ] {
            let causes = of_container(&seccomp(file));
            let field = "c.securityContext.seccompProfile.localhostProfile: ";
            assert!(
                causes.len() == 1 && causes[0].starts_with(field) && causes[0].contains(word),
                "{causes:?}"
            );
        }
        let unknown = SeccompProfile { r#type: "Strict".to_owned(), localhost_profile: None };
        let context = SecurityContext { seccomp_profile: Some(unknown), ..SecurityContext::default() };
        assert!(of_container(&context)[0].contains("Unsupported value: \"Strict\""));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let spec = PodSpec { host_pid: true, share_process_namespace: Some(true), ..PodSpec::default() };
        let causes = causes(|errors| validate_pod(&spec, &Path::root("spec"), errors));
        assert_eq!(
            causes,
            [
                "spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled"
            ]
        );
        let mut context = SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { add: vec!["SYS_ADMIN".to_owned()], drop: vec![] }),
            ..SecurityContext::default()
        };
        assert!(of_container(&context)[0].contains("CAP_SYS_ADMIN"));
        context = SecurityContext { proc_mount: Some("Unmasked".to_owned()), ..SecurityContext::default() };
        assert!(of_container(&context)[0].contains("`hostUsers` must be false"));
    }

    #[test]
    fn sysctls_have_names_each_once() {
        let sysctl = |name: &str| Sysctl { name: name.to_owned(), value: "1".to_owned() };
        let context = |names: &[&str]| PodSecurityContext {
            sysctls: names.iter().copied().map(sysctl).collect(),
            ..PodSecurityContext::default()
        };
        assert!(of_pod(context(&["net.ipv4.tcp_syncookies", "kernel/shm_rmid_forced"])).is_empty());
        for (names, word) in [
            (&[""][..], "Required"),
            (&["Net.x"], "Invalid value"),
            (&["net..x"], "Invalid value"),
            (&["net.ipv4/../../kernel"], "Invalid value"),
            (&["net.a", "net/a"], "Duplicate value"),
        ] {
            let causes = of_pod(context(names));
            assert!(causes.len() == 1 && causes[0].contains(word), "{names:?}: {causes:?}");
        }
    }

    #[test]
    fn policies_are_kubernetes_own() {
        let context = PodSecurityContext {
            supplemental_groups_policy: Some("Loose".to_owned()),
            fs_group_change_policy: Some("Never".to_owned()),
            ..PodSecurityContext::default()
        };
        assert_eq!(of_pod(context).len(), 2);
    }
}
