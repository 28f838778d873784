use std::time::Duration;

use serde_json::{Value, json};
use weir_proto::Resource;

use super::*;

fn read<R: Resource>(value: Value) -> R {
    let object = R::KIND.from_json(&value, &mut Vec::new()).unwrap();
    object.as_any().downcast_ref::<R>().unwrap().clone()
}

fn node(name: &str, cpu: &str) -> Node {
    let offers = json!({"cpu": cpu, "memory": "8Gi", "pods": "110"});
    read(json!({"metadata": {"name": name}, "status": {"allocatable": offers}}))
}

fn pod(name: &str, cpu: &str, spec: Value) -> Pod {
    let mut pod: Pod = read(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"schedulerName": "default-scheduler", "containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
    }));
    let more: Pod = read(json!({"spec": spec}));
    prost::Message::merge(pod.spec_mut(), &*prost::Message::encode_to_vec(more.spec())).unwrap();
    pod
}

fn scheduler(nodes: &[Node]) -> Scheduler {
    let mut scheduler = Scheduler::new("default-scheduler", Profile::default());
    nodes.iter().for_each(|node| scheduler.node(node));
    scheduler
}

/// "pod → node", or "pod: why not".
fn decisions(scheduler: &mut Scheduler, now: Instant) -> Vec<String> {
    let decide = || scheduler.decide(now);
    std::iter::from_fn(decide)
        .map(|decision| match decision {
            Decision::Bind { pod, node, .. } => format!("{} → {node}", pod.name),
            Decision::Wait { pod, message, .. } => format!("{}: {message}", pod.name),
            Decision::Preempt { pod, node, victims, .. } => {
                let victims: Vec<_> = victims.iter().map(|victim| victim.name.as_str()).collect();
                format!("{} awaits {node} without {}", pod.name, victims.join(", "))
            }
        })
        .collect()
}

#[test]
fn pods_are_placed_where_most_is_free() {
    let mut scheduler = scheduler(&[node("n1", "4"), node("n2", "2")]);
    for name in ["a", "b", "c"] {
        scheduler.pod(&pod(name, "1", json!({})));
    }
    assert_eq!(decisions(&mut scheduler, Instant::now()), ["a → n1", "b → n2", "c → n1"]);
}

#[test]
fn others_pods_gated_pods_and_dying_pods_are_left_alone() {
    let mut scheduler = scheduler(&[node("n1", "4")]);
    scheduler.pod(&pod("theirs", "1", json!({"schedulerName": "other"})));
    scheduler.pod(&pod("gated", "1", json!({"schedulingGates": [{"name": "wait"}]})));
    let mut dying = pod("dying", "1", json!({}));
    dying.meta_mut().deletion_timestamp = Some(weir_proto::meta::v1::Time::now());
    scheduler.pod(&dying);
    assert_eq!(decisions(&mut scheduler, Instant::now()), [""; 0]);
    scheduler.pod(&pod("gated", "1", json!({})));
    assert_eq!(decisions(&mut scheduler, Instant::now()), ["gated → n1"]);
}

#[test]
fn a_pod_without_room_is_told_why_and_woken_by_room() {
    let mut scheduler = scheduler(&[node("n1", "1"), node("n2", "1")]);
    for (name, node) in [("x", "n1"), ("y", "n2")] {
        scheduler.pod(&pod(name, "1", json!({"nodeName": node})));
    }
    scheduler.pod(&pod("a", "500m", json!({})));
    let now = Instant::now();
    let expected = "a: 0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No \
                    preemption victims found for incoming pod.";
    assert_eq!(decisions(&mut scheduler, now), [expected]);
    let later = now + Duration::from_secs(60);
    assert!(!scheduler.has_work(later));
    scheduler.pod_gone("y");
    assert!(scheduler.has_work(later));
    assert_eq!(decisions(&mut scheduler, later), ["a → n2"]);
}

#[test]
fn finished_pods_free_their_room() {
    let mut scheduler = scheduler(&[node("n1", "1")]);
    let mut job = pod("job", "1", json!({"nodeName": "n1"}));
    scheduler.pod(&job);
    scheduler.pod(&pod("a", "1", json!({})));
    assert_eq!(decisions(&mut scheduler, Instant::now()).len(), 1);
    job.status_mut().phase = "Succeeded".to_owned();
    scheduler.pod(&job);
    assert_eq!(decisions(&mut scheduler, Instant::now() + Duration::from_secs(60)), ["a → n1"]);
}

#[test]
fn an_assumed_pod_holds_its_room_until_its_binding_fails() {
    let mut scheduler = scheduler(&[node("n1", "1")]);
    let now = Instant::now();
    scheduler.pod(&pod("a", "1", json!({})));
    assert_eq!(decisions(&mut scheduler, now), ["a → n1"]);
    // Its status changes while it is being bound.
    scheduler.pod(&pod("a", "1", json!({})));
    scheduler.pod(&pod("b", "1", json!({})));
    let waits = "b: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No \
                 preemption victims found for incoming pod.";
    assert_eq!(decisions(&mut scheduler, now), [waits]);
    scheduler.binding_failed("a", now);
    let later = now + Duration::from_secs(60);
    assert_eq!(decisions(&mut scheduler, later), ["a → n1", waits]);
    scheduler.bound("a");
    scheduler.pod(&pod("a", "1", json!({"nodeName": "n1"})));
    scheduler.pod_gone("a");
    assert_eq!(decisions(&mut scheduler, later + Duration::from_secs(60)), ["b → n1"]);
}

#[test]
fn without_nodes_a_pod_waits_for_the_first() {
    let mut scheduler = scheduler(&[]);
    let now = Instant::now();
    scheduler.pod(&pod("a", "1", json!({})));
    assert_eq!(decisions(&mut scheduler, now), ["a: no nodes available to schedule pods"]);
    scheduler.node(&node("n1", "2"));
    assert_eq!(decisions(&mut scheduler, now + Duration::from_secs(60)), ["a → n1"]);
}

#[test]
fn taking_everything_anew_drops_what_is_gone() {
    let mut scheduler = scheduler(&[node("n1", "1"), node("n2", "1")]);
    scheduler.pod(&pod("placed", "1", json!({"nodeName": "n1"})));
    scheduler.pod(&pod("waiting", "1", json!({})));
    scheduler.all_nodes(&[Arc::new(node("n1", "1"))]);
    scheduler.all_pods(&[Arc::new(pod("new", "1", json!({})))]);
    assert_eq!(decisions(&mut scheduler, Instant::now()), ["new → n1"]);
    assert_eq!(scheduler.cluster().candidate_count(), 1);
}

fn important(name: &str, cpu: &str, priority: i32) -> Pod {
    pod(name, cpu, json!({"priority": priority}))
}

fn on(node: &str, mut pod: Pod) -> Pod {
    pod.spec_mut().node_name = node.to_owned();
    pod
}

/// As the API server shows a pod that was told to make room.
fn leaving(mut pod: Pod) -> Pod {
    pod.meta_mut().deletion_timestamp = Some(weir_proto::meta::v1::Time::now());
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"});
    let status: Pod = read(json!({"status": {"conditions": [condition]}}));
    pod.status = status.status;
    pod
}

#[test]
fn a_pod_of_high_priority_gets_the_room_of_others_as_soon_as_they_have_left() {
    let mut scheduler = scheduler(&[node("n1", "2")]);
    let (low, small) = (on("n1", important("low", "1", 1)), on("n1", important("small", "500m", 2)));
    scheduler.pod(&low);
    scheduler.pod(&small);
    let mut high = important("high", "2", 10);
    scheduler.pod(&high);
    let now = Instant::now();
    assert_eq!(decisions(&mut scheduler, now), ["high awaits n1 without small, low"]);
    // The API server tells, step by step, what was decided.
    high.status_mut().nominated_node_name = "n1".to_owned();
    scheduler.pod(&high);
    scheduler.pod(&leaving(low));
    scheduler.pod(&leaving(small));
    assert!(!scheduler.has_work(now), "nothing has happened that could help");
    // One that comes now does not get the room, although it would fit beside those who leave.
    scheduler.pod_gone("low");
    scheduler.pod(&important("thief", "1", 5));
    let told = decisions(&mut scheduler, now);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("thief: 0/1 nodes are available: 1 Insufficient cpu."), "{told:?}");
    scheduler.pod_gone("small");
    // At once, with no backoff.
    assert_eq!(decisions(&mut scheduler, now)[0], "high → n1");
}

#[test]
fn a_pod_whose_victims_are_leaving_asks_for_no_more() {
    let mut scheduler = scheduler(&[node("n1", "1"), node("n2", "1")]);
    for (name, node) in [("a", "n1"), ("b", "n2")] {
        scheduler.pod(&on(node, important(name, "1", 1)));
    }
    scheduler.pod(&important("high", "1", 10));
    let now = Instant::now();
    assert_eq!(decisions(&mut scheduler, now), ["high awaits n1 without a"]);
    // Something else makes it be tried again.
    scheduler.node(&node("n3", "100m"));
    let told = decisions(&mut scheduler, now + Duration::from_secs(60));
    let expected = "high: 0/3 nodes are available: 3 Insufficient cpu. preemption: not eligible due to terminating pod \
                    on the nominated node.";
    assert_eq!(told, [expected]);
}

#[test]
fn after_a_restart_nominations_and_leaving_victims_are_known() {
    let mut scheduler = scheduler(&[node("n1", "1"), node("n2", "1")]);
    scheduler.pod(&leaving(on("n1", important("a", "1", 1))));
    scheduler.pod(&on("n2", important("b", "1", 1)));
    let mut high = important("high", "1", 10);
    high.status_mut().nominated_node_name = "n1".to_owned();
    scheduler.pod(&high);
    let now = Instant::now();
    assert!(
        decisions(&mut scheduler, now)[0]
            .ends_with("not eligible due to terminating pod on the nominated node.")
    );
    scheduler.pod_gone("a");
    assert_eq!(decisions(&mut scheduler, now), ["high → n1"]);
}

#[test]
fn victims_that_could_not_be_told_are_chosen_again() {
    let mut scheduler = scheduler(&[node("n1", "1")]);
    scheduler.pod(&on("n1", important("a", "1", 1)));
    scheduler.pod(&important("high", "1", 10));
    let now = Instant::now();
    let Some(Decision::Preempt { pod, victims, .. }) = scheduler.decide(now) else { panic!("no preemption") };
    scheduler.preemption_failed(&pod, &victims, now);
    assert!(!scheduler.has_work(now), "not at once");
    let later = now + Duration::from_secs(60);
    assert_eq!(decisions(&mut scheduler, later), ["high awaits n1 without a"]);
}

#[test]
fn a_still_higher_priority_takes_over_what_was_held_for_a_lower_one() {
    let mut scheduler = scheduler(&[node("n1", "1")]);
    scheduler.pod(&on("n1", important("a", "1", 1)));
    scheduler.pod(&important("high", "1", 10));
    let now = Instant::now();
    assert_eq!(decisions(&mut scheduler, now), ["high awaits n1 without a"]);
    scheduler.pod(&important("highest", "1", 20));
    let Some(Decision::Preempt { pod, displaced, .. }) = scheduler.decide(now) else {
        panic!("no preemption")
    };
    assert_eq!((&*pod.name, &*displaced[0].name), ("highest", "high"));
    // The displaced one is tried again at once, and learns that there is nothing for it.
    let told = decisions(&mut scheduler, now);
    assert!(told[0].starts_with("high: 0/1 nodes"), "{told:?}");
    scheduler.pod_gone("a");
    assert_eq!(decisions(&mut scheduler, now)[0], "highest → n1");
}

#[test]
fn a_nomination_that_helps_no_more_is_withdrawn() {
    let mut scheduler = scheduler(&[node("n1", "1")]);
    let mut high = important("high", "1", 10);
    high.status_mut().nominated_node_name = "n1".to_owned();
    scheduler.pod(&on("n1", important("higher", "1", 20)));
    scheduler.pod(&high);
    let Some(Decision::Wait { withdrawn, .. }) = scheduler.decide(Instant::now()) else {
        panic!("not waiting")
    };
    assert!(withdrawn);
    // Without any node it is the same.
    scheduler.node_gone("n1");
    high.status_mut().nominated_node_name = "n2".to_owned();
    scheduler.pod(&high);
    let later = Instant::now() + Duration::from_secs(600);
    let Some(Decision::Wait { withdrawn, .. }) = scheduler.decide(later) else { panic!("not waiting") };
    assert!(withdrawn);
}

#[test]
fn higher_priority_goes_first_however_many_equal_pods_wait() {
    let mut scheduler = scheduler(&[node("n1", "50")]);
    for index in 0..40 {
        scheduler.pod(&important(&format!("low-{index:02}"), "1", 1));
    }
    let now = Instant::now();
    // A batch has begun when one comes that is alike in all but its priority.
    assert!(matches!(scheduler.decide(now), Some(Decision::Bind { pod, .. }) if pod.name == "low-00"));
    scheduler.pod(&important("high", "1", 9));
    scheduler.pod(&important("mid", "2", 5));
    let told = decisions(&mut scheduler, now);
    assert_eq!(told[..3], ["high → n1", "mid → n1", "low-01 → n1"]);
    assert_eq!(told.last().unwrap(), "low-39 → n1");
}

#[test]
fn what_was_held_for_a_pod_that_goes_is_for_others() {
    let mut scheduler = scheduler(&[node("n1", "1")]);
    let now = Instant::now();
    let later = |minutes: u64| now + Duration::from_secs(60 * minutes);
    let mut high = important("high", "1", 10);
    high.meta_mut().uid = "first".to_owned();
    high.spec_mut().scheduling_gates.clear();
    scheduler.pod(&on("n1", important("a", "1", 1)));
    scheduler.pod(&high);
    assert_eq!(decisions(&mut scheduler, now), ["high awaits n1 without a"]);
    scheduler.pod(&important("low", "1", 1));
    assert_eq!(decisions(&mut scheduler, now).len(), 1);
    scheduler.pod_gone("a");
    // The node is free, but held.
    let told = decisions(&mut scheduler, now);
    assert_eq!(told, ["high → n1"]);
    scheduler.binding_failed("first", later(1));
    let told = decisions(&mut scheduler, later(1));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("low: 0/1 nodes"), "{told:?}");
    // It is deleted: its room is for others.
    scheduler.pod_gone("first");
    assert_eq!(decisions(&mut scheduler, later(3)), ["low → n1"]);
}

/// What keeps the pod `a` of the test below from fitting, by the plugin that turns it away.
fn obstacles() -> Vec<(&'static str, Value)> {
    let away = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "rival"}}}]}});
    let spread = json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "minDomains": 2, "labelSelector": {}}]);
    vec![
        ("cpu", json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "3"}}}]})),
        ("port", json!({"containers": [{"name": "d", "ports": [{"containerPort": 1, "hostPort": 80}]}]})),
        ("label", json!({"nodeSelector": {"disk": "ssd"}})),
        ("taint", json!({"nodeSelector": {"tainted": "yes"}})),
        ("cordon", json!({"nodeSelector": {"cordoned": "yes"}})),
        ("affinity", json!({"affinity": away, "nodeSelector": {"zone": "a"}})),
        ("spread", json!({"topologySpreadConstraints": spread, "nodeSelector": {"zone": "a"}})),
    ]
}

#[test]
fn a_pod_is_woken_by_what_could_help_and_by_nothing_else() {
    let labelled = |labels: Value, spec: Value, cpu: &str| {
        let offers = json!({"cpu": cpu, "memory": "8Gi", "pods": "110"});
        read::<Node>(json!({"metadata": {"name": "n1", "labels": labels}, "spec": spec,
                            "status": {"allocatable": offers}}))
    };
    let labels = json!({"zone": "a", "tainted": "yes", "cordoned": "yes"});
    let taint = json!({"key": "gpu", "effect": "NoSchedule"});
    let rival = || {
        let mut rival = pod(
            "rival",
            "1",
            json!({"nodeName": "n1", "containers": [
            {"name": "d", "ports": [{"containerPort": 1, "hostPort": 80}]}]}),
        );
        rival.meta_mut().labels = [("app".to_owned(), "rival".to_owned())].into();
        rival
    };
    type Change<'a> = Box<dyn Fn(&mut Scheduler) + 'a>;
    let plain = |scheduler: &mut Scheduler| scheduler.node(&labelled(labels.clone(), json!({}), "2"));
    let changes: Vec<(&str, Change<'_>, &[&str])> = vec![
        (
            "node added",
            Box::new(|s| s.node(&node("n2", "4"))),
            &["cpu", "port", "label", "taint", "cordon", "affinity", "spread"],
        ),
        ("more cpu", Box::new(|s| s.node(&labelled(labels.clone(), json!({}), "3"))), &["cpu"]),
        ("less cpu", Box::new(|s| s.node(&labelled(labels.clone(), json!({}), "1"))), &[]),
        (
            "other labels",
            Box::new(|s| {
                s.node(&labelled(
                    json!({"zone": "a", "tainted": "yes", "cordoned": "yes",
            "x": "y"}),
                    json!({}),
                    "2",
                ))
            }),
            &["label", "affinity", "spread"],
        ),
        (
            "tainted",
            Box::new(|s| s.node(&labelled(labels.clone(), json!({"taints": [taint]}), "2"))),
            &["spread"],
        ),
        ("heartbeat", Box::new(|s| plain(s)), &[]),
        ("pod gone", Box::new(|s| s.pod_gone("rival")), &["cpu", "port", "affinity", "spread"]),
        ("pod came", Box::new(|s| s.pod(&on("n1", pod("other", "10m", json!({}))))), &["affinity", "spread"]),
        ("pod leaving", Box::new(|s| s.pod(&leaving(rival()))), &["affinity", "spread"]),
        ("node gone", Box::new(|s| s.node_gone("n9")), &["spread"]),
    ];
    let now = Instant::now();
    let later = now + Duration::from_secs(60);
    for (obstacle, spec) in obstacles() {
        for (change, happen, helped) in &changes {
            let mut scheduler = scheduler(&[]);
            if *change == "node gone" {
                scheduler.node(&node("n9", "500m"));
            }
            // Where the obstacle is on the node itself it is there from the start.
            let (spec_of_node, undone) = match obstacle {
                "taint" => (json!({"taints": [taint]}), "untainted"),
                "cordon" => (json!({"unschedulable": true}), "uncordoned"),
                _ => (json!({}), ""),
            };
            scheduler.node(&labelled(labels.clone(), spec_of_node, "2"));
            scheduler.pod(&rival());
            scheduler.pod(&pod("a", "1", spec.clone()));
            assert_eq!(decisions(&mut scheduler, now).len(), 1, "{obstacle}");
            assert!(!scheduler.has_work(later), "{obstacle}");
            if !undone.is_empty() && *change != "node added" {
                if *change == "heartbeat" {
                    plain(&mut scheduler);
                    assert!(scheduler.has_work(later), "{obstacle}: {undone}");
                }
                continue;
            }
            happen(&mut scheduler);
            assert_eq!(scheduler.has_work(later), helped.contains(&obstacle), "{obstacle}: {change}");
        }
    }
}

#[test]
fn a_pod_that_is_woken_often_backs_off_ever_longer() {
    let mut scheduler = scheduler(&[node("n1", "1")]);
    scheduler.pod(&pod("a", "2", json!({})));
    let mut now = Instant::now();
    for (attempt, seconds) in [1, 2, 4, 8, 10, 10].into_iter().enumerate() {
        assert_eq!(decisions(&mut scheduler, now).len(), 1);
        scheduler.node(&node(&format!("n-{attempt}"), "1"));
        let due = now + Duration::from_secs(seconds);
        assert!(!scheduler.has_work(due - Duration::from_millis(1)), "after attempt {attempt}");
        assert!(scheduler.has_work(due), "after attempt {attempt}");
        now = due;
    }
}
