//! Slices planned for services: what users see by table, packing by property.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;
use weir_proto::IntOrString;
use weir_proto::core::v1::{Container, ContainerPort, Node, Pod, PodCondition, PodIp, Service, ServicePort};
use weir_proto::discovery::v1::{Endpoint, EndpointSlice};
use weir_proto::meta::v1::Time;

use super::plan::{Observed, Plan, SLICE, plan};

fn service(target: IntOrString) -> Service {
    let mut service = Service::default();
    service.meta_mut().name = "web".to_owned();
    service.meta_mut().namespace = "ns".to_owned();
    service.meta_mut().uid = "s".to_owned();
    let spec = service.spec_mut();
    spec.cluster_ip = "10.96.0.7".to_owned();
    spec.selector = [("app".to_owned(), "web".to_owned())].into();
    spec.ports = vec![ServicePort {
        name: "http".to_owned(),
        port: 80,
        target_port: Some(target),
        ..ServicePort::default()
    }];
    service
}

fn pod(index: usize, ready: bool) -> Pod {
    let mut pod = Pod::default();
    pod.meta_mut().name = format!("web-{index}");
    pod.meta_mut().namespace = "ns".to_owned();
    pod.meta_mut().uid = format!("pod-{index}");
    pod.meta_mut().labels = [("app".to_owned(), "web".to_owned())].into();
    pod.spec_mut().node_name = "n1".to_owned();
    let status = pod.status_mut();
    status.phase = "Running".to_owned();
    status.pod_ip = format!("10.32.{}.{}", index / 250, index % 250 + 1);
    status.pod_ips = vec![PodIp { ip: status.pod_ip.clone() }];
    status.conditions = vec![PodCondition {
        r#type: "Ready".to_owned(),
        status: if ready { "True" } else { "False" }.to_owned(),
        ..PodCondition::default()
    }];
    pod
}

fn with_port(mut pod: Pod, name: &str, number: i32) -> Pod {
    let port = ContainerPort { name: name.to_owned(), container_port: number, ..ContainerPort::default() };
    pod.spec_mut().containers = vec![Container { ports: vec![port], ..Container::default() }];
    pod
}

fn planned(service: &Service, pods: &[Pod], slices: &[EndpointSlice]) -> Plan {
    let mut node = Node::default();
    node.meta_mut().labels.insert(super::endpoint::ZONE.to_owned(), "z1".to_owned());
    let nodes = HashMap::from([("n1", &node)]);
    let pods: Vec<&Pod> = pods.iter().collect();
    let slices: Vec<&EndpointSlice> = slices.iter().collect();
    plan(&Observed { service, pods: &pods, nodes: &nodes, slices: &slices })
}

/// Performs a plan on slices, naming new ones.
fn perform(slices: &mut Vec<EndpointSlice>, plan: Plan, count: &mut usize) {
    for mut slice in plan.create {
        *count += 1;
        slice.meta_mut().name = format!("web-{count:04}");
        slices.push(slice);
    }
    for update in plan.update {
        let slice = slices.iter_mut().find(|slice| slice.meta().name == update.meta().name).unwrap();
        *slice = update;
    }
    slices.retain(|slice| plan.delete.iter().all(|gone| gone.meta().name != slice.meta().name));
}

fn only(plan: &Plan) -> &Endpoint {
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (1, 0, 0));
    &plan.create[0].endpoints[0]
}

fn conditions(endpoint: &Endpoint) -> (bool, bool, bool) {
    let conditions = endpoint.conditions.as_ref().unwrap();
    let is = |condition: Option<bool>| condition == Some(true);
    (is(conditions.ready), is(conditions.serving), is(conditions.terminating))
}

#[test]
fn a_slice_says_who_is_behind_the_service_and_how_they_are() {
    let plan = planned(&service(IntOrString::from(8080)), &[pod(0, true)], &[]);
    let endpoint = only(&plan);
    assert_eq!(endpoint.addresses, ["10.32.0.1"]);
    assert_eq!(conditions(endpoint), (true, true, false));
    assert_eq!(endpoint.node_name.as_deref(), Some("n1"));
    assert_eq!(endpoint.zone.as_deref(), Some("z1"));
    let target = endpoint.target_ref.as_ref().unwrap();
    assert_eq!((target.kind.as_str(), target.name.as_str(), target.uid.as_str()), ("Pod", "web-0", "pod-0"));
    let slice = &plan.create[0];
    assert_eq!((slice.address_type.as_str(), slice.ports[0].port), ("IPv4", Some(8080)));
    assert_eq!(slice.ports[0].protocol.as_deref(), Some("TCP"));
    assert_eq!(slice.meta().labels["kubernetes.io/service-name"], "web");
    assert_eq!(
        slice.meta().labels["endpointslice.kubernetes.io/managed-by"],
        "endpointslice-controller.k8s.io"
    );
    assert_eq!(slice.meta().owner_references[0].kind, "Service");
}

#[test]
fn readiness_termination_and_publishing_make_the_conditions() {
    let mut terminating = pod(0, true);
    terminating.meta_mut().deletion_timestamp = Some(Time::from_unix(1));
    let plain = service(IntOrString::from(80));
    let mut published = plain.clone();
    published.spec_mut().publish_not_ready_addresses = true;
    let cases = [
        (&plain, pod(0, false), (false, false, false)),
        (&plain, terminating.clone(), (false, true, true)),
        (&published, pod(0, false), (true, false, false)),
        (&published, terminating, (true, true, true)),
    ];
    for (service, pod, expected) in cases {
        assert_eq!(conditions(only(&planned(service, &[pod], &[]))), expected);
    }
}

#[test]
fn pods_that_ended_or_have_no_address_yet_are_not_behind_the_service() {
    let mut ended = pod(0, false);
    ended.status_mut().phase = "Succeeded".to_owned();
    let mut starting = pod(1, false);
    starting.status_mut().pod_ip.clear();
    starting.status_mut().pod_ips.clear();
    let plan = planned(&service(IntOrString::from(80)), &[ended, starting], &[]);
    assert!(plan.create[0].endpoints.is_empty(), "the service has one slice that says so");
    assert!(plan.create[0].ports.is_empty());
}

#[test]
fn a_port_by_name_is_looked_up_in_each_pod() {
    let pods = [
        with_port(pod(0, true), "web", 8080),
        with_port(pod(1, true), "web", 9090),
        with_port(pod(2, true), "other", 1),
    ];
    let plan = planned(&service(IntOrString::from("web")), &pods, &[]);
    let by_port: BTreeMap<Option<i32>, usize> = plan
        .create
        .iter()
        .map(|slice| (slice.ports.first().and_then(|port| port.port), slice.endpoints.len()))
        .collect();
    assert_eq!(by_port, BTreeMap::from([(None, 1), (Some(8080), 1), (Some(9090), 1)]));
}

#[test]
fn only_the_slice_of_a_pod_that_changed_is_written() {
    let service = service(IntOrString::from(80));
    let mut pods: Vec<Pod> = (0..250).map(|index| pod(index, true)).collect();
    let (mut slices, mut count) = (Vec::new(), 0);
    perform(&mut slices, planned(&service, &pods, &[]), &mut count);
    assert_eq!(slices.iter().map(|slice| slice.endpoints.len()).collect::<Vec<_>>(), [100, 100, 50]);

    pods[120] = pod(120, false);
    let plan = planned(&service, &pods, &slices);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
    perform(&mut slices, plan, &mut count);

    pods.push(pod(250, true));
    let plan = planned(&service, &pods, &slices);
    assert_eq!((plan.create.len(), plan.update.len()), (0, 1), "there was room in the last slice");
    assert_eq!(plan.update[0].endpoints.len(), 51);
}

#[test]
fn a_service_that_loses_all_pods_keeps_one_empty_slice() {
    let service = service(IntOrString::from(80));
    let pods: Vec<Pod> = (0..150).map(|index| pod(index, true)).collect();
    let (mut slices, mut count) = (Vec::new(), 0);
    perform(&mut slices, planned(&service, &pods, &[]), &mut count);
    let plan = planned(&service, &[], &slices);
    perform(&mut slices, plan, &mut count);
    assert_eq!(slices.len(), 1);
    assert!(slices[0].endpoints.is_empty());
    assert_eq!(planned(&service, &[], &slices), Plan::default());
}

#[test]
fn labels_of_the_service_are_copied_and_headless_is_marked() {
    let mut service = service(IntOrString::from(80));
    service.meta_mut().labels = [("team".to_owned(), "a".to_owned())].into();
    service.spec_mut().cluster_ip = "None".to_owned();
    let plan = planned(&service, &[pod(0, true)], &[]);
    let labels = &plan.create[0].meta().labels;
    assert_eq!(labels["team"], "a");
    assert!(labels.contains_key("service.kubernetes.io/headless"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pods_come_and_go_and_every_one_is_in_one_slice_once(
        steps in proptest::collection::vec(proptest::collection::btree_map(0usize..400, any::<bool>(), 0..400), 1..6),
    ) {
        let service = service(IntOrString::from("web"));
        let (mut slices, mut count) = (Vec::<EndpointSlice>::new(), 0);
        for step in steps {
            // One pod in five has the port under another number.
            let port = |index: usize| if index.is_multiple_of(5) { 9090 } else { 8080 };
            let pods: Vec<Pod> =
                step.iter().map(|(index, ready)| with_port(pod(*index, *ready), "web", port(*index))).collect();
            let before = slices.clone();
            let planned_now = planned(&service, &pods, &slices);
            for update in &planned_now.update {
                let old = before.iter().find(|slice| slice.meta().name == update.meta().name);
                prop_assert_ne!(Some(update), old, "a slice is written without a change");
            }
            perform(&mut slices, planned_now, &mut count);

            let mut seen = BTreeSet::new();
            for slice in &slices {
                prop_assert!(slice.endpoints.len() <= SLICE);
                for endpoint in &slice.endpoints {
                    prop_assert!(seen.insert(endpoint.addresses[0].clone()), "an endpoint is there twice");
                }
            }
            let expected: BTreeSet<String> = pods.iter().map(|pod| pod.status().pod_ip.clone()).collect();
            prop_assert_eq!(&seen, &expected);
            prop_assert_eq!(planned(&service, &pods, &slices), Plan::default());

            for (old, endpoint) in before.iter().flat_map(|slice| slice.endpoints.iter().map(move |e| (slice, e))) {
                if !expected.contains(&endpoint.addresses[0]) {
                    continue;
                }
                let now = slices.iter().find(|slice| slice.meta().name == old.meta().name);
                let stayed = now.is_some_and(|s| s.endpoints.iter().any(|e| e.addresses == endpoint.addresses));
                prop_assert!(stayed, "an endpoint that stays has moved to another slice");
            }
        }
    }
}
