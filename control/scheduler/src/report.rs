//! What the scheduler writes: bindings, for pods that cannot be placed a condition and an event, and for pods that
//! have to make room their end.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use weir_client::{Client, DeleteOptions, Error, Modified, Recorder, Severity};
use weir_proto::core::v1::{Binding, ObjectReference, Pod, PodCondition};
use weir_proto::meta::v1::{ObjectMeta, Time};

use crate::intake::{DISRUPTION_TARGET, PREEMPTED};
use crate::pod::PodInfo;

const CONDITION: &str = "PodScheduled";
/// Victims that are told to leave side by side.
const SIDE_BY_SIDE: usize = 16;

/// Why a pod has no node, as its condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unplaced {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) nomination: Nomination,
}

/// What becomes of the pod's `nominatedNodeName`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Nomination {
    Keep,
    Clear,
    Set(Arc<str>),
}

impl Nomination {
    fn is_told_by(&self, pod: &Pod) -> bool {
        let told = pod.status().nominated_node_name.as_str();
        match self {
            Self::Keep => true,
            Self::Clear => told.is_empty(),
            Self::Set(node) => told == &**node,
        }
    }

    fn tell(&self, pod: &mut Pod) {
        let told = match self {
            Self::Keep => return,
            Self::Clear => "",
            Self::Set(node) => node,
        };
        told.clone_into(&mut pod.status_mut().nominated_node_name);
    }
}

impl Unplaced {
    pub(crate) fn unschedulable(message: String, nomination: Nomination) -> Self {
        Self { reason: "Unschedulable", message, nomination }
    }

    pub(crate) fn gated() -> Self {
        let message = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
        Self { reason: "SchedulingGated", message, nomination: Nomination::Keep }
    }

    /// Whether the pod's status says so already.
    pub(crate) fn is_told_by(&self, pod: &Pod) -> bool {
        self.nomination.is_told_by(pod) && self.condition_is_told_by(pod)
    }

    fn condition_is_told_by(&self, pod: &Pod) -> bool {
        let mut conditions = pod.status().conditions.iter();
        conditions.find(|condition| condition.r#type == CONDITION).is_some_and(|condition| {
            condition.status == "False"
                && condition.reason == self.reason
                && condition.message == self.message
        })
    }

    fn tell(&self, pod: &mut Pod) {
        self.nomination.tell(pod);
        if self.condition_is_told_by(pod) {
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
    scheduler: Arc<str>,
}

impl Reporter {
    pub(crate) fn new(client: Client, scheduler: &str) -> Self {
        let recorder = Recorder::new(&client, scheduler, "");
        Self { client, recorder, scheduler: scheduler.into() }
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

    /// Writes the condition, unless the pod has got a node, or has been replaced, or says so already. False: it waits
    /// for a node no longer.
    pub(crate) async fn write_condition(&self, pod: &PodInfo, why: &Unplaced) -> Result<bool, Error> {
        self.write_waiting(pod, |present| why.tell(present)).await
    }

    /// No node is held for the pod any longer.
    pub(crate) async fn clear_nomination(&self, pod: &PodInfo) -> Result<bool, Error> {
        self.write_waiting(pod, |present| Nomination::Clear.tell(present)).await
    }

    async fn write_waiting(&self, pod: &PodInfo, change: impl Fn(&mut Pod)) -> Result<bool, Error> {
        let waits = |present: &Pod| {
            let (meta, spec) = (present.meta(), present.spec());
            meta.uid == *pod.uid && spec.node_name.is_empty() && meta.deletion_timestamp.is_none()
        };
        let api = self.client.namespaced::<Pod>(pod.namespace());
        let told = api.modify_status(&pod.name, |present| {
            if waits(present) {
                change(present);
            }
        });
        match told.await {
            Ok(Modified::Written(present) | Modified::Unchanged(present)) => Ok(waits(&present)),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Holds the node for the pod, then tells the victims to leave: in this order, so that nobody leaves for a pod
    /// that waits no longer, which is answered with false.
    pub(crate) async fn preempt(
        &self,
        pod: &PodInfo,
        why: &Unplaced,
        node: &str,
        victims: &[Arc<PodInfo>],
    ) -> Result<bool, Error> {
        if !self.write_condition(pod, why).await? {
            return Ok(false);
        }
        let victims = stream::iter(victims.to_vec());
        let told = victims.map(|victim| async move { self.evict(&victim, pod, node).await });
        told.buffer_unordered(SIDE_BY_SIDE).try_collect::<()>().await?;
        Ok(true)
    }

    /// A victim that is gone already is fine.
    async fn evict(&self, victim: &PodInfo, preemptor: &PodInfo, node: &str) -> Result<(), Error> {
        let api = self.client.namespaced::<Pod>(victim.namespace());
        let message = format!("{}: preempting to accommodate a higher priority pod", self.scheduler);
        let marked = api.modify_status(&victim.name, |present| {
            if present.meta().uid == *victim.uid {
                mark(present, &message);
            }
        });
        let gone = |error: &Error| error.is_not_found() || error.is_conflict();
        match marked.await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        }
        match api.delete(&victim.name, &DeleteOptions::only(&victim.uid)).await {
            Ok(_) => {}
            // The precondition: another pod bears the name by now.
            Err(error) if gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        let message = format!("Preempted by pod {} on node {node}", preemptor.uid);
        self.recorder.tell(reference(victim), Severity::Normal, "Preempted", message);
        Ok(())
    }
}

/// Says in the pod's conditions that it has to go, and why.
fn mark(pod: &mut Pod, message: &str) {
    let conditions = &mut pod.status_mut().conditions;
    let known = conditions.iter().position(|condition| condition.r#type == DISRUPTION_TARGET);
    if known.is_some_and(|index| conditions[index].status == "True" && conditions[index].reason == PREEMPTED)
    {
        return;
    }
    let old = known.map(|index| conditions.remove(index));
    let since = old.filter(|old| old.status == "True").and_then(|old| old.last_transition_time);
    conditions.push(PodCondition {
        r#type: DISRUPTION_TARGET.to_owned(),
        status: "True".to_owned(),
        reason: PREEMPTED.to_owned(),
        message: message.to_owned(),
        last_transition_time: Some(since.unwrap_or_else(Time::now)),
        ..PodCondition::default()
    });
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
        let message = "0/1 nodes are available: 1 Insufficient cpu.".to_owned();
        let mut why = Unplaced::unschedulable(message, Nomination::Keep);
        assert!(!why.is_told_by(&pod));
        why.tell(&mut pod);
        assert!(why.is_told_by(&pod));
        for (nomination, node) in
            [(Nomination::Set("n1".into()), "n1"), (Nomination::Keep, "n1"), (Nomination::Clear, "")]
        {
            why.nomination = nomination;
            why.tell(&mut pod);
            assert!(why.is_told_by(&pod));
            assert_eq!(pod.status().nominated_node_name, node);
        }
        let [scheduled, ready] = &pod.status().conditions[..] else { panic!("{pod:?}") };
        assert_eq!((&*ready.r#type, scheduled.last_transition_time), ("Ready", Some(since)));
    }

    fn info(pod: &Pod) -> Arc<PodInfo> {
        let (uid, name) = (pod.meta().uid.as_str().into(), pod.meta().name.clone());
        let shape = Arc::new(crate::testing::shape());
        Arc::new(PodInfo { uid, name, priority: 0, preempts: true, shape })
    }

    #[tokio::test]
    async fn nobody_has_to_leave_for_a_pod_that_waits_no_longer() {
        let server = weir_client::fake::FakeServer::default();
        let pod = |name: &str, node: &str| {
            let mut pod = Pod::default();
            pod.meta_mut().name = name.to_owned();
            pod.meta_mut().namespace = "default".to_owned();
            pod.spec_mut().node_name = node.to_owned();
            server.put(&pod);
            server.get::<Pod>("default", name).unwrap()
        };
        let (victim, placed, waiting) = (pod("victim", "n1"), pod("placed", "n2"), pod("waiting", ""));
        let gone = Pod {
            metadata: Some(ObjectMeta { uid: "old".to_owned(), ..waiting.meta().clone() }),
            ..pod("x", "")
        };
        let reporter = Reporter::new(server.client(), "default-scheduler");
        let why = Unplaced::unschedulable("no room".to_owned(), Nomination::Set("n1".into()));
        let leaves = || server.get::<Pod>("default", "victim").unwrap().meta().deletion_timestamp.is_some();
        for preemptor in [&placed, &gone] {
            let told = reporter.preempt(&info(preemptor), &why, "n1", &[info(&victim)]).await;
            assert!(matches!(told, Ok(false)), "{told:?}");
            assert!(!leaves());
        }
        let told = reporter.preempt(&info(&waiting), &why, "n1", &[info(&victim)]).await;
        assert!(matches!(told, Ok(true)), "{told:?}");
        assert!(leaves());
        assert_eq!(server.get::<Pod>("default", "waiting").unwrap().status().nominated_node_name, "n1");
        // A victim whose name another pod bears by now is left alone.
        let old = Arc::new(PodInfo { uid: "older".into(), ..(*info(&placed)).clone() });
        assert!(matches!(reporter.preempt(&info(&waiting), &why, "n1", &[old]).await, Ok(true)));
        assert!(server.get::<Pod>("default", "placed").unwrap().meta().deletion_timestamp.is_none());
    }
}
