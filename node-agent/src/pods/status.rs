//! A pod's status, from what is wanted, what is seen and what was said before. Pure.

use std::net::IpAddr;

use jiff::Timestamp;
use weir_proto::core::v1::{
    self as core, Container, ContainerState as State, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, HostIp, Pod, PodCondition, PodIp, PodStatus, VolumeMount, VolumeMountStatus,
};
use weir_proto::meta::v1::Time;
use weir_runtime::{ContainerState, ContainerStatus, Exit};

use super::observed::{Observed, exit, is_sidecar, runs_again};
use super::phase::{self, Verdict};
use super::resources;
use super::{end, ephemeral};

/// The status to write. Fields of others (`nominatedNodeName`, foreign conditions) stay as they are in `pod`.
pub(super) fn status(
    pod: &Pod,
    seen: &Observed,
    addresses: &[IpAddr],
    host: IpAddr,
    now: Timestamp,
) -> PodStatus {
    let verdict = phase::verdict(pod, seen);
    let time = Time::from_unix(now.as_second());
    let mut status = pod.status().clone();
    let phase = phase::phase(pod, seen, &verdict);
    let ended = !matches!(verdict, Verdict::Runs { .. });
    if ended && seen.alive().next().is_some() {
        // What still runs still holds the node's resources: the phase says so until the last container has ended.
        if status.phase.is_empty() {
            "Pending".clone_into(&mut status.phase);
        }
    } else {
        phase.clone_into(&mut status.phase);
        if let Verdict::Failed { reason, message } = &verdict {
            status.reason.clone_from(reason);
            status.message.clone_from(message);
        }
    }
    status.observed_generation = pod.meta().generation;
    status.start_time = status.start_time.or(Some(time));
    status.host_ip = host.to_string();
    status.host_ips = vec![HostIp { ip: host.to_string() }];
    if let Some(first) = addresses.first() {
        status.pod_ip = first.to_string();
        status.pod_ips = addresses.iter().map(|address| PodIp { ip: address.to_string() }).collect();
    }
    status.qos_class = resources::qos(pod.spec()).as_str().to_owned();
    let container_statuses = |containers: &[Container], is_init| {
        containers.iter().map(|container| container_status(pod, container, is_init, seen, now)).collect()
    };
    // A pod that has ended keeps what was said of its containers once nothing of them is left here.
    if matches!(verdict, Verdict::Runs { .. }) || !seen.runs.is_empty() {
        status.init_container_statuses = container_statuses(&pod.spec().init_containers, true);
        status.container_statuses = container_statuses(&pod.spec().containers, false);
        let ephemeral = pod.spec().ephemeral_containers.iter().map(|container| {
            let status = container_status(pod, &Container::from(container), false, seen, now);
            ephemeral::status(pod, container, seen, status)
        });
        status.ephemeral_container_statuses = ephemeral.collect();
    }
    for condition in conditions(pod, seen, &verdict, &status.conditions) {
        set_condition(&mut status.conditions, condition, time);
    }
    if let Some(question) = end::question(pod, seen) {
        set_condition(&mut status.conditions, question, time);
    }
    status
}

fn container_status(
    pod: &Pod,
    container: &Container,
    is_init: bool,
    seen: &Observed,
    now: Timestamp,
) -> core::ContainerStatus {
    let name = &container.name;
    let latest = seen.latest(name);
    let previous = seen.previous_exit(name).map(|(run, exit)| terminated(run, exit, seen));
    let waiting = waiting(pod, container, is_init, seen, now);
    let (state, last) = match (latest, waiting) {
        // The run that ended becomes the last state while the next one is waited for.
        (Some(run), Some(waiting)) => {
            (waiting, exit(run).map(|exit| terminated(run, exit, seen)).or(previous))
        }
        (None, Some(waiting)) => (waiting, previous),
        (Some(run), None) => (present(run, seen), previous),
        (None, None) => (State::default(), previous),
    };
    let ready = match (is_init, latest.and_then(exit)) {
        (true, Some(exit)) => !is_sidecar(container) && exit.code == 0,
        _ => seen.is_ready(name),
    };
    core::ContainerStatus {
        name: name.clone(),
        state: Some(state),
        last_state: Some(last.unwrap_or_default()),
        ready,
        restart_count: latest.map_or(0, |run| i32::try_from(run.key.restart).unwrap_or(i32::MAX)),
        image: container.image.clone(),
        image_id: latest.map_or_else(String::new, |run| image_id(&run.image, &run.image_digest)),
        container_id: latest.map_or_else(String::new, |run| format!("weir://{}", run.id)),
        started: Some(seen.is_started(name)),
        allocated_resources: container.resources.iter().flat_map(|all| all.requests.clone()).collect(),
        resources: container.resources.as_ref().filter(|all| **all != Default::default()).cloned(),
        volume_mounts: container.volume_mounts.iter().map(volume_mount).collect(),
        user: latest.and_then(|run| seen.users.get(&run.key)).cloned(),
        ..core::ContainerStatus::default()
    }
}

fn volume_mount(mount: &VolumeMount) -> VolumeMountStatus {
    VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only,
        recursive_read_only: mount.read_only.then(|| {
            let wanted = mount.recursive_read_only.as_deref();
            let all = matches!(wanted, Some("Enabled" | "IfPossible"));
            if all { "Enabled" } else { "Disabled" }.to_owned()
        }),
    }
}

/// Why the container does not run, if it is to run.
fn waiting(
    pod: &Pod,
    container: &Container,
    is_init: bool,
    seen: &Observed,
    now: Timestamp,
) -> Option<State> {
    let say = |reason: &str, message: String| {
        Some(State {
            waiting: Some(ContainerStateWaiting { reason: reason.to_owned(), message }),
            ..State::default()
        })
    };
    if seen.is_running(&container.name) {
        return None;
    }
    if let Some(failure) = seen.starts.get(&container.name) {
        // Kubernetes names the first failed pull and the waiting for the next one differently.
        return match failure.reason.as_str() {
            "ErrImagePull" if failure.attempts > 1 => say(
                "ImagePullBackOff",
                format!(
                    "Back-off pulling image \"{}\": ErrImagePull: {}",
                    failure.image.as_ref().unwrap_or(&container.image),
                    failure.message
                ),
            ),
            reason => say(reason, failure.message.clone()),
        };
    }
    match seen.latest(&container.name).map(|run| &run.state) {
        None => {
            let setup = seen.setup.as_ref().map_or_else(String::new, |failure| failure.message.clone());
            let first = if pod.spec().init_containers.is_empty() || is_init {
                "ContainerCreating"
            } else {
                "PodInitializing"
            };
            say(first, setup)
        }
        Some(ContainerState::Created { .. }) => say("ContainerCreating", String::new()),
        Some(ContainerState::Exited(exit)) if runs_again(pod, container, is_init, exit) => {
            let wait = seen.restart_at(&container.name, exit).duration_since(now).as_secs();
            let pod_name = format!("{}_{}({})", pod.meta().name, pod.meta().namespace, pod.meta().uid);
            let back_off = seen.restart_at(&container.name, exit).duration_since(exit.finished_at).as_secs();
            let message =
                format!("back-off {back_off}s restarting failed container={} pod={pod_name}", container.name);
            if wait > 0 { say("CrashLoopBackOff", message) } else { None }
        }
        Some(_) => None,
    }
}

fn present(run: &ContainerStatus, seen: &Observed) -> State {
    match &run.state {
        ContainerState::Running { started_at, .. } => State {
            running: Some(ContainerStateRunning {
                started_at: Some(Time::from_unix(started_at.as_second())),
            }),
            ..State::default()
        },
        ContainerState::Exited(exit) => terminated(run, exit, seen),
        ContainerState::Created { .. } => State::default(),
    }
}

fn terminated(run: &ContainerStatus, exit: &Exit, seen: &Observed) -> State {
    let time = |time: Timestamp| Some(Time::from_unix(time.as_second()));
    State {
        terminated: Some(ContainerStateTerminated {
            container_id: format!("weir://{}", run.id),
            exit_code: exit.code,
            signal: exit.signal.unwrap_or(0),
            reason: exit.reason.as_str().to_owned(),
            message: match exit.message.as_str() {
                "" => seen.last_words.get(&run.key).cloned().unwrap_or_default(),
                problem => problem.to_owned(),
            },
            started_at: exit.started_at.and_then(time),
            finished_at: time(exit.finished_at),
        }),
        ..State::default()
    }
}

/// "weir.dev/echo:1" and a digest: "weir.dev/echo@sha256:…".
fn image_id(reference: &str, digest: &str) -> String {
    let name = reference.split('@').next().unwrap_or(reference);
    let tag = name.rfind(':').filter(|colon| !name[*colon..].contains('/'));
    format!("{}@{digest}", &name[..tag.unwrap_or(name.len())])
}

fn conditions(pod: &Pod, seen: &Observed, verdict: &Verdict, before: &[PodCondition]) -> Vec<PodCondition> {
    let condition = |kind: &str, holds: bool, reason: &str, message: String| PodCondition {
        r#type: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: if holds { "" } else { reason }.to_owned(),
        message: if holds { String::new() } else { message },
        observed_generation: pod.meta().generation,
        ..PodCondition::default()
    };
    let names = |names: &[String]| format!("[{}]", names.join(" "));
    let incomplete = phase::incomplete_init(pod, seen);
    let initialized = phase::is_initialized(pod, seen) || *verdict == Verdict::Succeeded;
    let sidecars = pod.spec().init_containers.iter().filter(|container| is_sidecar(container));
    let unready: Vec<String> = sidecars
        .chain(&pod.spec().containers)
        .filter(|container| !seen.is_ready(&container.name))
        .map(|container| container.name.clone())
        .collect();
    let (ready, why, message) = match verdict {
        Verdict::Succeeded => (false, "PodCompleted", String::new()),
        Verdict::Failed { .. } => (false, "PodFailed", String::new()),
        Verdict::Runs { .. } => {
            let message = format!("containers with unready status: {}", names(&unready));
            (unready.is_empty() && initialized, "ContainersNotReady", message)
        }
    };
    let message_init = format!("containers with incomplete status: {}", names(&incomplete));
    let setup = seen.setup.as_ref();
    // Kubernetes makes the volumes before the sandbox: without them a pod is not that far.
    let mounts = setup.is_none_or(|failure| failure.reason != "FailedMount");
    let gates = if ready { closed_gates(pod, before) } else { Vec::new() };
    let mut conditions = vec![
        condition("PodScheduled", true, "", String::new()),
        // An agent that has just started has yet to look at the network of a pod with containers.
        condition(
            "PodReadyToStartContainers",
            seen.sandbox && (seen.attached || !seen.runs.is_empty()) && mounts,
            setup.map_or("", |failure| &failure.reason),
            setup.map_or_else(String::new, |failure| failure.message.clone()),
        ),
        condition("Initialized", initialized, "ContainersNotInitialized", message_init),
        condition("ContainersReady", ready, why, message.clone()),
        match gates.is_empty() {
            true => condition("Ready", ready, why, message),
            false => condition("Ready", false, "ReadinessGatesNotReady", gates.join(", ")),
        },
    ];
    if *verdict == Verdict::Succeeded {
        "PodCompleted".clone_into(&mut conditions[2].reason);
    }
    if let Some(ending) = seen.ending.as_ref().filter(|ending| ending.disruption) {
        conditions.push(PodCondition {
            reason: "TerminationByKubelet".to_owned(),
            message: ending.message.clone(),
            ..condition("DisruptionTarget", true, "", String::new())
        });
    }
    conditions
}

/// What the pod's readiness waits for beside its containers, in the kubelet's words.
fn closed_gates(pod: &Pod, before: &[PodCondition]) -> Vec<String> {
    let said = |kind: &str| before.iter().find(|condition| condition.r#type == kind);
    let closed = |kind: &String| match said(kind) {
        None => Some(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
        Some(condition) if condition.status != "True" => Some(format!(
            "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
            condition.status
        )),
        Some(_) => None,
    };
    pod.spec().readiness_gates.iter().filter_map(|gate| closed(&gate.condition_type)).collect()
}

fn set_condition(conditions: &mut Vec<PodCondition>, mut new: PodCondition, now: Time) {
    match conditions.iter_mut().find(|old| old.r#type == new.r#type) {
        Some(old) => {
            let kept = if old.status == new.status { old.last_transition_time } else { None };
            new.last_transition_time = Some(kept.unwrap_or(now));
            new.last_probe_time = old.last_probe_time;
            *old = new;
        }
        None => {
            new.last_transition_time = Some(now);
            conditions.push(new);
        }
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
