//! What the controllers read off a pod.

use weir_proto::core::v1::{Pod, PodCondition};
use weir_proto::meta::v1::Time;

/// Put on a pod that is to end, with its deletion timestamp or by its node, where clients may still be sent to it. Agents
/// and the API server know it by this name.
pub(crate) const NO_NEW_FLOWS: &str = "weir.dev/NoNewFlows";

pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status().conditions.iter().find(|condition| condition.r#type == kind)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Ready, and has been for `min_ready_seconds`.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Time) -> bool {
    available_at(pod, min_ready_seconds).is_some_and(|at| at <= now.unix())
}

/// When the pod is available, in Unix seconds, if it stays ready; None while it is not.
pub(crate) fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<i64> {
    let ready = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    if min_ready_seconds <= 0 {
        return Some(i64::MIN);
    }
    Some(ready.last_transition_time?.unix() + i64::from(min_ready_seconds))
}

/// Has ended, and will not run again.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status().phase.as_str(), "Succeeded" | "Failed")
}

pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.meta().deletion_timestamp.is_some()
}

/// Is to end, because it was deleted or because its node ends it.
pub(crate) fn is_leaving(pod: &Pod) -> bool {
    is_terminating(pod) || condition(pod, NO_NEW_FLOWS).is_some()
}

/// Runs or is about to.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_terminating(pod)
}
