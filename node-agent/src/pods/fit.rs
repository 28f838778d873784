//! Whether a pod that was bound to this node is let in: the scheduler may have been mistaken, or nobody may have asked it.
//! Pure. Reasons and messages are the kubelet's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weir_proto::Quantity;
use weir_proto::core::v1::{Container, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec};

use super::mirror::is_critical;
use super::observed::is_sidecar;
use super::resources;
use crate::eviction::signals::Pressure;

/// The node as far as pods have to fit it.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) name: &'a str,
    pub(super) allocatable: &'a BTreeMap<String, Quantity>,
    pub(super) max_pods: u32,
    /// Nothing while the Node object is not known.
    pub(super) labels: Option<&'a BTreeMap<String, String>>,
    pub(super) pressures: &'a BTreeSet<Pressure>,
    pub(super) shutting_down: bool,
}

/// Reason and message of a refusal.
pub(super) type Refusal = (String, String);

/// A resource of which the node has not enough left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lack {
    pub(super) resource: String,
    pub(super) requested: i128,
    pub(super) used: i128,
    pub(super) capacity: i128,
}

impl Lack {
    pub(super) fn missing(&self) -> i128 {
        self.requested - (self.capacity - self.used)
    }

    pub(super) fn refusal(&self) -> Refusal {
        let Self { resource, requested, used, capacity } = self;
        let message = format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        (format!("OutOf{resource}"), message)
    }
}

/// Why the pod is not for this node, however much there is left. `others`: pods of this node that are not over.
pub(super) fn refusal<'a>(
    pod: &Pod,
    mut others: impl Iterator<Item = &'a Pod>,
    facts: &Facts<'_>,
) -> Option<Refusal> {
    let refuse = |reason: &str, message: &str| Some((reason.to_owned(), message.to_owned()));
    if facts.shutting_down {
        return refuse("NodeShutdown", "Pod was rejected as the node is shutting down.");
    }
    if let Some(os) = pod.spec().os.as_ref().filter(|os| os.name != "linux") {
        let message =
            format!("Failed to admit pod as the OS field doesn't match node OS: {} is not linux", os.name);
        return refuse("PodOSNotSupported", &message);
    }
    if !bears(pod, facts.pressures) {
        let names: Vec<&str> = facts.pressures.iter().map(|pressure| pressure.as_str()).collect();
        return refuse("Evicted", &format!("The node had condition: [{}]. ", names.join(" ")));
    }
    if let Some(labels) = facts.labels
        && !matches_node(pod.spec(), facts.name, labels)
    {
        let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return refuse("NodeAffinity", message);
    }
    if others.any(|other| ports_clash(pod, other)) {
        let message =
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return refuse("NodePorts", message);
    }
    None
}

/// What there is not enough left of.
pub(super) fn lacks<'a>(
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod> + Clone,
    facts: &Facts<'_>,
) -> Vec<Lack> {
    let mut lacks = Vec::new();
    let mut compare = |resource: &str, requested: i128, used: i128, capacity: i128| {
        if requested > 0 && requested > capacity - used {
            lacks.push(Lack { resource: resource.to_owned(), requested, used, capacity });
        }
    };
    compare("pods", 1, others.clone().count() as i128, i128::from(facts.max_pods));
    for (resource, requested) in requests(pod.spec()) {
        let measured =
            |amount: &Quantity| if resource == "cpu" { amount.milli_value() } else { amount.value() };
        let capacity = facts.allocatable.get(&resource).map_or(0, measured);
        let used =
            others.clone().map(|other| requests(other.spec()).remove(&resource).unwrap_or(0)).sum::<i128>();
        compare(&resource, requested, used, capacity);
    }
    lacks
}

/// Under pressure of memory alone only pods without any request are kept out.
fn bears(pod: &Pod, pressures: &BTreeSet<Pressure>) -> bool {
    if pressures.is_empty() || is_critical(pod) {
        return true;
    }
    let memory_alone = pressures.iter().eq([&Pressure::Memory]);
    let tolerates = || {
        pod.spec().tolerations.iter().any(|toleration| {
            let effect = matches!(toleration.effect.as_str(), "" | "NoSchedule");
            let key = toleration.key == "node.kubernetes.io/memory-pressure";
            let all = toleration.key.is_empty() && toleration.operator == "Exists";
            effect && (key && (toleration.operator == "Exists" || toleration.value.is_empty()) || all)
        })
    };
    memory_alone && (resources::qos(pod.spec()).as_str() != "BestEffort" || tolerates())
}

/// By resource: thousandths of a CPU, else whole units. The most that is needed at one time: init containers run one by
/// one, beside the sidecars before them.
pub(super) fn requests(spec: &PodSpec) -> BTreeMap<String, i128> {
    let of = |container: &Container| -> BTreeMap<String, i128> {
        let requests = container.resources.iter().flat_map(|resources| &resources.requests);
        requests
            .map(|(name, amount)| {
                let amount = if name == "cpu" { amount.milli_value() } else { amount.value() };
                (name.clone(), amount)
            })
            .collect()
    };
    let (mut sum, mut sidecars, mut peak) =
        (BTreeMap::new(), BTreeMap::new(), BTreeMap::<String, i128>::new());
    let add = |to: &mut BTreeMap<String, i128>, what: &BTreeMap<String, i128>| {
        for (name, amount) in what {
            *to.entry(name.clone()).or_default() += amount;
        }
    };
    for container in &spec.init_containers {
        let own = of(container);
        let mut now = sidecars.clone();
        add(&mut now, &own);
        if is_sidecar(container) {
            sidecars.clone_from(&now);
        }
        for (name, amount) in now {
            let most = peak.entry(name).or_default();
            *most = (*most).max(amount);
        }
    }
    add(&mut sum, &sidecars);
    for container in &spec.containers {
        add(&mut sum, &of(container));
    }
    for (name, amount) in peak {
        let most = sum.entry(name).or_default();
        *most = (*most).max(amount);
    }
    for (name, amount) in &spec.overhead {
        let amount = if name == "cpu" { amount.milli_value() } else { amount.value() };
        *sum.entry(name.clone()).or_default() += amount;
    }
    sum
}

fn host_ports(pod: &Pod) -> impl Iterator<Item = (i32, &str, &str)> {
    let spec = pod.spec();
    let sidecars = spec.init_containers.iter().filter(|container| is_sidecar(container));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    ports.filter(|port| port.host_port > 0).map(|port| {
        let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
        (port.host_port, protocol, port.host_ip.as_str())
    })
}

fn ports_clash(pod: &Pod, other: &Pod) -> bool {
    let any = |ip: &str| ip.is_empty() || ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    host_ports(pod).any(|(port, protocol, ip)| {
        host_ports(other)
            .any(|(taken, of, at)| port == taken && protocol == of && (any(ip) || any(at) || ip == at))
    })
}

fn matches_node(spec: &PodSpec, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let selected = spec.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    let matches = |term: &NodeSelectorTerm| {
        let empty = term.match_expressions.is_empty() && term.match_fields.is_empty();
        let field = |key: &str| (key == "metadata.name").then_some(name);
        !empty
            && term.match_expressions.iter().all(|one| holds(one, labels.get(&one.key).map(String::as_str)))
            && term.match_fields.iter().all(|one| holds(one, field(&one.key)))
    };
    selected && required.is_none_or(|required| required.node_selector_terms.iter().any(matches))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = |value: &str| requirement.values.iter().any(|one| one == value);
    let compared = || {
        let bound = requirement.values.first()?.parse::<i64>().ok()?;
        Some(value?.parse::<i64>().ok()?.cmp(&bound))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared().is_some_and(|order| order.is_gt()),
        "Lt" => compared().is_some_and(|order| order.is_lt()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::yaml;

    use super::*;

    fn pod(spec: &str) -> Pod {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {spec}\n");
        let document = yaml::documents(&text).expect("YAML").remove(0);
        let kind = <Pod as weir_proto::Resource>::KIND;
        let object = kind.from_json(&document.value, &mut Vec::new()).expect("a pod");
        object.downcast_ref::<Pod>().expect("a pod").clone()
    }

    fn asking(cpu: &str, memory: &str) -> Pod {
        pod(&format!(
            "{{containers: [{{name: a, image: x, resources: {{requests: {{cpu: {cpu}, memory: {memory}}}}}}}]}}"
        ))
    }

    struct Node {
        allocatable: BTreeMap<String, Quantity>,
        labels: BTreeMap<String, String>,
        pressures: BTreeSet<Pressure>,
        max_pods: u32,
        shutting_down: bool,
    }

    fn node() -> Node {
        let quantity = |text: &str| text.parse().expect("a quantity");
        Node {
            allocatable: [
                ("cpu".to_owned(), quantity("2")),
                ("memory".to_owned(), quantity("1Gi")),
                ("ephemeral-storage".to_owned(), quantity("10Gi")),
            ]
            .into(),
            labels: [("zone".to_owned(), "a".to_owned()), ("cores".to_owned(), "8".to_owned())].into(),
            pressures: BTreeSet::new(),
            max_pods: 3,
            shutting_down: false,
        }
    }

    impl Node {
        fn refusal(&self, pod: &Pod, others: &[Pod]) -> Option<Refusal> {
            let facts = Facts {
                name: "n1",
                allocatable: &self.allocatable,
                max_pods: self.max_pods,
                labels: Some(&self.labels),
                pressures: &self.pressures,
                shutting_down: self.shutting_down,
            };
            refusal(pod, others.iter(), &facts)
                .or_else(|| lacks(pod, others.iter(), &facts).first().map(Lack::refusal))
        }

        fn reason(&self, pod: &Pod, others: &[Pod]) -> String {
            self.refusal(pod, others).map_or_else(String::new, |(reason, _)| reason)
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let there = [asking("1500m", "512Mi")];
        assert_eq!(node().refusal(&asking("500m", "512Mi"), &there), None);
        assert_eq!(
            node().refusal(&asking("501m", "1"), &there),
            Some((
                "OutOfcpu".to_owned(),
                "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000"
                    .to_owned()
            ))
        );
        assert_eq!(node().reason(&asking("1m", "513Mi"), &there), "OutOfmemory");
        let others = [pod("{}"), pod("{}"), pod("{}")];
        assert_eq!(node().reason(&pod("{}"), &others), "OutOfpods");
        assert_eq!(node().reason(&asking("0", "0"), &there), "", "who asks for nothing gets it");
        let gpu = pod("{containers: [{name: a, image: x, resources: {requests: {example.com/gpu: 1}}}]}");
        assert_eq!(node().reason(&gpu, &[]), "OutOfexample.com/gpu");
    }

    #[test]
    fn init_containers_count_one_by_one_beside_the_sidecars_before_them() {
        let spec = pod(
            "{initContainers: [{name: s, image: x, restartPolicy: Always, resources: {requests: {cpu: 200m}}}, \
             {name: i, image: x, resources: {requests: {cpu: 1500m}}}], \
             containers: [{name: a, image: x, resources: {requests: {cpu: 1}}}]}",
        );
        assert_eq!(requests(spec.spec())["cpu"], 1700);
    }

    #[test]
    fn selectors_and_affinity_hold_also_for_pods_that_no_scheduler_saw() {
        let required = |term: &str| {
            pod(&format!(
                "{{affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: \
                 [{term}]}}}}}}}}"
            ))
        };
        let cases = [
            (pod("{nodeSelector: {zone: a}}"), true),
            (pod("{nodeSelector: {zone: b}}"), false),
            (required("{matchExpressions: [{key: zone, operator: In, values: [a, b]}]}"), true),
            (required("{matchExpressions: [{key: cores, operator: Gt, values: ['8']}]}"), false),
            (required("{matchExpressions: [{key: none, operator: DoesNotExist}]}"), true),
            (required("{matchFields: [{key: metadata.name, operator: In, values: [n1]}]}"), true),
            (required("{matchFields: [{key: metadata.name, operator: In, values: [n2]}]}"), false),
            (required("{}"), false),
        ];
        for (pod, fits) in cases {
            let expected = if fits { "" } else { "NodeAffinity" };
            assert_eq!(node().reason(&pod, &[]), expected, "{:?}", pod.spec());
        }
    }

    #[test]
    fn a_port_of_the_node_is_given_once() {
        let with = |port: &str| pod(&format!("{{containers: [{{name: a, image: x, ports: [{{{port}}}]}}]}}"));
        let there = [with("containerPort: 80, hostPort: 8080, protocol: TCP")];
        assert_eq!(node().reason(&with("containerPort: 81, hostPort: 8080"), &there), "NodePorts");
        assert_eq!(node().reason(&with("containerPort: 81, hostPort: 8080, protocol: UDP"), &there), "");
        assert_eq!(node().reason(&with("containerPort: 8080"), &there), "");
    }

    #[test]
    fn under_pressure_only_some_are_let_in() {
        let (best_effort, burstable) = (pod("{containers: [{name: a, image: x}]}"), asking("1m", "1Mi"));
        let critical = pod("{priority: 2000001000, containers: [{name: a, image: x}]}");
        let mut node = node();
        node.pressures = [Pressure::Memory].into();
        assert_eq!(
            node.refusal(&best_effort, &[]),
            Some(("Evicted".to_owned(), "The node had condition: [MemoryPressure]. ".to_owned()))
        );
        assert_eq!(
            (node.reason(&burstable, &[]), node.reason(&critical, &[])),
            (String::new(), String::new())
        );
        let tolerant = pod(
            "{tolerations: [{key: node.kubernetes.io/memory-pressure, operator: Exists, effect: NoSchedule}]}",
        );
        assert_eq!(node.reason(&tolerant, &[]), "");
        node.pressures.insert(Pressure::Disk);
        assert_eq!(node.reason(&burstable, &[]), "Evicted");
        node.shutting_down = true;
        assert_eq!(node.reason(&critical, &[]), "NodeShutdown");
    }

    #[test]
    fn another_system_is_not_this_one() {
        assert_eq!(node().reason(&pod("{os: {name: windows}}"), &[]), "PodOSNotSupported");
    }
}
