//! Fields of the pod as text, for environment variables and files (the downward API). Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use thiserror::Error;
use weir_proto::Quantity;
use weir_proto::core::v1::{Container, Pod, ResourceFieldSelector};

/// What a field reference may ask for beyond the pod object itself.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub node_name: String,
    pub host_ip: IpAddr,
    pub pod_ips: Vec<IpAddr>,
    /// What a container without a limit may use.
    pub allocatable: BTreeMap<String, Quantity>,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum FieldError {
    #[error("field reference {0:?} is not supported")]
    Unknown(String),
    #[error("resource reference {0:?} is not supported")]
    UnknownResource(String),
    #[error("resource reference names container {0:?}, which the pod does not have")]
    NoContainer(String),
    #[error("divisor of resource reference {0:?} is not positive")]
    Divisor(String),
}

/// The text of `fieldRef.fieldPath`.
pub(super) fn field(pod: &Pod, path: &str, around: &Surroundings) -> Result<String, FieldError> {
    let meta = pod.meta();
    let all = |addresses: &[IpAddr]| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    Ok(match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => lines(&meta.labels),
        "metadata.annotations" => lines(&meta.annotations),
        "spec.nodeName" => around.node_name.clone(),
        "spec.serviceAccountName" => pod.spec().service_account_name.clone(),
        "status.hostIP" | "status.hostIPs" => around.host_ip.to_string(),
        "status.podIP" => all(around.pod_ips.get(..1).unwrap_or_default()),
        "status.podIPs" => all(&around.pod_ips),
        _ => {
            let value = subscript(path, "metadata.labels").map(|key| meta.labels.get(key));
            let value = value
                .or_else(|| subscript(path, "metadata.annotations").map(|key| meta.annotations.get(key)));
            value.ok_or_else(|| FieldError::Unknown(path.to_owned()))?.cloned().unwrap_or_default()
        }
    })
}

/// The number of `resourceFieldRef`, in units of its divisor, rounded up.
pub(super) fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    around: &Surroundings,
) -> Result<String, FieldError> {
    let name = &selector.container_name;
    let mut all = pod.spec().containers.iter().chain(&pod.spec().init_containers);
    let container = match own {
        Some(own) if name.is_empty() || own.name == *name => own,
        _ => all
            .find(|container| container.name == *name)
            .ok_or_else(|| FieldError::NoContainer(name.clone()))?,
    };
    let unknown = || FieldError::UnknownResource(selector.resource.clone());
    let (kind, resource) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let empty = BTreeMap::new();
    let (limits, requests) =
        container.resources.as_ref().map_or((&empty, &empty), |all| (&all.limits, &all.requests));
    let amount = match kind {
        "limits" => limits.get(resource).or_else(|| around.allocatable.get(resource)),
        "requests" => requests.get(resource).or_else(|| limits.get(resource)),
        _ => return Err(unknown()),
    };
    if !matches!(resource, "cpu" | "memory" | "ephemeral-storage") && !resource.starts_with("hugepages-") {
        return Err(unknown());
    }
    let amount = amount.map_or(0, Quantity::milli_value);
    let divisor = selector.divisor.as_ref().filter(|divisor| !divisor.is_zero());
    let divisor = divisor.map_or(1000, Quantity::milli_value);
    if divisor <= 0 {
        return Err(FieldError::Divisor(selector.resource.clone()));
    }
    Ok(((amount + divisor - 1) / divisor).to_string())
}

/// `metadata.labels['app']`: app.
fn subscript<'a>(path: &'a str, field: &str) -> Option<&'a str> {
    path.strip_prefix(field)?.strip_prefix("['")?.strip_suffix("']")
}

/// One `key="value"` a line, none after the last.
fn lines(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = map.iter().map(|(key, value)| format!("{key}={}", quoted(value))).collect();
    lines.join("\n")
}

/// As Go's `%q`, which is what programs expect that read these files.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\0'..='\u{1f}' | '\u{7f}' => quoted.push_str(&format!("\\x{:02x}", u32::from(character))),
            '\u{80}'..='\u{a0}' | '\u{ad}' => quoted.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
pub(super) fn surroundings() -> Surroundings {
    Surroundings {
        node_name: "n1".to_owned(),
        host_ip: [10, 31, 0, 11].into(),
        pod_ips: vec![[10, 32, 1, 2].into()],
        allocatable: BTreeMap::from([("cpu".to_owned(), Quantity::from_value(4))]),
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::ResourceRequirements;

    use super::*;

    #[test]
    fn fields_are_those_kubernetes_allows() {
        let mut pod = Pod::default();
        pod.meta_mut().name = "web".to_owned();
        pod.meta_mut().namespace = "shop".to_owned();
        pod.meta_mut().uid = "u".to_owned();
        pod.spec_mut().service_account_name = "robot".to_owned();
        pod.meta_mut().labels.insert("app".to_owned(), "a\"b".to_owned());
        pod.meta_mut().annotations.insert("a/b".to_owned(), "one\ntwo".to_owned());
        pod.meta_mut().annotations.insert("c".to_owned(), "\u{1}é".to_owned());
        let cases = [
            ("metadata.name", "web"),
            ("metadata.labels['app']", "a\"b"),
            ("metadata.labels['none']", ""),
            ("metadata.namespace", "shop"),
            ("metadata.uid", "u"),
            ("metadata.annotations['a/b']", "one\ntwo"),
            ("metadata.annotations", "a/b=\"one\\ntwo\"\nc=\"\\x01é\""),
            ("metadata.labels", "app=\"a\\\"b\""),
            ("spec.serviceAccountName", "robot"),
            ("status.podIPs", "10.32.1.2"),
            ("status.hostIPs", "10.31.0.11"),
            ("spec.nodeName", "n1"),
            ("status.podIP", "10.32.1.2"),
            ("status.hostIP", "10.31.0.11"),
        ];
        for (path, expected) in cases {
            assert_eq!(field(&pod, path, &surroundings()).as_deref(), Ok(expected), "{path}");
        }
        assert_eq!(
            field(&pod, "status.phase", &surroundings()),
            Err(FieldError::Unknown("status.phase".into()))
        );
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let mut own = Container { name: "a".to_owned(), ..Container::default() };
        let limits =
            BTreeMap::from([("memory".to_owned(), "100Mi".parse::<Quantity>().expect("a quantity"))]);
        own.resources = Some(ResourceRequirements { limits, ..Default::default() });
        let mut pod = Pod::default();
        pod.spec_mut().containers = vec![own.clone()];
        let ask = |resource_name: &str, divisor: Option<&str>| {
            let selector = ResourceFieldSelector {
                resource: resource_name.to_owned(),
                divisor: divisor.map(|text| text.parse().expect("a quantity")),
                ..Default::default()
            };
            resource(&pod, Some(&own), &selector, &surroundings())
        };
        assert_eq!(ask("limits.memory", None).as_deref(), Ok("104857600"));
        assert_eq!(ask("limits.memory", Some("1Gi")).as_deref(), Ok("1"));
        assert_eq!(ask("requests.memory", Some("1Mi")).as_deref(), Ok("100"));
        assert_eq!(
            ask("limits.cpu", Some("1m")).as_deref(),
            Ok("4000"),
            "the node's, where there is no limit"
        );
        assert_eq!(ask("requests.cpu", Some("1m")).as_deref(), Ok("0"), "neither request nor limit");
        assert_eq!(ask("limits.hugepages-2Mi", None).as_deref(), Ok("0"));
        assert_eq!(ask("limits.cpu", Some("3")).as_deref(), Ok("2"), "rounded up");
        for wrong in ["limits.gpu", "limits", "usage.memory", ""] {
            assert!(ask(wrong, None).is_err(), "{wrong}");
        }
        assert!(ask("limits.cpu", Some("-1")).is_err());
    }
}
