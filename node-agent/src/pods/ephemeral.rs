//! Ephemeral containers: added to a pod while it runs, run once, and no part of what the pod is for. They count neither for
//! its phase nor for its readiness, and end with it.

use jiff::Timestamp;
use weir_proto::core::v1::{self as core, Container, EphemeralContainer, Pod};
use weir_runtime::{ContainerKey, ContainerState};

use super::observed::Observed;
use super::plan::{Plan, Step};

/// As containers, which is how they are run.
pub(super) fn containers(pod: &Pod) -> impl Iterator<Item = Container> {
    pod.spec().ephemeral_containers.iter().map(Container::from)
}

pub(super) fn is_ephemeral(pod: &Pod, name: &str) -> bool {
    pod.spec().ephemeral_containers.iter().any(|container| container.name == name)
}

/// Starts those that have never run, each when the container that it looks at runs.
pub(super) fn run(pod: &Pod, seen: &Observed, now: Timestamp, plan: &mut Plan) {
    for container in &pod.spec().ephemeral_containers {
        let name = &container.name;
        if !target_runs(container, seen) {
            continue;
        }
        if let Some(failure) = seen.starts.get(name)
            && failure.retry_at() > now
        {
            plan.look_again(failure.retry_at());
            continue;
        }
        // A run that was made and not started is one that an agent was killed at.
        let restart = match seen.latest(name).map(|run| (&run.state, run.key.restart)) {
            None => 0,
            Some((ContainerState::Created { pid: 0 }, _)) => continue,
            Some((ContainerState::Created { .. }, restart)) => restart,
            Some(_) => continue,
        };
        plan.steps.push(Step::Start { container: name.clone(), restart, is_init: false });
    }
}

fn target_runs(container: &EphemeralContainer, seen: &Observed) -> bool {
    let target = &container.target_container_name;
    target.is_empty() || seen.is_running(target)
}

/// The run whose processes the container is to see.
pub(super) fn target(pod: &Pod, name: &str, runs: &[weir_runtime::ContainerStatus]) -> Option<ContainerKey> {
    let wanted = pod.spec().ephemeral_containers.iter().find(|container| container.name == name)?;
    let uid = &pod.meta().uid;
    let of_target = runs.iter().filter(|run| {
        run.key.pod_uid == *uid && run.key.name == wanted.target_container_name && !run.key.name.is_empty()
    });
    of_target.max_by_key(|run| run.key.restart).map(|run| run.key.clone())
}

/// What is particular in their status.
pub(super) fn status(
    pod: &Pod,
    container: &EphemeralContainer,
    seen: &Observed,
    mut status: core::ContainerStatus,
) -> core::ContainerStatus {
    (status.ready, status.started) = (false, None);
    if seen.latest(&container.name).is_none()
        && !target_runs(container, seen)
        && let Some(waiting) = status.state.as_mut().and_then(|state| state.waiting.as_mut())
    {
        let (target, pod) = (&container.target_container_name, &pod.meta().name);
        waiting.message = format!("waits for its target: container {target:?} of pod {pod:?} does not run");
    }
    status
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use weir_runtime::ContainerStatus;

    use super::*;
    use crate::pods::plan::plan;

    const NOW: i64 = 1_000_000;

    fn pod(target: &str) -> Pod {
        let mut pod = Pod::default();
        pod.meta_mut().uid = "u".to_owned();
        pod.spec_mut().restart_policy = "Always".to_owned();
        pod.spec_mut().containers = vec![Container { name: "web".to_owned(), ..Container::default() }];
        pod.spec_mut().ephemeral_containers = vec![EphemeralContainer {
            name: "debugger".to_owned(),
            target_container_name: target.to_owned(),
            ..EphemeralContainer::default()
        }];
        pod
    }

    fn seen(runs: &[(&str, ContainerState)]) -> Observed {
        let mut all = BTreeMap::<String, Vec<ContainerStatus>>::new();
        for (name, state) in runs {
            let key = ContainerKey::new("u", *name, 0);
            all.entry((*name).to_owned()).or_default().push(ContainerStatus {
                id: key.id(),
                key,
                image: "i".to_owned(),
                image_digest: "sha256:0".to_owned(),
                created_at: Timestamp::UNIX_EPOCH,
                log_path: "/log".into(),
                state: state.clone(),
            });
        }
        Observed { sandbox: true, attached: true, volumes: true, runs: all, ..Observed::default() }
    }

    fn running() -> ContainerState {
        ContainerState::Running { pid: 1, started_at: Timestamp::UNIX_EPOCH }
    }

    fn ended() -> ContainerState {
        ContainerState::Exited(weir_runtime::Exit {
            code: 1,
            signal: None,
            oom_killed: false,
            reason: weir_runtime::ExitReason::Error,
            message: String::new(),
            started_at: None,
            finished_at: Timestamp::UNIX_EPOCH,
        })
    }

    fn started(pod: &Pod, seen: &Observed) -> Vec<String> {
        let now = Timestamp::from_second(NOW).expect("a time");
        let starts = plan(Some(pod), seen, now).steps.into_iter().filter_map(|step| match step {
            Step::Start { container, .. } => Some(container),
            _ => None,
        });
        starts.collect()
    }

    #[test]
    fn one_is_started_beside_the_containers_and_never_again() {
        let pod = pod("");
        assert_eq!(started(&pod, &seen(&[("web", running())])), ["debugger"]);
        assert!(started(&pod, &seen(&[("web", running()), ("debugger", running())])).is_empty());
        assert!(started(&pod, &seen(&[("web", running()), ("debugger", ended())])).is_empty());
    }

    #[test]
    fn one_with_a_target_waits_for_it() {
        let pod = pod("web");
        assert!(!started(&pod, &seen(&[])).contains(&"debugger".to_owned()));
        assert_eq!(started(&pod, &seen(&[("web", running())])), ["debugger"]);
    }

    #[test]
    fn the_latest_run_of_the_target_is_the_one() {
        let mut runs: Vec<ContainerStatus> = seen(&[("web", ended())]).runs.into_values().flatten().collect();
        runs.push(ContainerStatus { key: ContainerKey::new("u", "web", 1), ..runs[0].clone() });
        assert_eq!(target(&pod("web"), "debugger", &runs), Some(ContainerKey::new("u", "web", 1)));
        assert_eq!(target(&pod(""), "debugger", &runs), None);
    }
}
