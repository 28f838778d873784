//! Priority classes, and what pods get from them.

use weir_proto::core::v1::{Pod, PodTemplate};
use weir_proto::meta::v1::ObjectMeta;
use weir_proto::scheduling::v1::PriorityClass;

use crate::fixture::{Api, Cluster, pod, yaml};

fn class(name: &str, value: i32) -> PriorityClass {
    let metadata = Some(ObjectMeta { name: name.to_owned(), ..ObjectMeta::default() });
    PriorityClass { metadata, value, ..PriorityClass::default() }
}

fn pod_of(name: &str, class: &str) -> Pod {
    let mut pod = pod(name);
    pod.spec_mut().priority_class_name = class.to_owned();
    pod
}

async fn refused(api: &Api, pod: &Pod) -> String {
    let error = api.create(pod).await.unwrap_err();
    assert_eq!(error.code(), 403, "{error}");
    error.message().to_owned()
}

#[tokio::test]
async fn a_pod_gets_the_priority_and_policy_of_its_class() {
    let cluster = Cluster::start().await;
    let api = cluster.admin();
    let mut high = class("high", 1000);
    high.preemption_policy = Some("Never".to_owned());
    api.create(&high).await.unwrap();
    for (name, class, priority, policy) in [
        ("plain", "", 0, "PreemptLowerPriority"),
        ("high", "high", 1000, "Never"),
        ("node", "system-node-critical", 2_000_001_000, "PreemptLowerPriority"),
        ("cluster", "system-cluster-critical", 2_000_000_000, "PreemptLowerPriority"),
    ] {
        let made = api.create(&pod_of(name, class)).await.unwrap();
        let spec = made.spec();
        assert_eq!((spec.priority, spec.preemption_policy()), (Some(priority), policy), "{name}");
        assert_eq!(spec.priority_class_name, class);
    }
    // What was worked out may be sent back, or left out.
    let mut made: Pod = api.get("default", "high").await.unwrap();
    made.spec_mut().priority = None;
    made.spec_mut().preemption_policy = None;
    assert_eq!(api.update(&made).await.unwrap().spec().priority, Some(1000));
}

#[tokio::test]
async fn a_class_that_is_not_there_and_numbers_set_by_hand_are_refused() {
    let cluster = Cluster::start().await;
    let api = cluster.admin();
    let said = refused(&api, &pod_of("p", "none")).await;
    assert_eq!(said, "pods \"p\" is forbidden: no PriorityClass with name none was found");
    let mut by_hand = pod("p");
    by_hand.spec_mut().priority = Some(7);
    assert_eq!(
        refused(&api, &by_hand).await,
        "pods \"p\" is forbidden: the integer value of priority (7) must not be provided in pod spec; priority \
         admission controller computed 0 from the given PriorityClass name"
    );
    by_hand.spec_mut().priority = Some(0);
    by_hand.spec_mut().preemption_policy = Some("Never".to_owned());
    assert_eq!(
        refused(&api, &by_hand).await,
        "pods \"p\" is forbidden: the string value of PreemptionPolicy (Never) must not be provided in pod spec; \
         priority admission controller computed PreemptLowerPriority from the given PriorityClass name"
    );
}

#[tokio::test]
async fn one_class_may_be_the_default() {
    let cluster = Cluster::start().await;
    let api = cluster.admin();
    let mut usual = class("usual", 10);
    usual.global_default = true;
    let usual = api.create(&usual).await.unwrap();
    // The cache that admission looks at may be a moment behind.
    let mut made = api.create(&pod("p")).await.unwrap();
    for index in 0..1000 {
        if made.spec().priority_class_name == "usual" {
            break;
        }
        tokio::task::yield_now().await;
        made = api.create(&pod(&format!("p{index}"))).await.unwrap();
    }
    assert_eq!((made.spec().priority, &*made.spec().priority_class_name), (Some(10), "usual"));

    let mut rival = class("rival", 5);
    rival.global_default = true;
    let error = api.create(&rival).await.unwrap_err();
    let expected = "priorityclasses.scheduling.k8s.io \"rival\" is forbidden: PriorityClass usual is already marked \
                    as default. Only one default can exist";
    assert_eq!((error.code(), error.message()), (403, expected));
    rival.global_default = false;
    let mut rival = api.create(&rival).await.unwrap();
    rival.global_default = true;
    assert_eq!(api.update(&rival).await.unwrap_err().message(), expected);
    // The default itself may be written again.
    let mut usual = usual;
    usual.description = "the usual".to_owned();
    api.update(&usual).await.unwrap();
}

#[tokio::test]
async fn the_systems_classes_are_there_and_stay() {
    let cluster = Cluster::start().await;
    let api = cluster.admin();
    let (classes, _) = api.list::<PriorityClass>("", |_| {}).await.unwrap();
    let found: Vec<_> =
        classes.iter().map(|class| (class.metadata.as_ref().unwrap().name.as_str(), class.value)).collect();
    assert_eq!(found, [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)]);
    let error = api.delete::<PriorityClass>("", "system-node-critical", |_| {}).await.unwrap_err();
    assert!(error.message().ends_with("this is a system priority class and cannot be deleted"), "{error}");
    assert!(api.create(&class("system-mine", 5)).await.unwrap_err().is_invalid());
    let (code, table) = cluster.rest("GET", "/apis/scheduling.k8s.io/v1/priorityclasses", "").await;
    assert_eq!((code, &table["kind"]), (200, &"PriorityClassList".into()));
}

#[tokio::test]
async fn templates_keep_what_they_say() {
    let cluster = Cluster::start().await;
    let template: PodTemplate = yaml(
        "{metadata: {name: t, namespace: default}, template: {spec: {priorityClassName: later, containers: [{name: a, image: a}]}}}",
    );
    let made = cluster.admin().create(&template).await.unwrap();
    let spec = made.template.unwrap().spec.unwrap();
    assert_eq!((spec.priority, &*spec.priority_class_name), (None, "later"));
}

#[tokio::test]
async fn a_gated_pod_says_so_from_the_start() {
    let cluster = Cluster::start().await;
    let mut gated = pod("p");
    gated.spec_mut().scheduling_gates =
        vec![weir_proto::core::v1::PodSchedulingGate { name: "wait".to_owned() }];
    let made = cluster.admin().create(&gated).await.unwrap();
    let [condition] = &made.status().conditions[..] else { panic!("{made:?}") };
    assert_eq!((&*condition.r#type, &*condition.reason), ("PodScheduled", "SchedulingGated"));
}
