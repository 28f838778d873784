//! A pod that is told to end while clients may still be sent to it.
//!
//! Its node must not stop it before all nodes have stopped sending it new connections, and cannot know by itself
//! whether any ever did. So the write that deletes a pod behind a Service says so in a condition, and the node waits
//! until the controllers make it True (or not for ever). Other pods get no condition, and nobody waits for them.

use weir_proto::core::v1::{Pod, PodCondition, Service};
use weir_proto::meta::v1::Time;

use crate::cache::Filter;
use crate::registry::Registry;

/// "False": nodes may still send this pod new connections. Controllers and agents know it by this name.
const NO_NEW_FLOWS: &str = "weir.dev/NoNewFlows";

/// Marks a pod that has just been given a deletion timestamp, if nodes may be sending connections to it.
pub(crate) fn mark(registry: &Registry, pod: &mut Pod, now: Time) {
    let (meta, status) = (pod.meta(), pod.status());
    let marked = status.conditions.iter().any(|condition| condition.r#type == NO_NEW_FLOWS);
    // Without an address it never was an endpoint, and from now on it does not become one that takes connections.
    if marked || status.pod_ip.is_empty() || meta.deletion_grace_period_seconds == Some(0) {
        return;
    }
    let services = registry.peek_all::<Service>(&Filter::namespace(&meta.namespace));
    let served = services.iter().filter_map(|service| service.typed()).any(|service| serves(service, pod));
    if !served {
        return;
    }
    let generation = pod.meta().generation;
    pod.status_mut().conditions.push(PodCondition {
        r#type: NO_NEW_FLOWS.to_owned(),
        status: "False".to_owned(),
        reason: "Acknowledging".to_owned(),
        message: "nodes may still send this pod new connections".to_owned(),
        last_transition_time: Some(now),
        observed_generation: generation,
        ..PodCondition::default()
    });
}

/// Whether the dataplane sends the service's clients to the pod, if it is ready.
fn serves(service: &Service, pod: &Pod) -> bool {
    let (spec, labels) = (service.spec(), &pod.meta().labels);
    let balanced = spec.r#type != "ExternalName" && spec.cluster_ip != "None";
    balanced
        && !spec.selector.is_empty()
        && spec.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(cluster_ip: &str, selector: &[(&str, &str)]) -> Service {
        let mut service = Service::default();
        let spec = service.spec_mut();
        spec.cluster_ip = cluster_ip.to_owned();
        spec.selector = selector.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        service
    }

    #[test]
    fn a_pod_is_served_by_services_with_an_address_that_select_it() {
        let mut pod = Pod::default();
        pod.meta_mut().labels =
            [("app".to_owned(), "web".to_owned()), ("tier".to_owned(), "a".to_owned())].into();
        let cases = [
            (service("10.96.0.7", &[("app", "web")]), true),
            (service("10.96.0.7", &[("app", "web"), ("tier", "a")]), true),
            (service("10.96.0.7", &[("app", "web"), ("tier", "b")]), false),
            (service("10.96.0.7", &[]), false),
            (service("None", &[("app", "web")]), false),
        ];
        for (service, expected) in cases {
            assert_eq!(serves(&service, &pod), expected, "{:?}", service.spec());
        }
        let mut elsewhere = service("", &[("app", "web")]);
        elsewhere.spec_mut().r#type = "ExternalName".to_owned();
        assert!(!serves(&elsewhere, &pod));
    }
}
