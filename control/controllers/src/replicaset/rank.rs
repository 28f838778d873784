//! Which pods go first when there are too many: those whose loss costs least, in Kubernetes' order.

use std::cmp::Reverse;
use std::collections::HashMap;

use weir_proto::core::v1::Pod;
use weir_proto::meta::v1::Time;

use crate::pods;

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// In the order in which they are to go.
pub(super) fn first_to_go<'a>(pods: Vec<&'a Pod>, related: &[&Pod], now: Time) -> Vec<&'a Pod> {
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for pod in related {
        *crowd.entry(pod.spec().node_name.as_str()).or_default() += 1;
    }
    let mut ranked: Vec<(Rank, &Pod)> = pods
        .into_iter()
        .map(|pod| (Rank::of(pod, crowd.get(pod.spec().node_name.as_str()).copied().unwrap_or(0), now), pod))
        .collect();
    ranked.sort_by(|(a, pod_a), (b, pod_b)| a.cmp(b).then_with(|| pod_a.meta().name.cmp(&pod_b.meta().name)));
    ranked.into_iter().map(|(_, pod)| pod).collect()
}

/// Smaller goes first. The order of the fields is the order of the reasons.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// On a node?
    scheduled: bool,
    phase: u8,
    ready: bool,
    /// What users say about it.
    cost: i32,
    /// On the node with most of them.
    crowd: Reverse<usize>,
    /// Ready for the shortest time; steps double, so that seconds do not outweigh what follows.
    ready_for: u32,
    restarts: Reverse<i32>,
    age: Reverse<Option<Time>>,
}

impl Rank {
    fn of(pod: &Pod, crowd: usize, now: Time) -> Rank {
        let ready = pods::is_ready(pod);
        Rank {
            scheduled: !pod.spec().node_name.is_empty(),
            phase: match pod.status().phase.as_str() {
                "" | "Pending" => 0,
                "Unknown" => 1,
                _ => 2,
            },
            ready,
            cost: pod.meta().annotations.get(COST).and_then(|cost| cost.parse().ok()).unwrap_or(0),
            crowd: Reverse(crowd),
            ready_for: if ready { steps_ready(pod, now) } else { 0 },
            restarts: Reverse(restarts(pod)),
            age: Reverse(pod.meta().creation_timestamp),
        }
    }
}

/// The logarithm of the seconds since the pod became ready.
fn steps_ready(pod: &Pod, now: Time) -> u32 {
    let since = pods::condition(pod, "Ready").and_then(|condition| condition.last_transition_time);
    let seconds = since.map_or(0, |since| (now.unix() - since.unix()).max(0));
    i64::BITS - seconds.leading_zeros()
}

fn restarts(pod: &Pod) -> i32 {
    pod.status().container_statuses.iter().map(|container| container.restart_count).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_proto::core::v1::{ContainerStatus, PodCondition};

    const NOW: i64 = 1_000_000;

    fn pod(name: &str) -> Pod {
        let mut pod = Pod::default();
        pod.meta_mut().name = name.to_owned();
        pod.meta_mut().creation_timestamp = Some(Time::from_unix(NOW - 10_000));
        pod.spec_mut().node_name = "n1".to_owned();
        pod.status_mut().phase = "Running".to_owned();
        ready_since(&mut pod, 5_000);
        pod
    }

    fn ready_since(pod: &mut Pod, seconds: i64) {
        pod.status_mut().conditions = vec![PodCondition {
            r#type: "Ready".to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(Time::from_unix(NOW - seconds)),
            ..PodCondition::default()
        }];
    }

    fn changed(name: &str, change: impl Fn(&mut Pod)) -> Pod {
        let mut pod = pod(name);
        change(&mut pod);
        pod
    }

    #[test]
    fn the_pod_whose_loss_costs_least_goes_first() {
        let restarted = ContainerStatus { restart_count: 3, ..ContainerStatus::default() };
        let expected = [
            changed("unscheduled", |pod| pod.spec_mut().node_name.clear()),
            changed("pending", |pod| pod.status_mut().phase = "Pending".to_owned()),
            changed("unready", |pod| pod.status_mut().conditions.clear()),
            changed("cheap", |pod| {
                pod.meta_mut().annotations.insert(COST.to_owned(), "-5".to_owned());
            }),
            changed("crowded", |pod| pod.spec_mut().node_name = "full".to_owned()),
            changed("just-ready", |pod| ready_since(pod, 3)),
            changed("restarted", |pod| pod.status_mut().container_statuses = vec![restarted.clone()]),
            changed("young", |pod| pod.meta_mut().creation_timestamp = Some(Time::from_unix(NOW - 6_000))),
            pod("a-plain"),
            pod("b-plain"),
            changed("dear", |pod| {
                pod.meta_mut().annotations.insert(COST.to_owned(), "7".to_owned());
            }),
        ];
        let neighbours: Vec<Pod> = (0..20)
            .map(|i| changed(&format!("x{i}"), |p| p.spec_mut().node_name = "full".to_owned()))
            .collect();
        let related: Vec<&Pod> = neighbours.iter().collect();
        let backwards: Vec<&Pod> = expected.iter().rev().collect();
        let order = first_to_go(backwards, &related, Time::from_unix(NOW));
        let names: Vec<&str> = order.iter().map(|pod| pod.meta().name.as_str()).collect();
        let expected: Vec<&str> = expected.iter().map(|pod| pod.meta().name.as_str()).collect();
        assert_eq!(names, expected);
    }
}
