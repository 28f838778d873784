//! Pods: STATUS is the phase, or whatever tells more about it, as kubectl's users know it.

use super::{NONE, age, human_duration, or};
use crate::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use crate::meta::v1::Time;

pub(super) fn cells(pod: &Pod, now: Time) -> Vec<String> {
    let (spec, status) = (pod.spec(), pod.status());
    let summary = Summary::of(pod);
    let sidecars =
        spec.init_containers.iter().filter(|container| container.restart_policy() == "Always").count();
    vec![
        format!("{}/{}", summary.ready, spec.containers.len() + sidecars),
        summary.status,
        restarts(summary.restarts, summary.last_restart, now),
        age(pod.meta(), now),
        or(&status.pod_ip, NONE),
        or(&spec.node_name, NONE),
        or(&status.nominated_node_name, NONE),
        readiness_gates(pod),
    ]
}

fn restarts(count: i64, last: Option<Time>, now: Time) -> String {
    match last {
        Some(last) if count > 0 => {
            format!("{count} ({} ago)", human_duration(now.unix().saturating_sub(last.unix())))
        }
        _ => count.to_string(),
    }
}

fn readiness_gates(pod: &Pod) -> String {
    let gates = &pod.spec().readiness_gates;
    let passed = gates.iter().filter(|gate| condition(pod, &gate.condition_type)).count();
    if gates.is_empty() { NONE.to_owned() } else { format!("{passed}/{}", gates.len()) }
}

fn condition(pod: &Pod, name: &str) -> bool {
    pod.status().conditions.iter().any(|condition| condition.r#type == name && condition.status == "True")
}

struct Summary {
    status: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<Time>,
}

impl Summary {
    fn of(pod: &Pod) -> Self {
        let status = pod.status();
        let phase = or(&status.reason, &status.phase);
        let mut summary = Self { status: phase, ready: 0, restarts: 0, last_restart: None };
        if !pod.spec().scheduling_gates.is_empty() && pod.spec().node_name.is_empty() {
            summary.status = "SchedulingGated".to_owned();
        }
        let initializing = summary.init_containers(pod);
        if !initializing || condition(pod, "Initialized") {
            summary.containers(pod);
        }
        let ended = matches!(status.phase.as_str(), "Succeeded" | "Failed");
        if pod.meta().deletion_timestamp.is_some() && !ended {
            summary.status = if status.reason == "NodeLost" { "Unknown" } else { "Terminating" }.to_owned();
        }
        summary
    }

    /// Whether one of them still keeps the containers waiting; its restarts and reason are then the pod's.
    fn init_containers(&mut self, pod: &Pod) -> bool {
        let containers = &pod.spec().init_containers;
        let sidecar =
            |name: &str| containers.iter().any(|c| c.name == name && c.restart_policy() == "Always");
        let mut others = 0;
        for (index, status) in pod.status().init_container_statuses.iter().enumerate() {
            let state = status.state.clone().unwrap_or_default();
            self.count(status);
            if !sidecar(&status.name) {
                others += i64::from(status.restart_count);
            }
            match (state.terminated, state.waiting) {
                (Some(end), _) if end.exit_code == 0 => continue,
                _ if sidecar(&status.name) && status.started() => {
                    self.ready += usize::from(status.ready);
                    continue;
                }
                (Some(end), _) => self.status = format!("Init:{}", ended(&end)),
                (None, Some(waiting)) if !matches!(waiting.reason.as_str(), "" | "PodInitializing") => {
                    self.status = format!("Init:{}", waiting.reason);
                }
                _ => self.status = format!("Init:{index}/{}", containers.len()),
            }
            return true;
        }
        // What came before no longer matters, but for sidecars, which run beside the containers.
        self.restarts -= others;
        false
    }

    fn containers(&mut self, pod: &Pod) {
        let mut running = false;
        // The first container's reason wins, as it is looked at last.
        for status in pod.status().container_statuses.iter().rev() {
            let state = status.state.clone().unwrap_or_default();
            self.count(status);
            match (state.waiting, state.terminated) {
                (Some(waiting), _) if !waiting.reason.is_empty() => self.status = waiting.reason,
                (_, Some(end)) => self.status = ended(&end),
                _ if status.ready && state.running.is_some() => {
                    running = true;
                    self.ready += 1;
                }
                _ => {}
            }
        }
        if self.status == "Completed" && running {
            self.status = if condition(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn count(&mut self, status: &ContainerStatus) {
        self.restarts += i64::from(status.restart_count);
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref()?.finished_at);
        self.last_restart = self.last_restart.max(last);
    }
}

fn ended(end: &ContainerStateTerminated) -> String {
    match (end.reason.as_str(), end.signal) {
        ("", 0) => format!("ExitCode:{}", end.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}
