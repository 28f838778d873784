use std::collections::BTreeMap;

use weir_runtime::{ContainerKey, ExitReason};

use super::*;
use crate::pods::observed::{Failure, Probed};

const NOW: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn pod(policy: &str) -> Pod {
    let mut pod = Pod::default();
    pod.meta_mut().name = "web".to_owned();
    pod.meta_mut().namespace = "default".to_owned();
    pod.meta_mut().uid = "u".to_owned();
    pod.spec_mut().restart_policy = policy.to_owned();
    let container = |name: &str| Container {
        name: name.to_owned(),
        image: "weir.dev/echo:1".to_owned(),
        ..Container::default()
    };
    pod.spec_mut().containers = vec![container("a"), container("b")];
    pod
}

fn seen(runs: &[(&str, ContainerState)]) -> Observed {
    let mut all = BTreeMap::<String, Vec<ContainerStatus>>::new();
    for (name, state) in runs {
        let of = all.entry((*name).to_owned()).or_default();
        let key = ContainerKey::new("u", *name, of.len() as u32);
        of.push(ContainerStatus {
            id: "0123".to_owned(),
            key,
            image: "weir.dev/echo:1".to_owned(),
            image_digest: "sha256:9".to_owned(),
            created_at: at(NOW - 60),
            log_path: "/log".into(),
            state: state.clone(),
        });
    }
    Observed {
        sandbox: true,
        attached: true,
        volumes: true,
        leftovers: true,
        runs: all,
        ..Observed::default()
    }
}

fn running() -> ContainerState {
    ContainerState::Running { pid: 1, started_at: at(NOW - 50) }
}

fn ended(code: i32) -> ContainerState {
    ContainerState::Exited(Exit {
        code,
        signal: None,
        oom_killed: code == 137,
        reason: match code {
            0 => ExitReason::Completed,
            137 => ExitReason::OomKilled,
            _ => ExitReason::Error,
        },
        message: String::new(),
        started_at: Some(at(NOW - 9)),
        finished_at: at(NOW - 3),
    })
}

fn of(pod: &Pod, seen: &Observed) -> PodStatus {
    let address = "10.32.1.2".parse().expect("an address");
    status(pod, seen, &[address], "10.31.0.11".parse().expect("an address"), at(NOW))
}

fn condition(status: &PodStatus, kind: &str) -> (String, String, String) {
    let found = status.conditions.iter().find(|condition| condition.r#type == kind).expect("the condition");
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

#[test]
fn a_pod_that_runs_is_ready_and_says_where() {
    let status = of(&pod("Always"), &seen(&[("a", running()), ("b", running())]));
    assert_eq!((status.phase.as_str(), status.qos_class.as_str()), ("Running", "BestEffort"));
    assert_eq!((status.pod_ip.as_str(), status.host_ip.as_str()), ("10.32.1.2", "10.31.0.11"));
    for kind in ["PodScheduled", "Initialized", "ContainersReady", "Ready"] {
        assert_eq!(condition(&status, kind).0, "True", "{kind}");
    }
    let container = &status.container_statuses[0];
    assert!(container.ready && container.started == Some(true));
    assert_eq!(container.container_id, "weir://0123");
    assert_eq!(container.image_id, "weir.dev/echo@sha256:9");
}

#[test]
fn a_pod_without_all_containers_is_pending_and_names_them() {
    let status = of(&pod("Always"), &seen(&[("a", running())]));
    assert_eq!(status.phase, "Pending");
    let (ready, reason, message) = condition(&status, "Ready");
    assert_eq!((ready.as_str(), reason.as_str()), ("False", "ContainersNotReady"));
    assert_eq!(message, "containers with unready status: [b]");
    let waiting = status.container_statuses[1].state.clone().unwrap_or_default().waiting.unwrap_or_default();
    assert_eq!(waiting.reason, "ContainerCreating");
}

#[test]
fn phases_follow_exit_codes_and_restart_policy() {
    let cases = [
        ("Never", 0, 0, "Succeeded"),
        ("Never", 0, 3, "Failed"),
        ("OnFailure", 0, 3, "Running"),
        ("OnFailure", 0, 0, "Succeeded"),
        ("Always", 0, 0, "Running"),
    ];
    for (policy, a, b, phase) in cases {
        let status = of(&pod(policy), &seen(&[("a", ended(a)), ("b", ended(b))]));
        assert_eq!(status.phase, phase, "{policy} {a} {b}");
    }
    let status = of(&pod("Never"), &seen(&[("a", ended(0)), ("b", ended(0))]));
    assert_eq!(condition(&status, "Ready").1, "PodCompleted");
}

#[test]
fn a_crash_loop_shows_the_last_exit_and_the_delay() {
    let mut seen = seen(&[("a", ended(1)), ("a", ended(137)), ("b", running())]);
    seen.crashes.insert("a".to_owned(), 2);
    seen.last_words.insert(ContainerKey::new("u", "a", 1), "too much".to_owned());
    let status = of(&pod("Always"), &seen);
    let container = &status.container_statuses[0];
    let waiting = container.state.clone().unwrap_or_default().waiting.unwrap_or_default();
    assert_eq!(waiting.reason, "CrashLoopBackOff");
    assert_eq!(waiting.message, "back-off 20s restarting failed container=a pod=web_default(u)");
    let last = container.last_state.clone().unwrap_or_default().terminated.unwrap_or_default();
    assert_eq!((last.exit_code, last.reason.as_str(), last.message.as_str()), (137, "OOMKilled", "too much"));
    assert_eq!(container.restart_count, 1);
    assert_eq!(status.phase, "Running");
}

#[test]
fn failures_to_start_show_kubernetes_reasons() {
    let mut seen = seen(&[("b", running())]);
    let failure = Failure::again(None, "ErrImagePull", "image \"x\" was not found".to_owned(), at(NOW));
    seen.starts.insert("a".to_owned(), failure.clone());
    let waiting = |seen: &Observed| {
        let status = of(&pod("Always"), seen);
        status.container_statuses[0].state.clone().unwrap_or_default().waiting.unwrap_or_default()
    };
    assert_eq!(waiting(&seen).reason, "ErrImagePull");
    seen.starts.insert("a".to_owned(), Failure { attempts: 2, ..failure });
    let second = waiting(&seen);
    assert_eq!(second.reason, "ImagePullBackOff");
    assert_eq!(
        second.message,
        "Back-off pulling image \"weir.dev/echo:1\": ErrImagePull: image \"x\" was not found"
    );
}

#[test]
fn readiness_follows_probes() {
    let mut seen = seen(&[("a", running()), ("b", running())]);
    seen.probed.insert("a".to_owned(), Probed { started: true, ready: false, unhealthy: None });
    let status = of(&pod("Always"), &seen);
    assert_eq!(status.phase, "Running");
    assert_eq!(condition(&status, "ContainersReady").2, "containers with unready status: [a]");
}

#[test]
fn what_others_wrote_stays_and_transitions_keep_their_time() {
    let mut pod = pod("Always");
    let seen = seen(&[("a", running()), ("b", running())]);
    pod.status_mut().conditions =
        vec![PodCondition { r#type: "example.com/gate".to_owned(), ..PodCondition::default() }];
    pod.status = Some(of(&pod, &seen));
    let later = status(&pod, &seen, &[], "10.31.0.11".parse().expect("an address"), at(NOW + 50));
    assert_eq!(later, *pod.status(), "nothing changed, so nothing is to be written");
    assert!(later.conditions.iter().any(|condition| condition.r#type == "example.com/gate"));
}

#[test]
fn a_pod_that_the_node_ends_says_why_once_its_last_container_has_ended() {
    let ending = crate::pods::Ending::of_running(
        "Evicted",
        "The node was low on resource: memory. ",
        std::time::Duration::ZERO,
    );
    let mut pod = pod("Always");
    pod.status_mut().phase = "Running".to_owned();
    let ending = Some(ending);
    let under_way =
        of(&pod, &Observed { ending: ending.clone(), ..seen(&[("a", running()), ("b", ended(0))]) });
    assert_eq!((under_way.phase.as_str(), under_way.reason.as_str()), ("Running", ""));
    assert_eq!(condition(&under_way, "Ready").1, "PodFailed");
    assert_eq!(condition(&under_way, "DisruptionTarget").1, "TerminationByKubelet");
    let over = of(&pod, &Observed { ending, ..seen(&[("a", ended(137)), ("b", ended(0))]) });
    assert_eq!((over.phase.as_str(), over.reason.as_str()), ("Failed", "Evicted"));
    assert_eq!(over.message, "The node was low on resource: memory. ");
    let refused = crate::pods::Ending::refusal("OutOfcpu", "Node didn't have enough resource: cpu");
    let status = of(&pod, &Observed { ending: Some(refused), ..Observed::default() });
    assert_eq!(
        (status.phase.as_str(), status.message.as_str()),
        ("Failed", "Pod was rejected: Node didn't have enough resource: cpu")
    );
    assert!(!status.conditions.iter().any(|condition| condition.r#type == "DisruptionTarget"));
}

#[test]
fn the_write_that_makes_an_ending_pod_unready_asks_whether_nodes_still_send_to_it() {
    let mut pod = pod("Always");
    pod.status_mut().pod_ip = "10.32.0.7".to_owned();
    let ending = crate::pods::Ending::of_running("Terminated", "", std::time::Duration::from_secs(9));
    let seen = Observed { ending: Some(ending), ..seen(&[("a", running()), ("b", running())]) };
    let mut asked = of(&pod, &seen);
    assert_eq!(condition(&asked, "Ready").0, "False");
    assert_eq!(condition(&asked, "weir.dev/NoNewFlows").0, "False");
    // The answer stays.
    for condition in asked.conditions.iter_mut().filter(|word| word.r#type == "weir.dev/NoNewFlows") {
        "True".clone_into(&mut condition.status);
    }
    pod.status = Some(asked);
    assert_eq!(condition(&of(&pod, &seen), "weir.dev/NoNewFlows").0, "True");
}

#[test]
fn readiness_waits_for_its_gates() {
    let mut pod = pod("Always");
    let gate = |name: &str| core::PodReadinessGate { condition_type: name.to_owned() };
    pod.spec_mut().readiness_gates = vec![gate("example.com/a"), gate("example.com/b")];
    let seen = seen(&[("a", running()), ("b", running())]);
    let said = |status: &str| PodCondition {
        r#type: "example.com/b".to_owned(),
        status: status.to_owned(),
        ..PodCondition::default()
    };
    pod.status_mut().conditions = vec![said("False")];
    let status = of(&pod, &seen);
    assert_eq!(condition(&status, "ContainersReady").0, "True");
    let (ready, reason, message) = condition(&status, "Ready");
    assert_eq!((ready.as_str(), reason.as_str()), ("False", "ReadinessGatesNotReady"));
    assert_eq!(
        message,
        "corresponding condition of pod readiness gate \"example.com/a\" does not exist., \
         the status of pod readiness gate \"example.com/b\" is not \"True\", but False"
    );
    pod.spec_mut().readiness_gates.remove(0);
    pod.status_mut().conditions = vec![said("True")];
    assert_eq!(condition(&of(&pod, &seen), "Ready").0, "True");
}

#[test]
fn a_container_shows_its_resources_and_mounts() {
    let mut pod = pod("Always");
    let container = &mut pod.spec_mut().containers[0];
    let resources = container.resources.get_or_insert_default();
    resources.requests.insert("cpu".to_owned(), "100m".parse().expect("a quantity"));
    container.volume_mounts = vec![VolumeMount {
        name: "data".to_owned(),
        mount_path: "/data".to_owned(),
        read_only: true,
        ..VolumeMount::default()
    }];
    let status = of(&pod, &seen(&[("a", running()), ("b", running())]));
    let [a, b] = &status.container_statuses[..] else { panic!("two containers") };
    assert_eq!(a.allocated_resources["cpu"].to_string(), "100m");
    assert_eq!(a.resources, pod.spec().containers[0].resources);
    assert_eq!((a.volume_mounts[0].mount_path.as_str(), a.volume_mounts[0].read_only), ("/data", true));
    assert!(b.resources.is_none() && b.allocated_resources.is_empty());
}
