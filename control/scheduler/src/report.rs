//! What the scheduler writes: bindings, and for pods that cannot be placed a condition and an event.

use std::sync::Arc;

use weir_client::{Client, Error, Modified, Recorder, Severity};
use weir_proto::core::v1::{Binding, ObjectReference, Pod, PodCondition};
use weir_proto::meta::v1::{ObjectMeta, Time};

use crate::pod::PodInfo;

const CONDITION: &str = "PodScheduled";

/// Why a pod has no node, as its condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unplaced {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Unplaced {
    pub(crate) fn unschedulable(message: String) -> Self {
        Self { reason: "Unschedulable", message }
    }

    pub(crate) fn gated() -> Self {
        let message = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
        Self { reason: "SchedulingGated", message }
    }

    /// Whether the pod's condition says so already.
    pub(crate) fn is_told_by(&self, pod: &Pod) -> bool {
        let mut conditions = pod.status().conditions.iter();
        conditions.find(|condition| condition.r#type == CONDITION).is_some_and(|condition| {
            condition.status == "False"
                && condition.reason == self.reason
                && condition.message == self.message
        })
    }

    fn tell(&self, pod: &mut Pod) {
        if self.is_told_by(pod) {
            return;
        }
        let conditions = &mut pod.status_mut().conditions;
        let known = conditions.iter().position(|condition| condition.r#type == CONDITION);
        let old = known.map(|index| conditions.remove(index));
        let since = old.filter(|old| old.status == "False").and_then(|old| old.last_transition_time);
        let told = PodCondition {
            r#type: CONDITION.to_owned(),
            status: "False".to_owned(),
            reason: self.reason.to_owned(),
            message: self.message.clone(),
            last_transition_time: Some(since.unwrap_or_else(Time::now)),
            ..PodCondition::default()
        };
        conditions.insert(known.unwrap_or(conditions.len()), told);
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    client: Client,
    recorder: Recorder,
}

impl Reporter {
    pub(crate) fn new(client: Client, scheduler: &str) -> Self {
        let recorder = Recorder::new(&client, scheduler, "");
        Self { client, recorder }
    }

    /// Binds the pod, and says so.
    pub(crate) async fn bind(&self, pod: &PodInfo, node: &Arc<str>) -> Result<(), Error> {
        let meta = ObjectMeta {
            name: pod.name.clone(),
            namespace: pod.namespace().to_owned(),
            uid: pod.uid.to_string(),
            ..ObjectMeta::default()
        };
        let target =
            ObjectReference { kind: "Node".to_owned(), name: node.to_string(), ..ObjectReference::default() };
        let binding = Binding { metadata: Some(meta), target: Some(target) };
        self.client.namespaced::<Pod>(pod.namespace()).bind(&pod.name, &binding).await?;
        let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name);
        self.recorder.tell(reference(pod), Severity::Normal, "Scheduled", message);
        Ok(())
    }

    pub(crate) fn event_failed(&self, pod: &PodInfo, message: &str) {
        self.recorder.tell(reference(pod), Severity::Warning, "FailedScheduling", message);
    }

    /// Writes the condition, unless the pod has got a node, or has been replaced, or says so already.
    pub(crate) async fn write_condition(&self, pod: &PodInfo, why: &Unplaced) -> Result<(), Error> {
        let api = self.client.namespaced::<Pod>(pod.namespace());
        let told = api.modify_status(&pod.name, |present| {
            if present.meta().uid == *pod.uid && present.spec().node_name.is_empty() {
                why.tell(present);
            }
        });
        match told.await {
            Ok(Modified::Written(_) | Modified::Unchanged(_)) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn reference(pod: &PodInfo) -> ObjectReference {
    ObjectReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: pod.namespace().to_owned(),
        name: pod.name.clone(),
        uid: pod.uid.to_string(),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telling_anew_keeps_other_conditions_and_the_time_of_transition() {
        let mut pod = Pod::default();
        let ready = PodCondition { r#type: "Ready".to_owned(), ..PodCondition::default() };
        let since = Time::from_unix(1);
        let scheduled = PodCondition {
            r#type: CONDITION.to_owned(),
            status: "False".to_owned(),
            reason: "SchedulingGated".to_owned(),
            last_transition_time: Some(since),
            ..PodCondition::default()
        };
        pod.status_mut().conditions = vec![scheduled, ready];
        let why = Unplaced::unschedulable("0/1 nodes are available: 1 Insufficient cpu.".to_owned());
        assert!(!why.is_told_by(&pod));
        why.tell(&mut pod);
        assert!(why.is_told_by(&pod));
        let [scheduled, ready] = &pod.status().conditions[..] else { panic!("{pod:?}") };
        assert_eq!((&*ready.r#type, scheduled.last_transition_time), ("Ready", Some(since)));
    }
}
