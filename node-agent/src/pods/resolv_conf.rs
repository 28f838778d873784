//! A pod's `/etc/resolv.conf`: by its dnsPolicy, with what its dnsConfig adds, within the limits that resolvers have. Pure.

use std::net::IpAddr;

use weir_proto::core::v1::{Pod, PodDnsConfig};

use super::sandbox::Names;
use crate::dns::resolv_conf::ResolvConf;

/// What resolvers read (glibc's MAXNS), and what the kubelet gives them of search domains.
const MOST_NAMESERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const LONGEST_SEARCH_LINE: usize = 2048;

/// A file, and what had to be left out of it, in the kubelet's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Formed {
    pub(super) text: String,
    pub(super) omissions: Vec<String>,
}

/// Whether the pod asks for cluster DNS that this node cannot give.
pub(super) fn misses_cluster_dns(pod: &Pod, names: &Names) -> bool {
    names.cluster_dns.is_empty() && wants_cluster_dns(pod)
}

pub(super) fn wants_cluster_dns(pod: &Pod) -> bool {
    match pod.spec().dns_policy.as_str() {
        "ClusterFirstWithHostNet" => true,
        "" | "ClusterFirst" => !pod.spec().host_network,
        _ => false,
    }
}

pub(super) fn form(pod: &Pod, names: &Names) -> Formed {
    let inherited = ResolvConf::read(&names.resolv_conf);
    let mut conf = if pod.spec().dns_policy == "None" {
        ResolvConf::default()
    } else if !wants_cluster_dns(pod) || names.cluster_dns.is_empty() {
        inherited
    } else {
        let domain = &names.cluster_domain;
        let mut searches =
            vec![format!("{}.svc.{domain}", pod.meta().namespace), format!("svc.{domain}"), domain.clone()];
        searches.extend(inherited.searches);
        ResolvConf {
            nameservers: names.cluster_dns.iter().map(IpAddr::to_string).collect(),
            searches,
            options: vec!["ndots:5".to_owned()],
        }
    };
    if let Some(own) = &pod.spec().dns_config {
        add(&mut conf, own);
    }
    let omissions = cut(&mut conf);
    Formed { text: written(&conf), omissions }
}

/// An option of the pod replaces one of the same name.
fn add(conf: &mut ResolvConf, own: &PodDnsConfig) {
    conf.nameservers.extend(own.nameservers.iter().cloned());
    conf.searches.extend(own.searches.iter().cloned());
    let is_replaced = |option: &String| {
        let name = option.split(':').next();
        own.options.iter().any(|own| Some(own.name.as_str()) == name)
    };
    conf.options.retain(|option| !is_replaced(option));
    conf.options.extend(own.options.iter().map(|option| match &option.value {
        Some(value) => format!("{}:{value}", option.name),
        None => option.name.clone(),
    }));
}

/// Takes each once, and no more than resolvers take.
fn cut(conf: &mut ResolvConf) -> Vec<String> {
    let mut omissions = Vec::new();
    keep_first(&mut conf.nameservers);
    keep_first(&mut conf.searches);
    if conf.nameservers.len() > MOST_NAMESERVERS {
        conf.nameservers.truncate(MOST_NAMESERVERS);
        omissions.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            conf.nameservers.join(" ")
        ));
    }
    let before = conf.searches.len();
    conf.searches.truncate(MOST_SEARCHES);
    while conf.searches.join(" ").len() > LONGEST_SEARCH_LINE {
        conf.searches.pop();
    }
    if conf.searches.len() < before {
        omissions.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            conf.searches.join(" ")
        ));
    }
    omissions
}

fn keep_first(words: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    words.retain(|word| seen.insert(word.clone()));
}

fn written(conf: &ResolvConf) -> String {
    let mut text: String = conf.nameservers.iter().map(|server| format!("nameserver {server}\n")).collect();
    for (keyword, words) in [("search", &conf.searches), ("options", &conf.options)] {
        if !words.is_empty() {
            text.push_str(&format!("{keyword} {}\n", words.join(" ")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::PodDnsConfigOption;

    use super::*;
    use crate::pods::sandbox::tests::{names, pod};

    fn text(pod: &Pod, names: &Names) -> String {
        let formed = form(pod, names);
        assert_eq!(formed.omissions, Vec::<String>::new());
        formed.text
    }

    #[test]
    fn the_policy_decides_whose_names_are_found() {
        let dns = names(&[[10, 96, 0, 10]]);
        let cluster = "nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local example.org\n\
                       options ndots:5\n";
        let node = "nameserver 192.0.2.1\nsearch example.org\noptions rotate\n";
        assert_eq!(text(&pod("ClusterFirst"), &dns), cluster);
        assert_eq!(text(&pod("ClusterFirstWithHostNet"), &dns), cluster);
        assert_eq!(text(&pod("Default"), &dns), node);
        assert_eq!(text(&pod("None"), &dns), "");
        let mut in_the_nodes_network = pod("ClusterFirst");
        in_the_nodes_network.spec_mut().host_network = true;
        assert_eq!(text(&in_the_nodes_network, &dns), node);
        in_the_nodes_network.spec_mut().dns_policy = "ClusterFirstWithHostNet".to_owned();
        assert_eq!(text(&in_the_nodes_network, &dns), cluster);
    }

    #[test]
    fn without_cluster_dns_pods_get_the_nodes() {
        let node = "nameserver 192.0.2.1\nsearch example.org\noptions rotate\n";
        assert_eq!(text(&pod("ClusterFirst"), &names(&[])), node);
        let misses = |policy| misses_cluster_dns(&pod(policy), &names(&[]));
        assert!(misses("ClusterFirst") && misses("ClusterFirstWithHostNet") && !misses("Default"));
    }

    #[test]
    fn a_pods_own_settings_are_added_and_replace_options() {
        let mut pod = pod("ClusterFirst");
        let option = |name: &str, value: Option<&str>| PodDnsConfigOption {
            name: name.to_owned(),
            value: value.map(str::to_owned),
        };
        pod.spec_mut().dns_config = Some(PodDnsConfig {
            nameservers: vec!["192.0.2.9".to_owned(), "10.96.0.10".to_owned()],
            searches: vec!["cluster.local".to_owned(), "own".to_owned()],
            options: vec![option("ndots", Some("2")), option("edns0", None)],
        });
        let expected = "nameserver 10.96.0.10\nnameserver 192.0.2.9\n\
                        search shop.svc.cluster.local svc.cluster.local cluster.local example.org own\n\
                        options ndots:2 edns0\n";
        assert_eq!(text(&pod, &names(&[[10, 96, 0, 10]])), expected);
        pod.spec_mut().dns_policy = "None".to_owned();
        let expected =
            "nameserver 192.0.2.9\nnameserver 10.96.0.10\nsearch cluster.local own\noptions ndots:2 edns0\n";
        assert_eq!(text(&pod, &names(&[[10, 96, 0, 10]])), expected);
    }

    #[test]
    fn what_resolvers_would_not_read_is_left_out_and_told() {
        let mut many = pod("ClusterFirst");
        many.spec_mut().dns_config = Some(PodDnsConfig {
            nameservers: ["1", "2", "3"].map(|last| format!("192.0.2.{last}")).into(),
            searches: (0..40).map(|index| format!("d{index}")).collect(),
            options: Vec::new(),
        });
        let formed = form(&many, &names(&[[10, 96, 0, 10]]));
        assert_eq!(formed.text.lines().filter(|line| line.starts_with("nameserver ")).count(), 3);
        assert_eq!(formed.text.split_whitespace().filter(|word| word.starts_with('d')).count(), 28);
        let [nameservers, searches] = &formed.omissions[..] else { panic!("{formed:?}") };
        assert!(nameservers.ends_with("nameserver line is: 10.96.0.10 192.0.2.1 192.0.2.2"), "{nameservers}");
        assert!(searches.starts_with("Search Line limits were exceeded"), "{searches}");

        many.spec_mut().dns_config = Some(PodDnsConfig {
            searches: (0..20).map(|index| format!("{index}-{}", "x".repeat(150))).collect(),
            ..PodDnsConfig::default()
        });
        let formed = form(&many, &names(&[[10, 96, 0, 10]]));
        let line = formed.text.lines().find(|line| line.starts_with("search ")).unwrap();
        assert!(line.len() <= LONGEST_SEARCH_LINE + "search ".len() && line.len() > 1800, "{}", line.len());
        assert_eq!(formed.omissions.len(), 1);
    }
}
