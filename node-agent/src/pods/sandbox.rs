//! What a pod's sandbox is made from: host name, `/etc/hosts`, `/etc/resolv.conf`, cgroup. Pure.

use std::net::IpAddr;

use weir_proto::core::v1::{HostAlias, Pod};
use weir_runtime::SandboxSpec;

use super::{resolv_conf, resources};

/// What the pod's files say beyond the pod itself.
#[derive(Clone, Debug)]
pub struct Names {
    /// Nameservers of dnsPolicy ClusterFirst; without any, pods get the node's.
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// The node's `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// The node's `/etc/hosts`, for pods in its network.
    pub hosts: String,
    /// The node's host name, for the same.
    pub hostname: String,
}

/// `addresses` is empty for a pod in the node's network, whose files are the node's.
pub(super) fn spec(pod: &Pod, addresses: &[IpAddr], names: &Names) -> SandboxSpec {
    let (meta, spec) = (pod.meta(), pod.spec());
    let sysctls = spec.security_context.iter().flat_map(|context| &context.sysctls);
    SandboxSpec {
        uid: meta.uid.clone(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        hostname: if spec.host_network { names.hostname.clone() } else { hostname(pod) },
        host_network: spec.host_network,
        host_ipc: spec.host_ipc,
        host_pid: spec.host_pid,
        share_process_namespace: spec.share_process_namespace.unwrap_or(false),
        user_namespace: spec.host_users == Some(false),
        sysctls: sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
        qos: resources::qos(spec),
        resources: resources::of_pod(spec),
        hosts: hosts(pod, addresses, names),
        resolv_conf: resolv_conf::form(pod, names).text,
    }
}

/// At most 63 characters, and no dash or dot at the end, as the kernel and DNS want it.
fn hostname(pod: &Pod) -> String {
    let name = if pod.spec().hostname.is_empty() { &pod.meta().name } else { &pod.spec().hostname };
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

fn hosts(pod: &Pod, addresses: &[IpAddr], names: &Names) -> String {
    let spec = pod.spec();
    if spec.host_network {
        return format!(
            "# Kubernetes-managed hosts file (host network).\n{}{}",
            names.hosts,
            of_aliases(&spec.host_aliases)
        );
    }
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    let host = hostname(pod);
    for address in addresses {
        let full = if spec.subdomain.is_empty() {
            String::new()
        } else {
            format!("{host}.{}.{}.svc.{}\t", spec.subdomain, pod.meta().namespace, names.cluster_domain)
        };
        text.push_str(&format!("{address}\t{full}{host}\n"));
    }
    text + &of_aliases(&spec.host_aliases)
}

fn of_aliases(aliases: &[HostAlias]) -> String {
    let lines = aliases.iter().map(|alias| format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
    let lines: String = lines.collect();
    if lines.is_empty() { lines } else { format!("\n# Entries added by HostAliases.\n{lines}") }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::pods) fn names(dns: &[[u8; 4]]) -> Names {
        Names {
            cluster_dns: dns.iter().map(|octets| (*octets).into()).collect(),
            cluster_domain: "cluster.local".to_owned(),
            hosts: "192.0.2.7\tnode\n".to_owned(),
            hostname: "machine".to_owned(),
            resolv_conf: "# x\nnameserver 192.0.2.1\nsearch example.org\noptions rotate\n".to_owned(),
        }
    }

    pub(in crate::pods) fn pod(policy: &str) -> Pod {
        let mut pod = Pod::default();
        pod.meta_mut().name = "web-0".to_owned();
        pod.meta_mut().namespace = "shop".to_owned();
        pod.spec_mut().dns_policy = policy.to_owned();
        pod
    }

    #[test]
    fn hosts_hold_the_pod_and_its_aliases() {
        let mut pod = pod("");
        pod.spec_mut().subdomain = "web".to_owned();
        pod.spec_mut().host_aliases =
            vec![HostAlias { ip: "192.0.2.5".to_owned(), hostnames: vec!["a".to_owned(), "b".to_owned()] }];
        let spec = spec(&pod, &[[10, 32, 1, 2].into()], &names(&[]));
        assert!(
            spec.hosts.contains("10.32.1.2\tweb-0.web.shop.svc.cluster.local\tweb-0\n"),
            "{}",
            spec.hosts
        );
        assert!(spec.hosts.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(
            spec.hosts.ends_with("\n\n# Entries added by HostAliases.\n192.0.2.5\ta\tb\n"),
            "{}",
            spec.hosts
        );
        assert_eq!(spec.hostname, "web-0");
        pod.spec_mut().host_network = true;
        assert_eq!(super::spec(&pod, &[], &names(&[])).hostname, "machine", "whatever the pod says");
        assert_eq!(
            hosts(&pod, &[], &names(&[])),
            "# Kubernetes-managed hosts file (host network).\n192.0.2.7\tnode\n\n# Entries added by HostAliases.\n\
             192.0.2.5\ta\tb\n"
        );
        pod.meta_mut().name = format!("{}-tail", "x".repeat(62));
        assert_eq!(hostname(&pod), "x".repeat(62), "cut before the dash");
    }
}
