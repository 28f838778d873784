use std::collections::BTreeMap;

use proptest::prelude::*;
use weir_proto::meta::v1::Time;
use weir_runtime::{ContainerStatus, Exit, ExitReason};

use super::*;
use crate::pods::Ending;
use crate::pods::observed::{Failure, Probed, crashes_after};

const NOW: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn container(name: &str) -> Container {
    Container { name: name.to_owned(), image: "i".to_owned(), ..Container::default() }
}

fn pod(policy: &str, init: &[&str], containers: &[&str]) -> Pod {
    let mut pod = Pod::default();
    pod.meta_mut().uid = "u".to_owned();
    pod.spec_mut().restart_policy = policy.to_owned();
    pod.spec_mut().init_containers = init
        .iter()
        .map(|name| Container {
            restart_policy: name.starts_with("side").then(|| "Always".to_owned()),
            ..container(name)
        })
        .collect();
    pod.spec_mut().containers = containers.iter().map(|name| container(name)).collect();
    pod
}

fn status(name: &str, restart: u32, state: ContainerState) -> ContainerStatus {
    let key = ContainerKey::new("u", name, restart);
    ContainerStatus {
        id: key.id(),
        key,
        image: "i".to_owned(),
        image_digest: "sha256:0".to_owned(),
        created_at: at(NOW - 100),
        log_path: "/log".into(),
        state,
    }
}

fn running() -> ContainerState {
    ContainerState::Running { pid: 1, started_at: at(NOW - 50) }
}

fn ended(code: i32, seconds_ago: i64) -> ContainerState {
    ContainerState::Exited(Exit {
        code,
        signal: None,
        oom_killed: false,
        message: String::new(),
        reason: if code == 0 { ExitReason::Completed } else { ExitReason::Error },
        started_at: Some(at(NOW - seconds_ago - 1)),
        finished_at: at(NOW - seconds_ago),
    })
}

fn ready_made(runs: &[(&str, ContainerState)]) -> Observed {
    let mut all = BTreeMap::<String, Vec<ContainerStatus>>::new();
    for (name, state) in runs {
        let of = all.entry((*name).to_owned()).or_default();
        of.push(status(name, of.len() as u32, state.clone()));
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

fn start(name: &str, restart: u32) -> Step {
    Step::Start {
        container: name.to_owned(),
        restart,
        is_init: name.starts_with("init") || name.starts_with("side"),
    }
}

fn steps(pod: &Pod, seen: &Observed) -> Vec<Step> {
    plan(Some(pod), seen, at(NOW)).steps
}

#[test]
fn a_new_pod_gets_sandbox_network_volumes_and_containers_in_this_order() {
    assert_eq!(
        steps(&pod("Always", &[], &["a", "b"]), &Observed::default()),
        [Step::CreateSandbox, Step::AttachNetwork, Step::MountVolumes, start("a", 0), start("b", 0)]
    );
}

#[test]
fn a_pod_that_runs_needs_nothing() {
    let plan = plan(Some(&pod("Always", &[], &["a"])), &ready_made(&[("a", running())]), at(NOW));
    assert_eq!(plan, Plan::default());
}

#[test]
fn init_containers_run_one_after_the_other_and_sidecars_stay() {
    let pod = pod("Always", &["init1", "side", "init2"], &["a"]);
    type Case<'a> = (&'a [(&'a str, ContainerState)], &'a [Step]);
    let cases: [Case<'_>; 6] = [
        (&[], &[start("init1", 0)]),
        (&[("init1", running())], &[]),
        (&[("init1", ended(0, 1))], &[start("side", 0)]),
        (&[("init1", ended(0, 1)), ("side", running())], &[start("init2", 0)]),
        (&[("init1", ended(1, 60))], &[start("init1", 1)]),
        (&[("init1", ended(0, 1)), ("side", running()), ("init2", ended(0, 1))], &[start("a", 0)]),
    ];
    for (runs, expected) in cases {
        assert_eq!(steps(&pod, &ready_made(runs)), expected, "{runs:?}");
    }
    let later = ready_made(&[("side", ended(1, 60)), ("init2", ended(0, 60)), ("a", running())]);
    assert_eq!(steps(&pod, &later), [start("side", 1)], "a sidecar runs again beside the containers");
}

#[test]
fn restart_policies_decide_what_runs_again() {
    let again = |policy: &str, code: i32| {
        steps(&pod(policy, &[], &["a", "b"]), &ready_made(&[("a", ended(code, 60)), ("b", running())]))
            == [start("a", 1)]
    };
    let outcomes: Vec<bool> = ["Always", "OnFailure", "Never"]
        .iter()
        .flat_map(|policy| [again(policy, 0), again(policy, 1)])
        .collect();
    assert_eq!(outcomes, [true, true, false, true, false, false]);
}

#[test]
fn a_container_that_crashes_again_waits() {
    let pod = pod("Always", &[], &["a"]);
    let mut seen = ready_made(&[("a", ended(1, 30)), ("a", ended(1, 4))]);
    seen.crashes.insert("a".to_owned(), 1);
    assert_eq!(plan(Some(&pod), &seen, at(NOW)), Plan { steps: vec![], wake: Some(at(NOW + 6)) });
    assert_eq!(plan(Some(&pod), &seen, at(NOW + 6)).steps, [start("a", 2)]);
    // The first crash is forgiven at once, and so is one after a long run.
    seen.crashes.clear();
    assert_eq!(steps(&pod, &seen), [start("a", 2)]);
    let long = Exit {
        started_at: Some(at(NOW - 700)),
        ..exit(&status("a", 0, ended(1, 1))).expect("ended").clone()
    };
    seen.crashes.insert("a".to_owned(), 6);
    assert_eq!(seen.restart_at("a", &long), long.finished_at);
    assert_eq!(crashes_after(6, &long), 1);
}

#[test]
fn what_failed_is_tried_again_after_a_while() {
    let pod = pod("Always", &[], &["a"]);
    let failure = Failure::again(None, "ErrImagePull", String::new(), at(NOW - 3));
    let mut seen = ready_made(&[]);
    seen.starts.insert("a".to_owned(), failure.clone());
    assert_eq!(plan(Some(&pod), &seen, at(NOW)), Plan { steps: vec![], wake: Some(at(NOW + 7)) });
    assert_eq!(plan(Some(&pod), &seen, at(NOW + 7)).steps, [start("a", 0)]);
    let seen = Observed { setup: Some(failure), ..Observed::default() };
    assert_eq!(plan(Some(&pod), &seen, at(NOW)), Plan { steps: vec![], wake: Some(at(NOW + 7)) });
}

#[test]
fn an_unhealthy_container_is_stopped_once() {
    let pod = pod("Always", &[], &["a"]);
    let mut seen = ready_made(&[("a", running())]);
    seen.probed
        .insert("a".to_owned(), Probed { unhealthy: Some("no answer".to_owned()), ..Probed::default() });
    let key = ContainerKey::new("u", "a", 0);
    let deadline = at(NOW + 30);
    let why = Why::Unhealthy("no answer".to_owned());
    assert_eq!(steps(&pod, &seen), [Step::Stop { key: key.clone(), deadline, why }]);
    seen.stopping.insert(key, deadline);
    assert_eq!(steps(&pod, &seen), []);
}

#[test]
fn a_deleted_pod_is_stopped_then_torn_down_then_confirmed() {
    let mut pod = pod("Always", &[], &["a"]);
    let delete = |pod: &mut Pod, grace: i64| {
        pod.meta_mut().deletion_timestamp = Some(Time::from_unix(NOW + grace));
        pod.meta_mut().deletion_grace_period_seconds = Some(grace);
    };
    delete(&mut pod, 30);
    let key = ContainerKey::new("u", "a", 0);
    let stop = |deadline| Step::Stop { key: key.clone(), deadline: at(deadline), why: Why::PodEnds };
    let mut seen = ready_made(&[("a", running())]);
    assert_eq!(steps(&pod, &seen), [stop(NOW + 30)]);
    seen.stopping.insert(key.clone(), at(NOW + 30));
    assert_eq!(steps(&pod, &seen), []);
    // Deleted again, with less patience.
    delete(&mut pod, 1);
    assert_eq!(steps(&pod, &seen), [stop(NOW + 1)]);
    // What was seen late is given its time all the same.
    pod.meta_mut().deletion_timestamp = Some(Time::from_unix(NOW - 100));
    assert_eq!(steps(&pod, &seen), [stop(NOW + 1)]);
    assert_eq!(steps(&pod, &ready_made(&[("a", ended(143, 0))])), [Step::TearDown, Step::ConfirmEnd]);
    assert_eq!(steps(&pod, &Observed::default()), [Step::ConfirmEnd]);
    assert_eq!(
        steps(&pod, &Observed { confirmed: true, ..Observed::default() }),
        [],
        "finalizers may hold it"
    );
}

#[test]
fn a_pod_that_the_api_forgot_is_torn_down() {
    assert_eq!(plan(None, &ready_made(&[("a", running())]), at(NOW)).steps, [Step::TearDown]);
    assert_eq!(
        plan(None, &Observed { leftovers: true, ..Observed::default() }, at(NOW)).steps,
        [Step::TearDown]
    );
    assert_eq!(plan(None, &Observed::default(), at(NOW)), Plan::default());
}

#[test]
fn a_pod_that_has_ended_gives_its_address_back_and_never_runs_again() {
    let mut pod = pod("Never", &["side"], &["a"]);
    let mut seen = ready_made(&[("side", running()), ("a", ended(0, 1))]);
    let key = ContainerKey::new("u", "side", 0);
    let stop = Step::Stop { key, deadline: at(NOW + 30), why: Why::PodEnds };
    assert_eq!(steps(&pod, &seen), [stop]);
    seen.runs.remove("side");
    assert_eq!(steps(&pod, &seen), [Step::DetachNetwork, Step::ReleaseVolumes]);
    pod.status_mut().phase = "Succeeded".to_owned();
    assert_eq!(steps(&pod, &Observed::default()), [], "not even when nothing is left of it here");
}

#[test]
fn a_pod_beyond_its_deadline_is_stopped() {
    let mut pod = pod("Always", &[], &["a"]);
    pod.spec_mut().active_deadline_seconds = Some(60);
    pod.status_mut().start_time = Some(Time::from_unix(NOW - 50));
    let seen = ready_made(&[("a", running())]);
    assert_eq!(plan(Some(&pod), &seen, at(NOW)), Plan { steps: vec![], wake: Some(at(NOW + 10)) });
    // Then the worker gives it its end, and nothing is started meanwhile.
    let due = plan(Some(&pod), &ready_made(&[]), at(NOW + 10));
    assert_eq!(due, Plan { steps: vec![], wake: Some(at(NOW + 10)) });
    let overdue = Observed { ending: Some(Ending::overdue(&pod)), ..seen };
    assert!(matches!(plan(Some(&pod), &overdue, at(NOW + 10)).steps[..], [Step::Stop { .. }]));
}

#[test]
fn of_many_runs_the_last_two_are_kept() {
    let seen = ready_made(&[("a", ended(1, 50)), ("a", ended(1, 40)), ("a", ended(1, 30)), ("a", running())]);
    let removed: Vec<u32> = steps(&pod("Always", &[], &["a"]), &seen)
        .into_iter()
        .map(|step| match step {
            Step::Remove { key } => key.restart,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(removed, [0, 1]);
}

/// What the world looks like after a step that went well.
fn perform(step: &Step, seen: &mut Observed) {
    match step {
        Step::CreateSandbox => (seen.sandbox, seen.leftovers) = (true, true),
        Step::AttachNetwork => seen.attached = true,
        Step::DetachNetwork => seen.attached = false,
        Step::MountVolumes => seen.volumes = true,
        Step::ReleaseVolumes => seen.released = true,
        Step::Start { container, restart, .. } => {
            let runs = seen.runs.entry(container.clone()).or_default();
            runs.retain(|run| run.key.restart != *restart);
            runs.push(status(container, *restart, running()));
            seen.starts.remove(container);
            seen.probed.remove(container);
        }
        Step::Stop { key, deadline, .. } => drop(seen.stopping.insert(key.clone(), *deadline)),
        Step::Remove { key } => {
            for runs in seen.runs.values_mut() {
                runs.retain(|run| run.key != *key);
            }
        }
        Step::TearDown => *seen = Observed::default(),
        Step::ConfirmEnd => seen.confirmed = true,
    }
}

fn states() -> impl Strategy<Value = ContainerState> {
    prop_oneof![
        Just(ContainerState::Created { pid: 7 }),
        Just(running()),
        (0..3i32, 0..400i64).prop_map(|(code, ago)| ended(code, ago)),
    ]
}

prop_compose! {
    fn worlds()(
        policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
        deleted in prop::option::of(-40..40i64),
        flags in any::<[bool; 5]>(),
        runs in prop::collection::vec((prop::sample::select(vec!["init", "side", "a", "b"]), states()), 0..8),
        crashes in 0..9u32,
        failed in prop::option::of((prop::sample::select(vec!["init", "side", "a", "b"]), 1..8u32, 0..400i64)),
    ) -> (Pod, Observed) {
        let mut pod = pod(policy, &["init", "side"], &["a", "b"]);
        pod.meta_mut().deletion_timestamp = deleted.map(|seconds| Time::from_unix(NOW + seconds));
        pod.meta_mut().deletion_grace_period_seconds = deleted.map(i64::abs);
        let mut seen = ready_made(&runs);
        [seen.sandbox, seen.attached, seen.volumes, seen.leftovers, _] = flags;
        if let Some((name, attempts, ago)) = failed {
            seen.starts.insert(name.to_owned(), Failure { attempts, ..Failure::again(None, "x", String::new(), at(NOW - ago)) });
        }
        for name in ["init", "side", "a", "b"] {
            seen.crashes.insert(name.to_owned(), crashes);
        }
        (pod, seen)
    }
}

proptest! {
    #[test]
    fn planning_again_after_performing_changes_nothing_more((pod, mut seen) in worlds(), known in any::<bool>()) {
        // Init containers that run at once are not simulated to end, so one round is all there is to do.
        let wanted = known.then_some(&pod);
        for step in plan(wanted, &seen, at(NOW)).steps {
            perform(&step, &mut seen);
        }
        // A sidecar that was started lets the next container go on: a second round, and no third.
        for step in plan(wanted, &seen, at(NOW)).steps {
            perform(&step, &mut seen);
        }
        prop_assert_eq!(plan(wanted, &seen, at(NOW)).steps, vec![]);
    }

    #[test]
    fn no_plan_starts_what_runs_or_starts_anything_in_a_pod_that_ends((pod, seen) in worlds()) {
        let steps = plan(Some(&pod), &seen, at(NOW)).steps;
        let mut started = std::collections::BTreeSet::new();
        for step in &steps {
            if let Step::Start { container, .. } = step {
                prop_assert!(started.insert(container.clone()), "{container} twice");
                prop_assert!(!seen.is_running(container), "{container} runs already");
                prop_assert!(pod.meta().deletion_timestamp.is_none());
            }
        }
        if steps.contains(&Step::ConfirmEnd) {
            prop_assert!(seen.alive().next().is_none(), "confirmed with containers alive");
        }
    }
}
