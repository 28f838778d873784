//! Static pods among the node's pods: which workers there are for them, and what their workers do otherwise.
//!
//! A static pod's status lives with its worker; its mirror shows it. A pod whose file went or changed is ended as a deleted
//! one is, with its grace period; one of the same name waits until nothing of it is left. What was started is noted in
//! `static-pods/UID.json`, so that an agent that finds its file gone knows how to end it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use weir_proto::core::v1::{Pod, PodStatus};
use weir_proto::meta::v1::Time;
use weir_proto::{Object, Resource};

use super::end;
use super::mirror::{is_static_uid, local_uid};
use super::observed::Observed;
use super::status::status;
use super::worker::{REPORT_AGAIN, Worker};
use super::{Pods, Slot};
use crate::static_pods::Wanted;

/// What is to become of static pods. Pure.
#[derive(Debug, Default, PartialEq, Eq)]
struct Turns {
    start: Vec<String>,
    end: Vec<String>,
}

/// `present`: uids of static pods with a worker, and their full names where these are known.
fn turns(wanted: &Wanted, present: &BTreeMap<String, Option<String>>) -> Turns {
    let mut taken: BTreeMap<&str, &str> =
        present.iter().filter_map(|(uid, name)| Some((name.as_deref()?, uid.as_str()))).collect();
    let names: BTreeMap<&str, String> =
        wanted.iter().map(|(uid, pod)| (uid.as_str(), full_name(pod))).collect();
    let mut turns = Turns::default();
    for (uid, name) in &names {
        if !present.contains_key(*uid) && !taken.contains_key(name.as_str()) {
            taken.insert(name, uid);
            turns.start.push((*uid).to_owned());
        }
    }
    turns.end = present.keys().filter(|uid| !wanted.contains_key(*uid)).cloned().collect();
    turns
}

fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.meta().namespace, pod.meta().name)
}

/// As the API would mark it: deleted, with its own grace period.
fn deleted(pod: &Pod, now: Timestamp) -> Pod {
    let mut pod = pod.clone();
    let grace = pod.spec().termination_grace_period_seconds.unwrap_or(30).max(0);
    let meta = pod.meta_mut();
    meta.deletion_timestamp = Some(Time::from_unix(now.as_second().saturating_add(grace)));
    meta.deletion_grace_period_seconds = Some(grace);
    pod
}

impl Pods {
    /// Brings the workers in line with the files.
    pub(super) fn follow_files(&mut self) {
        let Some(wanted) = self.static_pods.borrow_and_update().clone() else { return };
        let mut present: BTreeMap<String, Option<String>> = BTreeMap::new();
        for (uid, slot) in self.slots.iter().filter(|(uid, _)| is_static_uid(uid)) {
            present.insert(uid.clone(), slot.pod.borrow().as_deref().map(full_name));
        }
        // What an earlier agent left, whose file may be gone by now.
        for uid in self.found.keys().filter(|uid| is_static_uid(uid) && !wanted.contains_key(*uid)) {
            present.insert(uid.clone(), self.recorded(uid).as_ref().map(full_name));
        }
        let turns = turns(&wanted, &present);
        for uid in turns.end {
            self.end_static(&uid);
        }
        for uid in turns.start {
            if let Some(pod) = wanted.get(&uid) {
                self.record(&uid, pod);
                self.tell(&uid, Some(Arc::clone(pod)));
            }
        }
    }

    fn end_static(&mut self, uid: &str) {
        let pod = match self.slots.get(uid) {
            Some(slot) => slot.pod.borrow().clone(),
            None => self.recorded(uid).map(Arc::new),
        };
        match pod {
            Some(pod) if pod.meta().deletion_timestamp.is_some() => {}
            Some(pod) => self.tell(uid, Some(Arc::new(deleted(&pod, Timestamp::now())))),
            None => self.tell(uid, None),
        }
    }

    /// Shows each static pod's worker the mirror, as the watch brings it.
    pub(super) fn show_mirror(&mut self, mirror: &Arc<Pod>, gone: bool) {
        if let Some(Slot { mirror: Some(shown), wake, .. }) = self.slots.get(local_uid(mirror)) {
            shown.send_replace((!gone).then(|| Arc::clone(mirror)));
            wake.notify_one();
        }
    }

    fn record_path(&self, uid: &str) -> PathBuf {
        self.context.static_records.join(format!("{uid}.json"))
    }

    fn record(&self, uid: &str, pod: &Pod) {
        let (path, text) = (self.record_path(uid), pod.to_json().to_string());
        let write = || {
            fs::create_dir_all(&self.context.static_records)?;
            let beside = path.with_extension("new");
            fs::write(&beside, text)?;
            fs::rename(beside, &path)
        };
        if let Err(error) = write() {
            tracing::warn!(path = %path.display(), %error, "cannot note down a static pod");
        }
    }

    fn recorded(&self, uid: &str) -> Option<Pod> {
        let value = serde_json::from_slice(&fs::read(self.record_path(uid)).ok()?).ok()?;
        Pod::KIND.from_json(&value, &mut Vec::new()).ok()?.downcast_ref::<Pod>().cloned()
    }

    /// Nothing of it is left.
    pub(super) fn forget_static(&mut self, uid: &str) {
        if is_static_uid(uid) {
            let _ = fs::remove_file(self.record_path(uid));
            self.follow_files();
        }
    }
}

impl Worker {
    /// The static pod with the status that was found last.
    pub(super) fn with_said(&self, pod: Arc<Pod>) -> Arc<Pod> {
        let Some(mut said) = self.said.clone() else { return pod };
        if let Some(mirror) = self.mirror.as_ref().and_then(|mirror| mirror.borrow().clone()) {
            end::hear(&mut said, mirror.status());
        }
        Arc::new(Pod { status: Some(said), ..Pod::clone(&pod) })
    }

    /// Keeps the status and shows it by the mirror, if there is one.
    pub(super) async fn report_static(&mut self, pod: &Pod, seen: &Observed) -> Option<Timestamp> {
        let said = status(pod, seen, &self.addresses(pod), self.context.node_ip, Timestamp::now());
        self.said = Some(said.clone());
        let shown = self.mirror.as_mut()?.borrow_and_update().clone()?;
        let revision = |pod: &Pod| pod.meta().resource_version.parse::<u64>().unwrap_or(0);
        let written = self
            .written
            .take()
            .filter(|written| written.meta().uid == shown.meta().uid && revision(written) > revision(&shown));
        self.written.clone_from(&written);
        let mirror = written.unwrap_or(shown);
        if local_uid(&mirror) != self.uid || mirror.meta().deletion_timestamp.is_some() {
            return None;
        }
        let wanted = as_mirror(said, &mirror);
        if mirror.status.as_ref() == Some(&wanted) {
            return None;
        }
        let update = Pod { status: Some(wanted), ..Pod::clone(&mirror) };
        let api = self.context.client.namespaced::<Pod>(&mirror.meta().namespace);
        match api.update_status(&update).await {
            Ok(written) => {
                self.written = Some(Arc::new(written));
                return None;
            }
            // Another mirror is about to be shown, or this one as somebody else left it.
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => tracing::debug!(pod = pod.meta().name, %error, "cannot report a mirror's status"),
        }
        let wait = jiff::SignedDuration::try_from(REPORT_AGAIN).unwrap_or_default();
        Timestamp::now().checked_add(wait).ok()
    }
}

/// What others said of the mirror stays.
fn as_mirror(mut said: PodStatus, mirror: &Pod) -> PodStatus {
    let generation = mirror.meta().generation;
    said.observed_generation = generation;
    for condition in &mut said.conditions {
        condition.observed_generation = generation;
    }
    let known = |kind: &str| said.conditions.iter().any(|condition| condition.r#type == kind);
    let foreign = mirror.status().conditions.iter().filter(|condition| !known(&condition.r#type));
    let foreign: Vec<_> = foreign.cloned().collect();
    said.conditions.extend(foreign);
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.meta_mut().name = name.to_owned();
        pod.meta_mut().namespace = "default".to_owned();
        Arc::new(pod)
    }

    fn wanted(pods: &[(&str, &str)]) -> Wanted {
        pods.iter().map(|(uid, name)| ((*uid).to_owned(), pod(name))).collect()
    }

    fn present(pods: &[(&str, &str)]) -> BTreeMap<String, Option<String>> {
        pods.iter().map(|(uid, name)| ((*uid).to_owned(), Some(format!("default/{name}")))).collect()
    }

    #[test]
    fn a_changed_pod_waits_until_nothing_is_left_of_the_one_before() {
        let new = wanted(&[("2", "web")]);
        let changed = turns(&new, &present(&[("1", "web")]));
        assert_eq!(changed, Turns { start: vec![], end: vec!["1".to_owned()] });
        assert_eq!(turns(&new, &present(&[])), Turns { start: vec!["2".to_owned()], end: vec![] });
        assert_eq!(turns(&new, &present(&[("2", "web")])), Turns::default());
    }

    #[test]
    fn of_two_files_with_one_name_one_runs_and_the_other_waits() {
        let both = wanted(&[("1", "web"), ("2", "web"), ("3", "other")]);
        let first = turns(&both, &present(&[]));
        assert_eq!(first.start, ["1", "3"]);
        assert_eq!(turns(&both, &present(&[("1", "web"), ("3", "other")])), Turns::default());
        // One of which not even the name is known goes, and keeps nobody waiting.
        let unknown = [("9".to_owned(), None)].into();
        assert_eq!(turns(&wanted(&[]), &unknown).end, ["9"]);
    }

    #[test]
    fn the_end_leaves_the_pods_own_grace_period() {
        let mut web = Pod::clone(&pod("web"));
        web.spec_mut().termination_grace_period_seconds = Some(7);
        let gone = deleted(&web, Timestamp::from_second(100).expect("a time"));
        assert_eq!(gone.meta().deletion_timestamp.map(|time| time.unix()), Some(107));
    }
}
