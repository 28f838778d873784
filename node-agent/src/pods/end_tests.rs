use proptest::prelude::*;
use weir_proto::core::v1::Container;
use weir_proto::meta::v1::Time;
use weir_runtime::ContainerState;

use super::*;
use crate::pods::plan::plan;

const NOW: i64 = 1_000_000;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(NOW * 1000 + millis).expect("a time")
}

/// Deleted at NOW with this grace period; the mark is `word`.
fn deleted(grace: i64, word: Option<&str>) -> Pod {
    let mut pod = Pod::default();
    pod.meta_mut().uid = "u".to_owned();
    pod.meta_mut().deletion_timestamp = Some(Time::from_unix(NOW + grace));
    pod.meta_mut().deletion_grace_period_seconds = Some(grace);
    let container = |name: &str, sidecar: bool| Container {
        name: name.to_owned(),
        restart_policy: sidecar.then(|| "Always".to_owned()),
        ..Container::default()
    };
    pod.spec_mut().init_containers = vec![container("side1", true), container("side2", true)];
    pod.spec_mut().containers = vec![container("a", false), container("b", false)];
    pod.status_mut().conditions = word
        .map(|status| PodCondition {
            r#type: NO_NEW_FLOWS.to_owned(),
            status: status.to_owned(),
            ..PodCondition::default()
        })
        .into_iter()
        .collect();
    pod
}

fn running(names: &[&str], hold: Hold) -> Observed {
    let runs = names.iter().map(|name| {
        let key = ContainerKey::new("u", *name, 0);
        let run = ContainerStatus {
            id: key.id(),
            key,
            image: "i".to_owned(),
            image_digest: String::new(),
            created_at: at(0),
            log_path: "/log".into(),
            state: ContainerState::Running { pid: 1, started_at: at(0) },
        };
        (name.to_string(), vec![run])
    });
    Observed {
        sandbox: true,
        attached: true,
        leftovers: true,
        runs: runs.collect(),
        hold,
        ..Observed::default()
    }
}

fn limited(seconds: i64) -> Hold {
    Hold { limit: SignedDuration::from_secs(seconds), quiet_since: None }
}

fn stopped(plan: &Plan) -> Vec<&str> {
    let name = |step: &Step| match step {
        Step::Stop { key, .. } => Some(key.name.clone()),
        _ => None,
    };
    let names: Vec<String> = plan.steps.iter().filter_map(name).collect();
    ["a", "b", "side1", "side2"].into_iter().filter(|known| names.iter().any(|name| name == known)).collect()
}

#[test]
fn a_marked_pod_is_left_alone_until_the_word_and_a_little_longer() {
    let seen = running(&["a"], limited(10));
    let waiting = plan(Some(&deleted(30, Some("False"))), &seen, at(0));
    assert_eq!((waiting.steps, waiting.wake), (vec![], Some(at(10_000))));
    let quiet = running(&["a"], Hold { quiet_since: Some(at(500)), ..limited(10) });
    let pod = deleted(30, Some("True"));
    let settling = plan(Some(&pod), &quiet, at(500));
    assert_eq!((settling.steps, settling.wake), (vec![], Some(at(600))));
    assert_eq!(stopped(&plan(Some(&pod), &quiet, at(600))), ["a"]);
}

#[test]
fn pods_without_the_mark_or_without_anything_alive_wait_for_nothing() {
    assert_eq!(stopped(&plan(Some(&deleted(30, None)), &running(&["a"], limited(10)), at(0))), ["a"]);
    let dead = running(&[], limited(10));
    assert_eq!(
        plan(Some(&deleted(30, Some("False"))), &dead, at(0)).steps,
        [Step::TearDown, Step::ConfirmEnd]
    );
}

#[test]
fn the_wait_has_a_limit_and_takes_at_most_half_of_the_grace_period() {
    // (grace period, limit) in seconds → the end of the wait in milliseconds
    let cases = [(30, 10, 10_000), (8, 10, 4_000), (1, 10, 500), (600, 10, 10_000), (30, 0, 0)];
    for (grace, limit, expected) in cases {
        let (pod, seen) = (deleted(grace, Some("False")), running(&["a"], limited(limit)));
        assert_eq!(stopped(&plan(Some(&pod), &seen, at(expected))), ["a"], "{grace} {limit}");
        if expected > 0 {
            assert_eq!(plan(Some(&pod), &seen, at(expected - 1)).wake, Some(at(expected)), "{grace} {limit}");
        }
    }
}

#[test]
fn sidecars_go_after_the_containers_and_in_turn() {
    let pod = deleted(30, None);
    let cases: [(&[&str], &[&str]); 4] = [
        (&["side1", "side2", "a", "b"], &["a", "b"]),
        (&["side1", "side2", "b"], &["b"]),
        (&["side1", "side2"], &["side2"]),
        (&["side1"], &["side1"]),
    ];
    for (alive, expected) in cases {
        let plan = plan(Some(&pod), &running(alive, limited(0)), at(0));
        assert_eq!(stopped(&plan), expected, "{alive:?}");
        assert_eq!(plan.wake.is_some(), alive.len() > expected.len(), "somebody must look at the deadline");
    }
    let all = ["a", "b", "side1", "side2"];
    let mut late = running(&all, limited(0));
    late.stopping = ["a", "b"].map(|name| (ContainerKey::new("u", name, 0), at(30_000))).into();
    assert_eq!(stopped(&plan(Some(&pod), &late, at(29_999))), Vec::<&str>::new());
    assert_eq!(stopped(&plan(Some(&pod), &late, at(30_000))), ["side1", "side2"]);
}

/// Of this node's own accord, from NOW on; `word` is what the API says.
fn ended(grace: i64, word: Option<&str>) -> (Pod, Ending) {
    let mut pod = deleted(grace, word);
    pod.meta_mut().deletion_timestamp = None;
    pod.meta_mut().deletion_grace_period_seconds = None;
    pod.status_mut().pod_ip = "10.32.0.7".to_owned();
    let grace = std::time::Duration::from_secs(grace.unsigned_abs());
    let ending = Ending::of_running("Terminated", "", grace);
    let waits_since = ending.waits_since.map(|_| at(0));
    (pod, Ending { waits_since, deadline: later(at(0), grace.try_into().expect("a duration")), ..ending })
}

#[test]
fn a_pod_that_its_node_ends_is_marked_and_left_alone_until_the_word_or_the_limit() {
    let (pod, ending) = ended(30, None);
    let seen = Observed { ending: Some(ending), ..running(&["a"], limited(10)) };
    // Whether the question has reached the API or not.
    assert_eq!(question(&pod, &seen).map(|word| word.status), Some("False".to_owned()));
    let asked = ended(30, Some("False")).0;
    assert_eq!(question(&asked, &seen), None);
    for pod in [&pod, &asked] {
        assert_eq!(plan(Some(pod), &seen, at(0)), Plan { steps: vec![], wake: Some(at(10_000)) });
        assert_eq!(stopped(&plan(Some(pod), &seen, at(10_000))), ["a"]);
    }
    let (answered, _) = ended(30, Some("True"));
    let quiet = Observed { hold: Hold { quiet_since: Some(at(500)), ..limited(10) }, ..seen };
    assert_eq!(plan(Some(&answered), &quiet, at(500)).wake, Some(at(600)));
    assert_eq!(stopped(&plan(Some(&answered), &quiet, at(600))), ["a"]);
}

#[test]
fn ends_without_time_and_pods_without_an_address_or_a_container_wait_for_nobody() {
    let (pod, ending) = ended(30, None);
    let waiting = Observed { ending: Some(ending.clone()), ..running(&["a"], limited(10)) };
    let mut unknown = pod.clone();
    unknown.status_mut().pod_ip.clear();
    let at_once =
        Observed { ending: Some(Ending { waits_since: None, ..ending.clone() }), ..waiting.clone() };
    let (_, graceless) = ended(0, None);
    let graceless = Observed { ending: Some(graceless), ..waiting.clone() };
    for (pod, seen) in [(&unknown, &waiting), (&pod, &at_once), (&pod, &graceless)] {
        assert_eq!(question(pod, seen), None);
        assert_eq!(stopped(&plan(Some(pod), seen, at(0))), ["a"]);
    }
    let dead = Observed { ending: Some(ending), ..running(&[], limited(10)) };
    assert_eq!(question(&pod, &dead), None);
    assert_eq!(plan(Some(&pod), &dead, at(0)).wake, None);
}

#[test]
fn a_node_that_shuts_down_is_less_patient_with_a_pod_that_was_deleted_before() {
    let pod = deleted(600, Some("False"));
    let (_, ending) = ended(4, None);
    let seen = Observed { ending: Some(ending), ..running(&["a"], limited(10)) };
    assert_eq!(plan(Some(&pod), &seen, at(0)).wake, Some(at(2_000)));
    let late = plan(Some(&pod), &seen, at(2_000));
    assert!(matches!(late.steps[..], [Step::Stop { deadline, .. }] if deadline == at(4_000)), "{late:?}");
}

#[test]
fn a_static_pod_hears_by_its_mirror() {
    let mut said = ended(30, Some("False")).0.status().clone();
    hear(&mut said, ended(30, None).0.status());
    assert_eq!(said.conditions[0].status, "False");
    hear(&mut said, ended(30, Some("True")).0.status());
    assert_eq!(said.conditions[0].status, "True");
}

proptest! {
    #[test]
    fn no_wait_outlasts_its_limit_and_no_sidecar_goes_before_a_container(
        grace in 0..120i64,
        limit in 0..60i64,
        word in prop::option::of(prop::sample::select(vec!["True", "False"])),
        quiet in prop::option::of(-5_000..130_000i64),
        now in 0..130_000i64,
        alive in prop::sample::subsequence(vec!["a", "b", "side1", "side2"], 0..=4),
    ) {
        let pod = deleted(grace, word);
        let seen = running(&alive, Hold { quiet_since: quiet.map(at), ..limited(limit) });
        let plan = plan(Some(&pod), &seen, at(now));
        let stopped = stopped(&plan);
        let over = now >= (grace * 500).min(limit * 1000);
        if word.is_none() || over {
            prop_assert_eq!(stopped.is_empty(), alive.is_empty());
        }
        if word == Some("False") && !over {
            prop_assert!(stopped.is_empty());
        }
        let containers = alive.iter().any(|name| !name.starts_with("side"));
        if containers && now < grace * 1000 {
            prop_assert!(!stopped.iter().any(|name| name.starts_with("side")), "{stopped:?} of {alive:?}");
        }
        prop_assert!(!stopped.is_empty() || alive.is_empty() || plan.wake.is_some(), "nobody would look again");
    }
}
