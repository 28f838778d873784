//! Pods that this node does not take, whoever bound them here: they fail at once, with Kubernetes' reason.

use weir_proto::core::v1::{AppArmorProfile, Pod};

use super::eviction::Ending;
use super::worker::Worker;

/// What an operator lets pods of this node do.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Kernel parameters beyond the safe ones: names, or their beginnings with a `*` behind them.
    pub unsafe_sysctls: Vec<String>,
}

/// Kubernetes' safe kernel parameters: set for one pod they are felt by that pod alone.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

impl Worker {
    /// Before anything of the pod is made.
    pub(super) fn admit(&mut self, pod: Option<&Pod>) {
        let Some(pod) = pod.filter(|_| self.memory.sandbox.is_none() && self.memory.ending.is_none()) else {
            return;
        };
        let over = matches!(pod.status().phase.as_str(), "Succeeded" | "Failed");
        if let Some((reason, why)) = refuse(pod, &self.context.rules).filter(|_| !over) {
            self.evict(pod, Ending::refusal(reason, &why));
        }
    }
}

/// Kubernetes' reason, and what is wrong.
fn refuse(pod: &Pod, rules: &Rules) -> Option<(&'static str, String)> {
    if let Some(why) = forbidden_sysctl(pod, rules) {
        return Some(("SysctlForbidden", why));
    }
    let confined = profiles(pod).any(|profile| profile.r#type != "Unconfined");
    confined.then(|| ("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned()))
}

fn forbidden_sysctl(pod: &Pod, rules: &Rules) -> Option<String> {
    let spec = pod.spec();
    let sysctls = spec.security_context.iter().flat_map(|context| &context.sysctls);
    sysctls.into_iter().find_map(|sysctl| {
        let name = sysctl.name.replace('/', ".");
        let allowed = SAFE_SYSCTLS.contains(&name.as_str())
            || rules.unsafe_sysctls.iter().any(|rule| match rule.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => *rule == name,
            });
        if !allowed {
            return Some(format!("forbidden sysctl: {:?} not allowlisted", sysctl.name));
        }
        let shared = match name.split('.').next() {
            Some("net") if spec.host_network => "net",
            Some("kernel" | "fs") if spec.host_ipc => "ipc",
            _ => return None,
        };
        Some(format!("forbidden sysctl: {:?} not allowed with host {shared} enabled", sysctl.name))
    })
}

fn profiles(pod: &Pod) -> impl Iterator<Item = &AppArmorProfile> {
    let spec = pod.spec();
    let of_pod = spec.security_context.iter().filter_map(|context| context.app_armor_profile.as_ref());
    let containers = spec.containers.iter().chain(&spec.init_containers);
    let contexts = containers.filter_map(|container| container.security_context.as_deref());
    of_pod.chain(contexts.filter_map(|context| context.app_armor_profile.as_ref()))
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::{Container, SecurityContext, Sysctl};

    use super::*;

    fn pod(sysctls: &[&str]) -> Pod {
        let mut pod = Pod::default();
        let sysctl = |name: &&str| Sysctl { name: (*name).to_owned(), value: "1".to_owned() };
        pod.spec_mut().security_context.get_or_insert_default().sysctls =
            sysctls.iter().map(sysctl).collect();
        pod
    }

    fn said(pod: &Pod, rules: &[&str]) -> String {
        let rules = Rules { unsafe_sysctls: rules.iter().map(|rule| (*rule).to_owned()).collect() };
        refuse(pod, &rules).map_or_else(String::new, |(reason, why)| format!("{reason}: {why}"))
    }

    #[test]
    fn safe_kernel_parameters_are_taken_and_others_where_the_operator_says_so() {
        assert_eq!(said(&pod(&["net.ipv4.tcp_syncookies", "kernel/shm_rmid_forced"]), &[]), "");
        let refused = "SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowlisted";
        assert_eq!(said(&pod(&["kernel.msgmax"]), &["net.*"]), refused);
        assert_eq!(said(&pod(&["kernel.msgmax"]), &["kernel.msg*"]), "");
        assert_eq!(said(&pod(&["net.core.somaxconn"]), &["net.core.somaxconn"]), "");
    }

    #[test]
    fn the_nodes_own_parameters_are_not_a_pods_to_set() {
        let mut pod = pod(&["net.ipv4.tcp_syncookies"]);
        pod.spec_mut().host_network = true;
        assert!(said(&pod, &[]).ends_with("\"net.ipv4.tcp_syncookies\" not allowed with host net enabled"));
        let mut pod = self::pod(&["kernel.shm_rmid_forced"]);
        pod.spec_mut().host_ipc = true;
        assert!(said(&pod, &[]).ends_with("not allowed with host ipc enabled"));
    }

    #[test]
    fn confinement_that_nobody_enforces_is_refused() {
        let mut pod = pod(&[]);
        let profile = |kind: &str| AppArmorProfile { r#type: kind.to_owned(), localhost_profile: None };
        let container = |kind: &str| Container {
            security_context: Some(Box::new(SecurityContext {
                app_armor_profile: Some(profile(kind)),
                ..SecurityContext::default()
            })),
            ..Container::default()
        };
        pod.spec_mut().containers = vec![container("Unconfined")];
        assert_eq!(said(&pod, &[]), "");
        pod.spec_mut().containers = vec![container("RuntimeDefault")];
        assert!(said(&pod, &[]).starts_with("AppArmor: Cannot enforce AppArmor"));
    }
}
