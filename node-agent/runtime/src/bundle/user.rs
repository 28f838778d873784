//! Whom the container runs as: the security context over the image's `USER`, names looked up in the image's own files.

use std::path::Path;

use super::BundleError;
use super::rootfs::Root;
use crate::container::ContainerSpec;
use crate::sandbox::SandboxSpec;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) additional_gids: Vec<u32>,
}

pub(super) fn resolve(spec: &ContainerSpec, pod: &SandboxSpec, root: &Root) -> Result<User, BundleError> {
    let passwd = root.read(Path::new("/etc/passwd"))?.unwrap_or_default();
    let group = root.read(Path::new("/etc/group"))?.unwrap_or_default();
    let user = look_up(spec, &passwd, &group)?;
    match breaks_non_root(spec, &user) {
        None => Ok(user),
        Some(problem) => Err(BundleError::RunsAsRoot {
            problem,
            pod: format!("{}_{}({})", pod.name, pod.namespace, pod.uid),
            container: spec.key.name.clone(),
        }),
    }
}

/// The kubelet's rule: a user by name counts as one that cannot be told, whatever the image says of it.
fn breaks_non_root(spec: &ContainerSpec, user: &User) -> Option<String> {
    if !spec.security.run_as_non_root {
        return None;
    }
    if spec.security.run_as_user.is_some() {
        return (user.uid == 0).then(|| "container's runAsUser breaks non-root policy".to_owned());
    }
    let of_image = spec.image.config.user.as_deref().unwrap_or("");
    let name = of_image.split(':').next().unwrap_or("");
    if !name.is_empty() && name.parse::<u32>().is_err() {
        return Some(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
        ));
    }
    (user.uid == 0).then(|| "container has runAsNonRoot and image will run as root".to_owned())
}

fn look_up(spec: &ContainerSpec, passwd: &str, group: &str) -> Result<User, BundleError> {
    let of_image = spec.image.config.user.as_deref().unwrap_or("");
    let (name, group_name) = match of_image.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (of_image, None),
    };
    let unknown =
        |problem: &str| BundleError::NoUser { user: of_image.to_owned(), problem: problem.to_owned() };

    let (name, uid) = match (spec.security.run_as_user, name) {
        (Some(uid), _) => (None, uid),
        (None, "") => (None, 0),
        (None, name) => match name.parse() {
            Ok(uid) => (None, uid),
            Err(_) => {
                let entry = entries(passwd).find(|fields| fields[0] == name);
                let entry = entry.ok_or_else(|| unknown("no such user in the image's /etc/passwd"))?;
                (Some(name), number(&entry, 2).ok_or_else(|| unknown("malformed entry in /etc/passwd"))?)
            }
        },
    };
    let entry = entries(passwd).find(|fields| match name {
        Some(name) => fields[0] == name,
        None => number(fields, 2) == Some(uid),
    });
    let gid = match (spec.security.run_as_group, group_name) {
        (Some(gid), _) => gid,
        // The image's group belongs to the image's user.
        (None, Some(group_name)) if spec.security.run_as_user.is_none() => match group_name.parse() {
            Ok(gid) => gid,
            Err(_) => entries(group)
                .find(|fields| fields[0] == group_name)
                .and_then(|fields| number(&fields, 2))
                .ok_or_else(|| unknown("no such group in the image's /etc/group"))?,
        },
        _ => entry.as_ref().and_then(|fields| number(fields, 3)).unwrap_or(0),
    };
    let name = name.or(entry.as_ref().map(|fields| fields[0]));
    let mut additional_gids = spec.security.supplemental_groups.clone();
    for fields in entries(group).filter(|_| !spec.security.strict_groups) {
        let member =
            name.is_some_and(|name| fields.get(3).is_some_and(|names| names.split(',').any(|n| n == name)));
        if let Some(gid) = number(&fields, 2).filter(|_| member) {
            additional_gids.push(gid);
        }
    }
    additional_gids.sort_unstable();
    additional_gids.dedup();
    Ok(User { uid, gid, additional_gids })
}

fn entries(file: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = file.lines().filter(|line| !line.starts_with('#') && line.contains(':'));
    lines.map(|line| line.trim().split(':').collect())
}

fn number(fields: &[&str], index: usize) -> Option<u32> {
    fields.get(index)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::ContainerKey;
    use crate::images::{Image, ImageConfig};

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlog:x:4:syslog,web\n";

    fn spec(user: &str) -> ContainerSpec {
        let config = ImageConfig { user: Some(user.to_owned()), ..ImageConfig::default() };
        let image = Image { reference: "i".into(), digest: "d".into(), config, layers: Vec::new(), size: 0 };
        ContainerSpec::new(ContainerKey::new("u", "c", 0), image)
    }

    fn ids(spec: &ContainerSpec) -> (u32, u32, Vec<u32>) {
        let user = look_up(spec, PASSWD, GROUP).expect("a known user");
        (user.uid, user.gid, user.additional_gids)
    }

    #[test]
    fn names_and_numbers_are_looked_up_in_the_image() {
        assert_eq!(ids(&spec("")), (0, 0, vec![]));
        assert_eq!(ids(&spec("web")), (101, 102, vec![4]));
        assert_eq!(ids(&spec("101")), (101, 102, vec![4]));
        assert_eq!(ids(&spec("web:log")), (101, 4, vec![4]));
        assert_eq!(ids(&spec("5000:6000")), (5000, 6000, vec![]));
        assert!(look_up(&spec("nobody-here"), PASSWD, GROUP).is_err());
        assert!(look_up(&spec("web:nogroup"), PASSWD, GROUP).is_err());
    }

    #[test]
    fn a_strict_policy_leaves_the_images_groups_out() {
        let mut strict = spec("web");
        strict.security.strict_groups = true;
        strict.security.supplemental_groups = vec![2000];
        assert_eq!(ids(&strict), (101, 102, vec![2000]));
    }

    #[test]
    fn whoever_may_be_root_breaks_the_policy_in_the_kubelets_words() {
        let problem = |user: &str, run_as: Option<u32>| {
            let mut spec = spec(user);
            (spec.security.run_as_non_root, spec.security.run_as_user) = (true, run_as);
            breaks_non_root(&spec, &look_up(&spec, PASSWD, GROUP).expect("a known user")).unwrap_or_default()
        };
        assert_eq!(problem("101", None), "");
        assert_eq!(problem("web", Some(101)), "");
        assert_eq!(problem("", None), "container has runAsNonRoot and image will run as root");
        assert_eq!(problem("0:0", None), "container has runAsNonRoot and image will run as root");
        assert_eq!(problem("101", Some(0)), "container's runAsUser breaks non-root policy");
        assert_eq!(
            problem("web", None),
            "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root"
        );
    }

    #[test]
    fn the_security_context_goes_before_the_image() {
        let mut spec = spec("web:log");
        spec.security.run_as_user = Some(7);
        spec.security.supplemental_groups = vec![2000];
        assert_eq!(ids(&spec), (7, 0, vec![2000]));
        spec.security.run_as_group = Some(8);
        assert_eq!(ids(&spec), (7, 8, vec![2000]));
    }
}
