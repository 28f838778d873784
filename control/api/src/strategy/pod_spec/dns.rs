//! Whose names a pod finds: dnsPolicy and dnsConfig.

use weir_proto::core::v1::{PodDnsConfig, PodSpec};

use super::validate_ip;
use crate::validation::{Errors, Path, names};

/// What resolvers read.
const MOST_NAMESERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
/// All of them, with the spaces between.
const LONGEST_SEARCHES: usize = 2048;

pub(super) fn validate(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    errors.one_of(&path.child("dnsPolicy"), &spec.dns_policy, &policies);
    let config = spec.dns_config.as_ref();
    let path = path.child("dnsConfig");
    if spec.dns_policy == "None" && config.is_none_or(|config| config.nameservers.is_empty()) {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.required(&path.child("nameservers"), detail);
    }
    if let Some(config) = config {
        validate_config(config, &path, errors);
    }
}

fn validate_config(config: &PodDnsConfig, path: &Path<'_>, errors: &mut Errors) {
    let nameservers = path.child("nameservers");
    if config.nameservers.len() > MOST_NAMESERVERS {
        let detail = format!("must not have more than {MOST_NAMESERVERS} nameservers");
        errors.invalid(&nameservers, &config.nameservers.join(" "), detail);
    }
    for (index, nameserver) in config.nameservers.iter().enumerate() {
        validate_ip(&nameservers.index(index), nameserver, errors);
    }
    let (searches, line) = (path.child("searches"), config.searches.join(" "));
    if config.searches.len() > MOST_SEARCHES {
        errors.invalid(&searches, &line, format!("must not have more than {MOST_SEARCHES} search paths"));
    }
    if line.len() > LONGEST_SEARCHES {
        let detail = format!("must not have more than {LONGEST_SEARCHES} characters (including spaces)");
        errors.invalid(&searches, &line, detail);
    }
    for (index, search) in config.searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        // A root at the end says nothing new, and underscores are in names that are no host's.
        let name = search.strip_suffix('.').unwrap_or(search).replace('_', "x");
        errors.syntax(&searches.index(index), search, names::dns_subdomain(&name));
    }
    let options = path.child("options");
    for (index, option) in config.options.iter().enumerate() {
        if option.name.is_empty() {
            errors.required(&options.index(index), "must not be empty");
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::PodDnsConfigOption;

    use super::*;

    fn check(policy: &str, config: Option<PodDnsConfig>) -> Vec<String> {
        let spec = PodSpec { dns_policy: policy.to_owned(), dns_config: config, ..PodSpec::default() };
        let mut errors = Errors::default();
        validate(&spec, &Path::root("spec"), &mut errors);
        errors.into_causes().into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn what_resolvers_take_is_taken() {
        let config = PodDnsConfig {
            nameservers: words(&["192.0.2.1", "fd00::1", "192.0.2.2"]),
            searches: words(&["example.org", "a.b.", "_tcp.example.org", "."]),
            options: vec![PodDnsConfigOption { name: "ndots".to_owned(), value: Some("2".to_owned()) }],
        };
        for policy in ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"] {
            assert_eq!(check(policy, Some(config.clone())), Vec::<String>::new());
        }
        assert_eq!(check("ClusterFirst", None), Vec::<String>::new());
    }

    #[test]
    fn what_they_do_not_take_is_named() {
        let with = |change: fn(&mut PodDnsConfig)| {
            let mut config = PodDnsConfig::default();
            change(&mut config);
            check("ClusterFirst", Some(config)).join("; ")
        };
        let cases: &[(String, &str, &str)] = &[
            (check("Sometimes", None).join("; "), "spec.dnsPolicy", "Unsupported value"),
            (check("None", None).join("; "), "spec.dnsConfig.nameservers", "at least one DNS nameserver"),
            (
                with(|config| config.nameservers = vec!["192.0.2.1".to_owned(); 4]),
                "spec.dnsConfig.nameservers",
                "more than 3 nameservers",
            ),
            (
                with(|config| config.nameservers = words(&["here"])),
                "spec.dnsConfig.nameservers[0]",
                "valid IP address",
            ),
            (
                with(|config| config.searches = vec!["a".to_owned(); 33]),
                "spec.dnsConfig.searches",
                "more than 32 search paths",
            ),
            (
                with(|config| config.searches = vec![format!("{}.b", "a".repeat(60)); 64]),
                "spec.dnsConfig.searches",
                "more than 2048 characters",
            ),
            (
                with(|config| config.searches = words(&["ok", "not ok"])),
                "spec.dnsConfig.searches[1]",
                "RFC 1123 subdomain",
            ),
            (
                with(|config| config.options = vec![PodDnsConfigOption::default()]),
                "spec.dnsConfig.options[0]",
                "must not be empty",
            ),
        ];
        for (found, field, detail) in cases {
            assert!(found.contains(field) && found.contains(detail), "{found}: {field} {detail}");
        }
    }
}
