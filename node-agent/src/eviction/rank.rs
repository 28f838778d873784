//! Who goes first when a resource runs out: the kubelet's order. Pure.
//!
//! - memory: who uses more than it requested, then the lower priority, then who is the furthest above its request.
//! - disk: the same of ephemeral storage (of inodes nothing can be requested).
//! - process ids: the lower priority, then who has more.

use std::cmp::Reverse;

use super::signals::Signal;

/// A pod that could be evicted, and what it uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) uid: String,
    pub(crate) priority: i32,
    /// Static pods and those of the system stay.
    pub(crate) critical: bool,
    pub(crate) requested: Amounts,
    pub(crate) used: Amounts,
    pub(crate) containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) requested: Amounts,
    pub(crate) used: Amounts,
}

/// Bytes, or a count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) memory: u64,
    pub(crate) disk: u64,
    pub(crate) inodes: u64,
    pub(crate) pids: u64,
}

impl Amounts {
    pub(crate) fn of(&self, signal: Signal) -> u64 {
        match signal {
            Signal::Memory => self.memory,
            Signal::NodeDisk | Signal::ImageDisk => self.disk,
            Signal::NodeInodes | Signal::ImageInodes => self.inodes,
            Signal::Pids => self.pids,
        }
    }
}

/// First to go, first.
pub(crate) fn rank(pods: &mut [Candidate], signal: Signal) {
    let key = |pod: &Candidate| {
        let (used, requested) = (pod.used.of(signal), pod.requested.of(signal));
        let above = i128::from(used) - i128::from(requested);
        let exceeds = signal != Signal::Pids && above > 0;
        (!exceeds, pod.priority, Reverse(above))
    };
    // Equal ones in the order of their uids: the same pods are ranked alike whoever asks.
    pods.sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| a.uid.cmp(&b.uid)));
}

/// The one to evict.
pub(crate) fn victim(mut pods: Vec<Candidate>, signal: Signal) -> Option<Candidate> {
    rank(&mut pods, signal);
    pods.into_iter().find(|pod| !pod.critical)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Priority, requested, used.
    fn pod(uid: &str, priority: i32, requested: u64, used: u64) -> Candidate {
        let amounts = |amount| Amounts { memory: amount, disk: amount, inodes: amount, pids: amount };
        Candidate {
            uid: uid.to_owned(),
            priority,
            requested: Amounts { pids: 0, inodes: 0, ..amounts(requested) },
            used: amounts(used),
            ..Candidate::default()
        }
    }

    fn order(mut pods: Vec<Candidate>, signal: Signal) -> Vec<String> {
        rank(&mut pods, signal);
        pods.into_iter().map(|pod| pod.uid).collect()
    }

    #[test]
    fn who_uses_more_than_it_asked_for_goes_first_whatever_its_priority() {
        let pods = vec![
            pod("guaranteed", 0, 100, 90),
            pod("important above", 1000, 100, 120),
            pod("best effort", 0, 0, 10),
            pod("burstable far above", 0, 10, 80),
        ];
        let expected = ["burstable far above", "best effort", "important above", "guaranteed"];
        assert_eq!(order(pods.clone(), Signal::Memory), expected);
        assert_eq!(order(pods, Signal::NodeDisk), expected);
    }

    #[test]
    fn of_process_ids_priority_decides_then_number() {
        let pods = vec![pod("a", 10, 0, 500), pod("b", 0, 0, 5), pod("c", 0, 0, 50)];
        assert_eq!(order(pods, Signal::Pids), ["c", "b", "a"]);
    }

    #[test]
    fn critical_pods_stay() {
        let mut pods = vec![pod("static", 0, 0, 1000), pod("other", 100, 100, 1)];
        pods[0].critical = true;
        assert_eq!(victim(pods.clone(), Signal::Memory).map(|pod| pod.uid).as_deref(), Some("other"));
        pods.remove(1);
        assert_eq!(victim(pods, Signal::Memory), None);
    }

    fn any_pod() -> impl Strategy<Value = Candidate> {
        ("[a-z]{3}", -5..5_i32, 0..50_u64, 0..50_u64)
            .prop_map(|(uid, priority, requested, used)| pod(&uid, priority, requested, used))
    }

    proptest! {
        #[test]
        fn the_order_does_not_depend_on_who_stood_where(pods in proptest::collection::vec(any_pod(), 0..8)) {
            for signal in [Signal::Memory, Signal::NodeDisk, Signal::NodeInodes, Signal::Pids] {
                let mut reversed = pods.clone();
                reversed.reverse();
                let (mut one, mut other) = (pods.clone(), reversed);
                rank(&mut one, signal);
                rank(&mut other, signal);
                let shape = |pods: &[Candidate]| {
                    pods.iter().map(|pod| (pod.priority, pod.used, pod.requested)).collect::<Vec<_>>()
                };
                let same_uids = pods.iter().map(|pod| &pod.uid).collect::<std::collections::BTreeSet<_>>().len()
                    < pods.len();
                prop_assert!(same_uids || shape(&one) == shape(&other));
            }
        }

        #[test]
        fn nobody_within_its_request_goes_before_one_above(pods in proptest::collection::vec(any_pod(), 0..8)) {
            let mut ranked = pods;
            rank(&mut ranked, Signal::Memory);
            let above: Vec<bool> = ranked.iter().map(|pod| pod.used.memory > pod.requested.memory).collect();
            prop_assert!(above.is_sorted_by(|first, second| first >= second));
        }
    }
}
