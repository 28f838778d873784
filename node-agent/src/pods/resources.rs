//! Requests, limits and security of containers, in the runtime's terms. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use weir_proto::Quantity;
use weir_proto::core::v1::{Container, PodSpec, SeccompProfile};
use weir_runtime::cgroup::{QosClass, pod_resources};
use weir_runtime::{HugePages, Resources, Seccomp, Security};

pub(super) fn of_container(container: &Container) -> Resources {
    let empty = BTreeMap::new();
    let (limits, requests) =
        container.resources.as_ref().map_or((&empty, &empty), |all| (&all.limits, &all.requests));
    let milli = |from: &BTreeMap<String, Quantity>| from.get("cpu").map(|amount| whole(amount.milli_value()));
    let bytes = |from: &BTreeMap<String, Quantity>| from.get("memory").map(|amount| whole(amount.value()));
    Resources {
        cpu_request: milli(requests),
        cpu_limit: milli(limits),
        memory_request: bytes(requests),
        memory_limit: bytes(limits),
        pids_limit: None,
        huge_pages: limits.iter().filter_map(|(name, amount)| huge_pages(name, amount)).collect(),
    }
}

/// The pod as a whole.
pub(super) fn of_pod(spec: &PodSpec) -> Resources {
    let all = |containers: &[Container]| containers.iter().map(of_container).collect::<Vec<_>>();
    pod_resources(&all(&spec.containers), &all(&spec.init_containers))
}

pub(super) fn qos(spec: &PodSpec) -> QosClass {
    let all: Vec<Resources> = spec.containers.iter().chain(&spec.init_containers).map(of_container).collect();
    QosClass::of(&all)
}

/// The container's security context over the pod's. Localhost profiles lie below `<state>/seccomp`.
pub(super) fn security(spec: &PodSpec, container: &Container, seccomp_dir: &Path) -> Security {
    let pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.as_deref().cloned().unwrap_or_default();
    let id = |number: i64| u32::try_from(number).ok();
    let capabilities = own.capabilities.unwrap_or_default();
    let profile = own.seccomp_profile.or(pod.seccomp_profile);
    Security {
        run_as_user: own.run_as_user.or(pod.run_as_user).and_then(id),
        run_as_group: own.run_as_group.or(pod.run_as_group).and_then(id),
        run_as_non_root: own.run_as_non_root.or(pod.run_as_non_root).unwrap_or(false),
        strict_groups: pod.supplemental_groups_policy.as_deref() == Some("Strict"),
        supplemental_groups: pod.supplemental_groups.into_iter().chain(pod.fs_group).filter_map(id).collect(),
        privileged: own.privileged.unwrap_or(false),
        read_only_root: own.read_only_root_filesystem.unwrap_or(false),
        allow_privilege_escalation: own.allow_privilege_escalation,
        capabilities_add: capabilities.add,
        capabilities_drop: capabilities.drop,
        seccomp: profile.map_or(Seccomp::Unconfined, |profile| seccomp(&profile, seccomp_dir)),
    }
}

fn seccomp(profile: &SeccompProfile, dir: &Path) -> Seccomp {
    match (profile.r#type.as_str(), &profile.localhost_profile) {
        ("RuntimeDefault", _) => Seccomp::RuntimeDefault,
        ("Localhost", Some(name)) => Seccomp::Localhost(dir.join(name)),
        _ => Seccomp::Unconfined,
    }
}

/// "hugepages-2Mi".
fn huge_pages(name: &str, amount: &Quantity) -> Option<HugePages> {
    let size: Quantity = name.strip_prefix("hugepages-")?.parse().ok()?;
    Some(HugePages { page_size: whole(size.value()), limit: whole(amount.value()) })
}

fn whole(amount: i128) -> u64 {
    u64::try_from(amount.max(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::{PodSecurityContext, ResourceRequirements, SecurityContext};

    use super::*;

    fn container(limits: &[(&str, &str)], requests: &[(&str, &str)]) -> Container {
        let amounts = |all: &[(&str, &str)]| {
            all.iter()
                .map(|(name, amount)| ((*name).to_owned(), amount.parse().expect("a quantity")))
                .collect()
        };
        let resources = ResourceRequirements {
            limits: amounts(limits),
            requests: amounts(requests),
            ..Default::default()
        };
        Container { resources: Some(resources), ..Container::default() }
    }

    #[test]
    fn quantities_become_thousandths_and_bytes() {
        let resources = of_container(&container(
            &[("memory", "1Gi"), ("hugepages-2Mi", "4Mi")],
            &[("cpu", "250m"), ("memory", "1e3")],
        ));
        assert_eq!((resources.cpu_request, resources.cpu_limit), (Some(250), None));
        assert_eq!((resources.memory_request, resources.memory_limit), (Some(1000), Some(1 << 30)));
        assert_eq!(resources.huge_pages, [HugePages { page_size: 2 << 20, limit: 4 << 20 }]);
    }

    #[test]
    fn the_class_is_that_of_all_containers() {
        let all = &[("cpu", "1"), ("memory", "1Gi")];
        let spec = |containers: Vec<Container>| PodSpec { containers, ..PodSpec::default() };
        assert_eq!(qos(&spec(vec![container(all, all)])), QosClass::Guaranteed);
        assert_eq!(qos(&spec(vec![container(all, all), container(&[], &[])])), QosClass::Burstable);
        assert_eq!(qos(&spec(vec![container(&[], &[])])), QosClass::BestEffort);
    }

    #[test]
    fn a_containers_security_goes_over_the_pods() {
        let spec = PodSpec {
            security_context: Some(PodSecurityContext {
                run_as_user: Some(1000),
                run_as_group: Some(1000),
                fs_group: Some(2000),
                seccomp_profile: Some(SeccompProfile {
                    r#type: "RuntimeDefault".to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..PodSpec::default()
        };
        let own = SecurityContext { run_as_user: Some(0), ..SecurityContext::default() };
        let security = security(
            &spec,
            &Container { security_context: Some(Box::new(own)), ..Container::default() },
            Path::new("/s"),
        );
        assert_eq!((security.run_as_user, security.run_as_group), (Some(0), Some(1000)));
        assert_eq!(security.supplemental_groups, [2000]);
        assert_eq!(security.seccomp, Seccomp::RuntimeDefault);
    }
}
