//! Who has to leave a node with `NoExecute` taints, and when. Pure.

use weir_proto::core::v1::{Pod, Taint, Toleration};
use weir_proto::meta::v1::Time;

use super::plan::{self, NO_EXECUTE};

/// For a node that is down, where a pod does not say how long it would stay (as Kubernetes' admission adds it).
const DEFAULT_STAY: i64 = 300;

/// When the pod has to go, in Unix seconds; None where it may stay.
pub(super) fn leaves_at(pod: &Pod, taints: &[Taint], now: Time) -> Option<i64> {
    let driving = taints.iter().filter(|taint| taint.effect == NO_EXECUTE);
    driving.filter_map(|taint| leaves_one_at(&pod.spec().tolerations, taint, now)).min()
}

fn leaves_one_at(tolerations: &[Toleration], taint: &Taint, now: Time) -> Option<i64> {
    let since = taint.time_added.unwrap_or(now).unix();
    let tolerating: Vec<&Toleration> =
        tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
    if tolerating.is_empty() {
        let stay = if plan::is_ours_to_evict(taint) { DEFAULT_STAY } else { 0 };
        return Some(since + stay);
    }
    // Without a limit of its own, a toleration is for ever; of several limits the shortest counts.
    let limits = tolerating.iter().filter_map(|toleration| toleration.toleration_seconds);
    limits.min().map(|seconds| since + seconds.max(0))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.is_empty() || toleration.effect == taint.effect;
    let key = toleration.key.is_empty() || toleration.key == taint.key;
    let value = match toleration.operator.as_str() {
        "Exists" => true,
        // An empty key tolerates everything, but only with Exists.
        _ => !toleration.key.is_empty() && toleration.value == taint.value,
    };
    effect && key && value
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINCE: i64 = 1000;

    fn taint(key: &str) -> Taint {
        Taint {
            key: key.to_owned(),
            effect: NO_EXECUTE.to_owned(),
            time_added: Some(Time::from_unix(SINCE)),
            ..Taint::default()
        }
    }

    fn toleration(key: &str, operator: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: key.to_owned(),
            operator: operator.to_owned(),
            toleration_seconds: seconds,
            ..Toleration::default()
        }
    }

    fn leaves(tolerations: Vec<Toleration>, taints: &[Taint]) -> Option<i64> {
        let mut pod = Pod::default();
        pod.spec_mut().tolerations = tolerations;
        leaves_at(&pod, taints, Time::from_unix(SINCE + 1)).map(|at| at - SINCE)
    }

    #[test]
    fn tolerations_decide_how_long_a_pod_stays() {
        let down = [taint(plan::UNREACHABLE)];
        let other = [taint("example.com/drain")];
        assert_eq!(leaves(vec![], &down), Some(300), "five minutes unless it says otherwise");
        assert_eq!(leaves(vec![], &other), Some(0));
        assert_eq!(leaves(vec![toleration(plan::UNREACHABLE, "Exists", Some(20))], &down), Some(20));
        assert_eq!(leaves(vec![toleration(plan::UNREACHABLE, "Exists", None)], &down), None);
        assert_eq!(leaves(vec![toleration("", "Exists", None)], &other), None);
        assert_eq!(leaves(vec![toleration("", "Equal", None)], &other), Some(0));
        assert_eq!(leaves(vec![toleration("", "Exists", Some(-5))], &other), Some(0));
    }

    #[test]
    fn of_several_the_shortest_stay_counts() {
        let tolerations = vec![
            toleration(plan::UNREACHABLE, "Exists", Some(60)),
            toleration("", "Exists", Some(30)),
            toleration("example.com/drain", "Exists", None),
        ];
        assert_eq!(leaves(tolerations.clone(), &[taint(plan::UNREACHABLE)]), Some(30));
        assert_eq!(leaves(tolerations, &[taint("example.com/drain"), taint(plan::UNREACHABLE)]), Some(30));
    }

    #[test]
    fn taints_of_other_effects_drive_nobody_off() {
        let taint = Taint { effect: "NoSchedule".to_owned(), ..taint("x") };
        assert_eq!(leaves(vec![], &[taint]), None);
    }
}
