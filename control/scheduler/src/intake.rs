//! API objects → what the scheduler knows of them.
//!
//! Whatever a pod asks for that no plugin can give ends up in [`Shape::unsupported`], so that the pod is refused
//! in words; nothing is dropped. Objects have passed the API server's validation and defaulting.

use std::collections::BTreeMap;

use weir_proto::Quantity;
use weir_proto::core::v1 as core;
use weir_proto::meta::v1::LabelSelector;

use crate::node::NodeSpec;
use crate::pod::{
    Effect, HostPort, NodeTerm, PodAffinity, PodSelector, PodTerm, Protocol, Shape, SpreadConstraint, Taint,
    Toleration, WhenUnsatisfiable,
};
use crate::resources::Resources;
use crate::selector::{Labels, Operator, Requirement, Selector};

/// The condition of a pod that has to go, and its reason where a pod of higher priority takes its place.
pub(crate) const DISRUPTION_TARGET: &str = "DisruptionTarget";
pub(crate) const PREEMPTED: &str = "PreemptionByScheduler";

type Amounts = BTreeMap<String, Quantity>;

/// What a container that asks for no CPU or memory counts for in scores.
const UNASKED_MILLI_CPU: i64 = 100;
const UNASKED_MEMORY: i64 = 200 << 20;

pub(crate) fn node(node: &core::Node) -> NodeSpec {
    let (meta, spec, status) = (node.meta(), node.spec(), node.status());
    let offered = if status.allocatable.is_empty() { &status.capacity } else { &status.allocatable };
    let mut allocatable = resources(offered);
    let pods_allowed = allocatable.get("pods");
    allocatable.set("pods", 0);
    let taints = spec.taints.iter().filter_map(|taint| {
        let effect = effect(&taint.effect)?;
        Some(Taint { key: taint.key.clone(), value: taint.value.clone(), effect })
    });
    let images = status
        .images
        .iter()
        .flat_map(|image| image.names.iter().map(|name| (name.clone(), image.size_bytes)));
    NodeSpec {
        labels: meta.labels.clone(),
        taints: taints.collect(),
        unschedulable: spec.unschedulable,
        allocatable,
        pods_allowed,
        images: images.collect(),
    }
}

pub(crate) fn shape(pod: &core::Pod) -> Shape {
    let (meta, spec) = (pod.meta(), pod.spec());
    let mut reader = Reader { namespace: &meta.namespace, labels: &meta.labels, unsupported: Vec::new() };
    let mut shape = Shape {
        namespace: meta.namespace.clone(),
        labels: meta.labels.clone(),
        requests: requests(spec, &container_requests),
        scoring_requests: requests(spec, &container_scoring_requests),
        host_ports: host_ports(spec),
        tolerations: spec.tolerations.iter().map(toleration).collect(),
        node_selector: spec.node_selector.iter().map(|(key, value)| Requirement::is(key, value)).collect(),
        images: images(spec),
        spread: spec.topology_spread_constraints.iter().map(|wish| reader.spread(wish)).collect(),
        terminating: meta.deletion_timestamp.is_some(),
        ..Shape::default()
    };
    if let Some(affinity) = &spec.affinity {
        reader.node_affinity(affinity, &mut shape);
        shape.affinity = reader.pod_affinity(affinity);
    }
    reader.volumes(spec);
    shape.unsupported = reader.unsupported;
    shape
}

/// Takes out of a pod what placing it does not need. There are as many of them here as in the cluster.
pub(crate) fn trim(pod: &mut core::Pod) {
    let Some(spec) = &mut pod.spec else { return };
    spec.volumes.retain(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
    for container in spec.init_containers.iter_mut().chain(&mut spec.containers) {
        container.volume_mounts = Vec::new();
        container.env = Vec::new();
        container.env_from = Vec::new();
        container.command = Vec::new();
        container.args = Vec::new();
        container.liveness_probe = None;
        container.readiness_probe = None;
        container.startup_probe = None;
        container.lifecycle = None;
        container.security_context = None;
    }
}

/// The pod's place in the queue, as admission worked it out from the pod's class.
pub(crate) fn priority(spec: &core::PodSpec) -> i32 {
    spec.priority.unwrap_or(0)
}

/// Whether pods of lower priority may be made to leave for this one.
pub(crate) fn preempts(spec: &core::PodSpec) -> bool {
    spec.preemption_policy.as_deref() != Some("Never")
}

/// Whether the pod was told to leave for one of higher priority.
pub(crate) fn is_preempted(pod: &core::Pod) -> bool {
    pod.status().conditions.iter().any(|condition| {
        condition.r#type == DISRUPTION_TARGET && condition.status == "True" && condition.reason == PREEMPTED
    })
}

struct Reader<'a> {
    namespace: &'a str,
    labels: &'a Labels,
    unsupported: Vec<String>,
}

impl Reader<'_> {
    fn refuse(&mut self, what: &str) {
        if !self.unsupported.iter().any(|known| known == what) {
            self.unsupported.push(what.to_owned());
        }
    }

    fn volumes(&mut self, spec: &core::PodSpec) {
        for volume in &spec.volumes {
            if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
                self.refuse("persistent volume claims are not supported yet");
            }
        }
        if !spec.resource_claims.is_empty() {
            self.refuse("resource claims are not supported yet");
        }
    }

    fn requirement(&mut self, key: &str, operator: &str, values: &[String]) -> Requirement {
        let operator = match operator {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::Gt,
            "Lt" => Operator::Lt,
            other => {
                self.refuse(&format!("selector operator {other:?} is not supported"));
                Operator::In
            }
        };
        Requirement { key: key.to_owned(), operator, values: values.to_vec() }
    }

    fn selector(&mut self, selector: &LabelSelector) -> Selector {
        let mut requirements: Vec<_> =
            selector.match_labels.iter().map(|(key, value)| Requirement::is(key, value)).collect();
        for wish in &selector.match_expressions {
            requirements.push(self.requirement(&wish.key, &wish.operator, &wish.values));
        }
        Selector(requirements)
    }

    /// A selector, narrowed to pods that agree (or disagree) with this pod in some labels.
    fn narrowed(
        &mut self,
        selector: Option<&LabelSelector>,
        alike: &[String],
        unlike: &[String],
    ) -> Option<Selector> {
        let mut selector = self.selector(selector?);
        for (keys, operator) in [(alike, Operator::In), (unlike, Operator::NotIn)] {
            let known = keys.iter().filter_map(|key| Some((key.clone(), self.labels.get(key)?.clone())));
            selector.0.extend(known.map(|(key, value)| Requirement { key, operator, values: vec![value] }));
        }
        Some(selector)
    }

    fn spread(&mut self, wish: &core::TopologySpreadConstraint) -> SpreadConstraint {
        let labels = self.narrowed(wish.label_selector.as_ref(), &wish.match_label_keys, &[]);
        SpreadConstraint {
            max_skew: wish.max_skew.into(),
            topology_key: wish.topology_key.clone(),
            when_unsatisfiable: match &*wish.when_unsatisfiable {
                "ScheduleAnyway" => WhenUnsatisfiable::ScheduleAnyway,
                _ => WhenUnsatisfiable::DoNotSchedule,
            },
            pods: PodSelector { labels, namespaces: vec![self.namespace.to_owned()], namespace_labels: None },
            min_domains: wish.min_domains.unwrap_or(1).into(),
            honor_affinity: wish.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: wish.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    fn node_affinity(&mut self, affinity: &core::Affinity, shape: &mut Shape) {
        let Some(wishes) = &affinity.node_affinity else { return };
        if let Some(required) = &wishes.required_during_scheduling_ignored_during_execution {
            let terms = required.node_selector_terms.iter().map(|term| self.node_term(term));
            shape.required_nodes = Some(terms.collect());
        }
        for wish in &wishes.preferred_during_scheduling_ignored_during_execution {
            let term = wish.preference.as_ref().map(|term| self.node_term(term));
            shape.preferred_nodes.extend(term.map(|term| (wish.weight.into(), term)));
        }
    }

    fn node_term(&mut self, term: &core::NodeSelectorTerm) -> NodeTerm {
        let mut read = |wishes: &[core::NodeSelectorRequirement]| -> Vec<Requirement> {
            wishes.iter().map(|wish| self.requirement(&wish.key, &wish.operator, &wish.values)).collect()
        };
        NodeTerm { labels: read(&term.match_expressions), fields: read(&term.match_fields) }
    }

    fn pod_affinity(&mut self, affinity: &core::Affinity) -> PodAffinity {
        let mut read = PodAffinity::default();
        if let Some(near) = &affinity.pod_affinity {
            read.required = self.pod_terms(&near.required_during_scheduling_ignored_during_execution);
            read.preferred = self.weighted_terms(&near.preferred_during_scheduling_ignored_during_execution);
        }
        if let Some(away) = &affinity.pod_anti_affinity {
            read.anti_required = self.pod_terms(&away.required_during_scheduling_ignored_during_execution);
            read.anti_preferred =
                self.weighted_terms(&away.preferred_during_scheduling_ignored_during_execution);
        }
        read
    }

    fn pod_terms(&mut self, terms: &[core::PodAffinityTerm]) -> Vec<PodTerm> {
        terms.iter().map(|term| self.pod_term(term)).collect()
    }

    fn weighted_terms(&mut self, terms: &[core::WeightedPodAffinityTerm]) -> Vec<(i64, PodTerm)> {
        let given = terms.iter().filter_map(|wish| Some((wish.weight, wish.pod_affinity_term.as_ref()?)));
        given.map(|(weight, term)| (weight.into(), self.pod_term(term))).collect()
    }

    fn pod_term(&mut self, term: &core::PodAffinityTerm) -> PodTerm {
        let labels =
            self.narrowed(term.label_selector.as_ref(), &term.match_label_keys, &term.mismatch_label_keys);
        let namespace_labels = term.namespace_selector.as_ref().map(|selector| self.selector(selector));
        let mut namespaces = term.namespaces.clone();
        if namespaces.is_empty() && namespace_labels.is_none() {
            namespaces.push(self.namespace.to_owned());
        }
        namespaces.sort();
        let pods = PodSelector { labels, namespaces, namespace_labels };
        PodTerm { pods, topology_key: term.topology_key.clone() }
    }
}

fn toleration(toleration: &core::Toleration) -> Toleration {
    let value = (toleration.operator != "Exists").then(|| toleration.value.clone());
    Toleration { key: toleration.key.clone(), value, effect: effect(&toleration.effect) }
}

fn effect(effect: &str) -> Option<Effect> {
    match effect {
        "NoSchedule" => Some(Effect::NoSchedule),
        "PreferNoSchedule" => Some(Effect::PreferNoSchedule),
        "NoExecute" => Some(Effect::NoExecute),
        _ => None,
    }
}

fn resources(amounts: &Amounts) -> Resources {
    let mut resources = Resources::default();
    for (name, quantity) in amounts {
        let amount = if name == "cpu" { quantity.milli_value() } else { quantity.value() };
        resources.set(name, i64::try_from(amount).unwrap_or(i64::MAX));
    }
    resources
}

fn container_requests(container: &core::Container) -> Resources {
    container.resources.as_ref().map(|wish| resources(&wish.requests)).unwrap_or_default()
}

fn container_scoring_requests(container: &core::Container) -> Resources {
    let asked = container_requests(container);
    let named =
        |name: &str| container.resources.as_ref().is_some_and(|wish| wish.requests.contains_key(name));
    Resources::new(
        if named("cpu") { asked.milli_cpu } else { UNASKED_MILLI_CPU },
        if named("memory") { asked.memory } else { UNASKED_MEMORY },
    )
}

/// What the pod takes at its peak: containers and sidecars run together; each other init container runs beside the
/// sidecars started before it. Amounts set for the whole pod win; overhead comes on top.
fn requests(spec: &core::PodSpec, of: &dyn Fn(&core::Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in &spec.init_containers {
        if is_sidecar(container) {
            sidecars.add(&of(container));
            starting.raise_to(&sidecars);
        } else {
            let mut then = sidecars.clone();
            then.add(&of(container));
            starting.raise_to(&then);
        }
    }
    running.add(&sidecars);
    running.raise_to(&starting);
    if let Some(whole) = &spec.resources {
        for name in whole.requests.keys() {
            running.set(name, resources(&whole.requests).get(name));
        }
    }
    running.add(&resources(&spec.overhead));
    running
}

fn is_sidecar(container: &core::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn host_ports(spec: &core::PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().filter(|container| is_sidecar(container));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    let wanted = ports.filter_map(|port| {
        let number = u16::try_from(port.host_port).ok().filter(|number| *number > 0)?;
        let address = (!matches!(&*port.host_ip, "" | "0.0.0.0" | "::")).then(|| port.host_ip.clone());
        let protocol = match &*port.protocol {
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => Protocol::Tcp,
        };
        Some(HostPort { address, protocol, port: number })
    });
    wanted.collect()
}

/// As nodes name their images: with a tag.
fn images(spec: &core::PodSpec) -> Vec<String> {
    let tagged = |image: &String| {
        let name = image.rfind('/').map_or(0, |slash| slash + 1);
        if image[name..].contains([':', '@']) { image.clone() } else { format!("{image}:latest") }
    };
    spec.init_containers.iter().chain(&spec.containers).map(|container| tagged(&container.image)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weir_proto::Resource;

    use super::*;

    fn pod(spec: serde_json::Value) -> core::Pod {
        let mut unknown = Vec::new();
        let value = json!({
            "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web", "rev": "7"}}, "spec": spec,
        });
        let object = core::Pod::KIND.from_json(&value, &mut unknown).unwrap();
        assert!(unknown.is_empty(), "{unknown:?}");
        object.as_any().downcast_ref::<core::Pod>().unwrap().clone()
    }

    fn asks(cpu: &str, memory: &str) -> serde_json::Value {
        json!({"name": "c", "image": "img", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    fn sidecar(cpu: &str, memory: &str) -> serde_json::Value {
        let mut container = asks(cpu, memory);
        container["restartPolicy"] = json!("Always");
        container
    }

    #[test]
    fn a_pod_takes_what_it_takes_at_its_peak() {
        let cases = [
            (json!({"containers": [asks("100m", "1Ki"), asks("0.2", "1Ki")]}), (300, 2048)),
            (json!({"containers": [asks("100m", "1Ki")], "initContainers": [asks("1", "10")]}), (1000, 1024)),
            (
                json!({"containers": [asks("100m", "100")],
                       "initContainers": [sidecar("50m", "50"), asks("80m", "10"), sidecar("1m", "1")]}),
                (151, 151),
            ),
            (
                json!({"containers": [asks("100m", "100")], "initContainers": [sidecar("50m", "50"), asks("120m", "10")]}),
                (170, 150),
            ),
            (json!({"containers": [asks("100m", "100")], "overhead": {"cpu": "10m"}}), (110, 100)),
            (
                json!({"containers": [asks("100m", "100")], "resources": {"requests": {"cpu": "2"}}}),
                (2000, 100),
            ),
        ];
        for (spec, (milli_cpu, memory)) in cases {
            assert_eq!(shape(&pod(spec.clone())).requests, Resources::new(milli_cpu, memory), "{spec}");
        }
    }

    #[test]
    fn a_pod_that_asks_for_nothing_still_counts_in_scores() {
        let shape = shape(&pod(json!({"containers": [{"name": "c", "image": "a/b"}, asks("10m", "1")]})));
        assert_eq!(shape.requests, Resources::new(10, 1));
        assert_eq!(shape.scoring_requests, Resources::new(110, (200 << 20) + 1));
        assert_eq!(shape.images, ["a/b:latest", "img:latest"]);
    }

    #[test]
    fn what_cannot_be_given_is_named() {
        let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "x"}},
                             {"name": "tmp", "emptyDir": {}}]);
        let shape =
            shape(&pod(json!({"containers": [], "volumes": volumes, "resourceClaims": [{"name": "gpu"}]})));
        let expected =
            ["persistent volume claims are not supported yet", "resource claims are not supported yet"];
        assert_eq!(shape.unsupported, expected);
    }

    #[test]
    fn terms_are_narrowed_and_default_to_the_pods_namespace() {
        let term = json!({"topologyKey": "host", "labelSelector": {"matchLabels": {"app": "web"}},
                          "matchLabelKeys": ["rev", "absent"]});
        let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        let shape = shape(&pod(json!({"containers": [], "affinity": affinity})));
        let [term] = &shape.affinity.anti_required[..] else { panic!("{shape:?}") };
        assert_eq!(term.pods.namespaces, ["shop"]);
        let expected = Selector(vec![Requirement::is("app", "web"), Requirement::is("rev", "7")]);
        assert_eq!(term.pods.labels, Some(expected));
    }

    #[test]
    fn tolerations_and_host_ports_are_read() {
        let shape = shape(&pod(json!({
            "tolerations": [{"operator": "Exists"}, {"key": "gpu", "value": "yes", "effect": "NoSchedule"}],
            "containers": [{"name": "c", "image": "i", "ports": [
                {"containerPort": 80, "hostPort": 8080, "protocol": "UDP", "hostIP": "0.0.0.0"}, {"containerPort": 81}]}],
        })));
        assert_eq!(shape.host_ports, [HostPort { address: None, protocol: Protocol::Udp, port: 8080 }]);
        let all = Toleration { key: String::new(), value: None, effect: None };
        let (key, value) = ("gpu".to_owned(), Some("yes".to_owned()));
        let gpu = Toleration { key, value, effect: Some(Effect::NoSchedule) };
        assert_eq!(shape.tolerations, [all, gpu]);
    }

    #[test]
    fn a_node_offers_its_allocatable_or_else_its_capacity() {
        let read = |status: serde_json::Value| {
            let value = json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "k", "effect": "NoExecute"}]},
                               "status": status});
            let object = core::Node::KIND.from_json(&value, &mut Vec::new()).unwrap();
            node(object.as_any().downcast_ref::<core::Node>().unwrap())
        };
        let spec = read(json!({"capacity": {"cpu": "2", "memory": "4Gi", "pods": "110"}}));
        assert_eq!((spec.allocatable, spec.pods_allowed), (Resources::new(2000, 4 << 30), 110));
        assert_eq!(spec.taints[0].effect, Effect::NoExecute);
        let spec = read(json!({"capacity": {"cpu": "2"}, "allocatable": {"cpu": "1500m", "pods": "5"}}));
        assert_eq!((spec.allocatable.milli_cpu, spec.pods_allowed), (1500, 5));
    }
}
