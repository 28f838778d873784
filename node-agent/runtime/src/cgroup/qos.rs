//! From requests and limits to a pod's class and the kernel's numbers, by the kubelet's formulas.

use serde::{Deserialize, Serialize};

use crate::container::{HugePages, Resources};

/// Kubernetes' quality-of-service class; places the pod's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    /// As in a pod's `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The class of a pod of these containers, init containers included.
    pub fn of<'a>(containers: impl IntoIterator<Item = &'a Resources>) -> Self {
        let (mut any, mut guaranteed) = (false, true);
        for resources in containers {
            let cpu = (resources.cpu_request.or(resources.cpu_limit), resources.cpu_limit);
            let memory = (resources.memory_request.or(resources.memory_limit), resources.memory_limit);
            for (request, limit) in [cpu, memory] {
                any |= request.is_some_and(|amount| amount > 0);
                guaranteed &= limit.is_some_and(|amount| amount > 0) && request == limit;
            }
        }
        match (any, guaranteed) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }
}

/// What a pod as a whole asks for: the sum over its containers, or an init container's amount where that is more. A limit
/// holds for the pod only when each container has one.
pub fn pod_resources(containers: &[Resources], init_containers: &[Resources]) -> Resources {
    let request = |of: fn(&Resources) -> Option<u64>| -> Option<u64> {
        let sum: u64 = containers.iter().filter_map(of).sum();
        let most = sum.max(init_containers.iter().filter_map(of).max().unwrap_or(0));
        (most > 0).then_some(most)
    };
    let limit = |of: fn(&Resources) -> Option<u64>| -> Option<u64> {
        let sum: u64 = containers.iter().map(of).sum::<Option<u64>>()?;
        let init: Vec<u64> = init_containers.iter().map(of).collect::<Option<_>>()?;
        let most = sum.max(init.into_iter().max().unwrap_or(0));
        (most > 0).then_some(most)
    };
    Resources {
        cpu_request: request(|r| r.cpu_request.or(r.cpu_limit)),
        cpu_limit: limit(|r| r.cpu_limit),
        memory_request: request(|r| r.memory_request.or(r.memory_limit)),
        memory_limit: limit(|r| r.memory_limit),
        pids_limit: limit(|r| r.pids_limit),
        huge_pages: huge_pages(containers, init_containers),
    }
}

fn huge_pages(containers: &[Resources], init_containers: &[Resources]) -> Vec<HugePages> {
    let mut most: Vec<HugePages> = Vec::new();
    let mut put = |pages: &HugePages, join: fn(u64, u64) -> u64| match most
        .iter_mut()
        .find(|known| known.page_size == pages.page_size)
    {
        Some(known) => known.limit = join(known.limit, pages.limit),
        None => most.push(pages.clone()),
    };
    for pages in containers.iter().flat_map(|container| &container.huge_pages) {
        put(pages, u64::saturating_add);
    }
    for pages in init_containers.iter().flat_map(|container| &container.huge_pages) {
        put(pages, u64::max);
    }
    most
}

/// `cpu.shares` of a request in thousandths of a CPU; 2, the least, without one.
pub fn cpu_shares(request: Option<u64>) -> u64 {
    request.map_or(2, |milli| (milli.saturating_mul(1024) / 1000).clamp(2, 262_144))
}

/// Microseconds of CPU per [`super::CPU_PERIOD`] for a limit in thousandths of a CPU.
pub fn cpu_quota(limit: u64) -> i64 {
    i64::try_from(limit.saturating_mul(super::CPU_PERIOD) / 1000).unwrap_or(i64::MAX).max(1000)
}

/// `cpu.weight` (cgroup v2) that stands for these shares.
pub(super) fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// How ready the kernel is to kill a container's processes when memory runs out. `capacity` is the node's memory.
pub fn oom_score_adj(qos: QosClass, memory_request: Option<u64>, capacity: u64) -> i32 {
    match qos {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let share = memory_request.unwrap_or(0).saturating_mul(1000) / capacity.max(1);
            1000_i32.saturating_sub(i32::try_from(share).unwrap_or(1000)).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(cpu: [Option<u64>; 2], memory: [Option<u64>; 2]) -> Resources {
        Resources {
            cpu_request: cpu[0],
            cpu_limit: cpu[1],
            memory_request: memory[0],
            memory_limit: memory[1],
            ..Resources::default()
        }
    }

    #[test]
    fn classes_follow_requests_and_limits() {
        let full = resources([Some(100), Some(100)], [Some(1), Some(1)]);
        let limits_only = resources([None, Some(100)], [None, Some(1)]);
        let some = resources([Some(100), None], [None, None]);
        let none = Resources::default();
        assert_eq!(QosClass::of([&full, &limits_only]), QosClass::Guaranteed);
        assert_eq!(QosClass::of([&full, &none]), QosClass::Burstable);
        assert_eq!(QosClass::of([&some]), QosClass::Burstable);
        assert_eq!(QosClass::of([&none, &none]), QosClass::BestEffort);
    }

    #[test]
    fn a_pod_is_limited_only_when_each_container_is() {
        let limited = resources([Some(100), Some(200)], [Some(10), Some(20)]);
        let free = resources([Some(50), None], [None, None]);
        let pod = pod_resources(&[limited.clone(), free], &[]);
        assert_eq!(
            (pod.cpu_request, pod.cpu_limit, pod.memory_request, pod.memory_limit),
            (Some(150), None, Some(10), None)
        );
        let init = resources([Some(500), Some(500)], [Some(5), Some(5)]);
        let pod = pod_resources(&[limited.clone(), limited], &[init]);
        assert_eq!(
            (pod.cpu_request, pod.cpu_limit, pod.memory_request, pod.memory_limit),
            (Some(500), Some(500), Some(20), Some(40))
        );
    }

    #[test]
    fn numbers_are_those_of_the_kubelet() {
        assert_eq!(cpu_shares(None), 2);
        assert_eq!(cpu_shares(Some(1000)), 1024);
        assert_eq!(cpu_quota(250), 25_000);
        assert_eq!(cpu_quota(1), 1000);
        assert_eq!(cpu_weight(1024), 39);
        assert_eq!(oom_score_adj(QosClass::Burstable, Some(1 << 30), 4 << 30), 750);
        assert_eq!(oom_score_adj(QosClass::Burstable, None, 4 << 30), 999);
    }
}
