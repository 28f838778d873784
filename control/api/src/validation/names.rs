//! The syntax of names, labels and ports, with Kubernetes' messages. Each check returns what is wrong; nothing if
//! all is well.

/// Characters of a name that an error repeats.
pub(crate) const LONGEST_SHOWN: usize = 256;

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";

fn regex_message(message: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<_> = examples.iter().map(|example| format!("'{example}'")).collect();
    format!("{message} (e.g. {}, regex used for validation is '{regex}')", examples.join(",  or "))
}

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} characters")
}

fn lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Begins and ends with `edge`, holds only `inner` between.
fn shaped(value: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => edge(*first) && edge(*last) && bytes.iter().all(|byte| inner(*byte)),
        _ => false,
    }
}

fn is_label(value: &str) -> bool {
    shaped(value, lower_alphanumeric, |byte| lower_alphanumeric(byte) || byte == b'-')
}

fn is_name_part(value: &str) -> bool {
    shaped(value, |b| b.is_ascii_alphanumeric(), |b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// RFC 1123 label: names of namespaces, containers, volumes.
pub(crate) fn dns_label(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > 63 {
        problems.push(too_long(63));
    }
    if !is_label(value) {
        problems.push(regex_message(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
             and end with an alphanumeric character",
            LABEL,
            &["my-name", "123-abc"],
        ));
    }
    problems
}

/// RFC 1123 subdomain: names of most objects.
pub(crate) fn dns_subdomain(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > 253 {
        problems.push(too_long(253));
    }
    if !value.split('.').all(is_label) {
        problems.push(regex_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
             must start and end with an alphanumeric character",
            &format!("{LABEL}(\\.{LABEL})*"),
            &["example.com"],
        ));
    }
    problems
}

/// RFC 1035 label: names of services.
pub(crate) fn dns1035_label(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > 63 {
        problems.push(too_long(63));
    }
    if !is_label(value) || !value.as_bytes().first().is_some_and(u8::is_ascii_lowercase) {
        problems.push(regex_message(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    problems
}

/// Keys of labels and annotations, names of resources and taints: `[prefix/]name`.
pub(crate) fn qualified_name(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let name = match value.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".to_owned());
            } else {
                problems.extend(
                    dns_subdomain(prefix).into_iter().map(|problem| format!("prefix part {problem}")),
                );
            }
            name
        }
        _ => {
            let message = regex_message(
                "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                 with an alphanumeric character",
                "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]",
                &["MyName", "my.name", "123-abc"],
            );
            return vec![
                message + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
            ];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        problems.push(format!("name part {}", too_long(63)));
    }
    if !is_name_part(name) {
        problems.push(regex_message(
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
             alphanumeric character",
            "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]",
            &["MyName", "my.name", "123-abc"],
        ));
    }
    problems
}

pub(crate) fn label_value(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > 63 {
        problems.push(too_long(63));
    }
    if !value.is_empty() && !is_name_part(value) {
        problems.push(regex_message(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    problems
}

/// Names of container ports, and of target ports (RFC 6335).
pub(crate) fn port_name(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > 15 {
        problems.push(too_long(15));
    }
    if !value.bytes().all(|byte| lower_alphanumeric(byte) || byte == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|byte| byte.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

pub(crate) fn environment_variable(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .to_owned(),
    ]
}

/// Keys of ConfigMaps and Secrets, which become file names.
pub(crate) fn config_key(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > 253 {
        problems.push(too_long(253));
    }
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        problems.push(regex_message(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    if value == "." || value == ".." {
        problems.push(format!("must not be '{value}'"));
    } else if value.starts_with("..") {
        problems.push("must not start with '..'".to_owned());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_pass() {
        for name in ["a", "web-1", "1a"] {
            assert!(dns_label(name).is_empty(), "{name}");
        }
        assert!(dns_subdomain("web-1.example.com").is_empty());
        assert!(dns1035_label("web").is_empty());
        for key in ["app", "app.kubernetes.io/name", "a_b.C"] {
            assert!(qualified_name(key).is_empty(), "{key}");
        }
        assert!(label_value("").is_empty() && label_value("v1.2_3").is_empty());
        assert!(port_name("http-2").is_empty());
        assert!(config_key("..data").len() == 1 && config_key("app.conf").is_empty());
    }

    #[test]
    fn bad_names_are_refused_with_a_reason() {
        for name in ["", "Web", "-a", "a-", "a_b", "ä"] {
            assert!(!dns_label(name).is_empty(), "{name}");
            assert!(!dns_subdomain(name).is_empty(), "{name}");
        }
        assert!(!dns_subdomain("a..b").is_empty());
        assert!(dns_label(&"a".repeat(64))[0].contains("63"));
        assert!(!dns1035_label("1a").is_empty());
        for key in ["", "/a", "a/", "a/b/c", "-a", "Ex.com/a"] {
            assert!(!qualified_name(key).is_empty(), "{key}");
        }
        for port in ["80", "a--b", "-a", "abcdefghijklmnop", "HTTP"] {
            assert!(!port_name(port).is_empty(), "{port}");
        }
        assert!(!environment_variable("A=B").is_empty());
    }
}
