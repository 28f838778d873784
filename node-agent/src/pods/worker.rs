//! One pod's worker: looks, reports, plans, performs, waits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use weir_client::Backoff;
use weir_network::PodAttachment;
use weir_proto::core::v1::{ContainerStatus as Said, ContainerUser, Pod, PodStatus};
use weir_runtime::{ContainerKey, Sandbox};

use super::Context;
use super::eviction::Ending;
use super::mirror::is_static_uid;
use super::observed::{Failure, Observed, Probed, exit, runs_again};
use super::perform::find_container;
use super::plan::plan;
use super::probes::{Prober, Target};
use super::sources::Versions;
use super::status::status;
use super::volumes::Refresher;

/// How soon a status that could not be written is tried again.
pub(super) const REPORT_AGAIN: Duration = Duration::from_secs(2);
/// A control plane that hears and does not answer keeps no pod from what it needs.
const LONGEST_REPORT: Duration = Duration::from_secs(3);

pub(super) struct Worker {
    pub(super) context: Arc<Context>,
    pub(super) uid: String,
    pub(super) wake: Arc<Notify>,
    pub(super) memory: Memory,
    pod: watch::Receiver<Option<Arc<Pod>>>,
    /// The pod as our last write left it, which the watch may not have brought yet; of a static pod, its mirror.
    pub(super) written: Option<Arc<Pod>>,
    /// Of static pods: their mirrors, as the watch brings them, and what was found last.
    pub(super) mirror: Option<watch::Receiver<Option<Arc<Pod>>>>,
    pub(super) said: Option<PodStatus>,
    backoff: Backoff,
}

/// What the worker remembers between rounds. All of it can be found out again, but for how often things failed.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) sandbox: Option<Sandbox>,
    pub(super) attachment: Option<PodAttachment>,
    pub(super) volumes: bool,
    /// Versions of what the volumes show, until the refresher knows better.
    pub(super) shown: Option<Versions>,
    pub(super) renew_at: Option<tokio::time::Instant>,
    pub(super) refresher: Option<Refresher>,
    pub(super) released: bool,
    pub(super) leftovers: bool,
    pub(super) confirmed: bool,
    /// The end that this node gave the pod.
    pub(super) ending: Option<Ending>,
    pub(super) setup: Option<Failure>,
    pub(super) starts: BTreeMap<String, Failure>,
    pub(super) crashes: BTreeMap<String, u32>,
    /// Shared with the tasks that wait for the end.
    pub(super) stopping: Arc<Mutex<BTreeMap<ContainerKey, Timestamp>>>,
    pub(super) probers: BTreeMap<ContainerKey, Option<Prober>>,
    /// Messages of runs that have ended.
    pub(super) last_words: BTreeMap<ContainerKey, String>,
    pub(super) users: BTreeMap<ContainerKey, ContainerUser>,
    /// Waits that an event has told of.
    told: BTreeSet<ContainerKey>,
    /// Failed pulls whose waits an event has told of: how many there were, by container.
    told_pulls: BTreeMap<String, u32>,
    /// Since when it is known that no new connections come to a pod that is to end.
    pub(super) quiet_since: Option<Timestamp>,
    /// It was told that the pod ends although they may.
    pub(super) unacknowledged: bool,
}

/// What the API wants of the worker, listened to while a step takes its time.
pub(super) struct Commands(watch::Receiver<Option<Arc<Pod>>>);

impl Commands {
    /// Returns once the pod is to end, or the agent is.
    pub(super) async fn dismissed(&mut self) {
        let ends =
            |pod: &Option<Arc<Pod>>| pod.as_ref().is_none_or(|pod| pod.meta().deletion_timestamp.is_some());
        let _ = self.0.wait_for(ends).await;
    }
}

impl Worker {
    pub(super) fn new(
        context: Arc<Context>,
        uid: String,
        pod: watch::Receiver<Option<Arc<Pod>>>,
        wake: Arc<Notify>,
        found: Option<Option<Sandbox>>,
        mirror: Option<watch::Receiver<Option<Arc<Pod>>>>,
    ) -> Self {
        let leftovers = found.is_some();
        let mut memory = Memory { leftovers, sandbox: found.flatten(), ..Memory::default() };
        if !is_static_uid(&uid) {
            memory.ending = context.runtime.pod_directory(&uid).ok().and_then(|dir| Ending::load(&dir));
        }
        for run in context.runtime.list_pod(&uid) {
            let crashes = memory.crashes.entry(run.key.name).or_default();
            *crashes = run.key.restart.max(*crashes);
        }
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        Self { context, uid, wake, memory, pod, written: None, mirror, said: None, backoff }
    }

    /// Ends, with the pod's uid, when the API no longer knows the pod and nothing of it is left.
    pub(super) async fn run(mut self) -> String {
        loop {
            let pod = self.present();
            self.take_ending(pod.as_deref());
            self.end_overdue(pod.as_deref());
            self.admit(pod.as_deref());
            self.tend_probers(pod.as_deref());
            self.look_at_users();
            self.tend_end(pod.as_deref());
            if let Some(pod) = &pod {
                self.read_last_words(pod).await;
            }
            let seen = self.observe(pod.as_deref());
            self.tend_refresher(pod.as_ref(), !seen.runs.is_empty()).await;
            let mut again = match &pod {
                Some(pod) => match tokio::time::timeout(LONGEST_REPORT, self.report(pod, &seen)).await {
                    Ok(again) => again,
                    Err(_) => again_after(REPORT_AGAIN),
                },
                None => None,
            };
            let plan = plan(pod.as_deref(), &seen, Timestamp::now());
            if plan.steps.is_empty() {
                if pod.is_none() || (self.mirror.is_some() && self.memory.confirmed) {
                    return self.uid;
                }
                self.tell_of_waits(pod.as_deref(), &seen);
                again = again.into_iter().chain(plan.wake).min();
            } else if self.perform_all(pod.as_ref(), plan.steps).await {
                self.backoff.reset();
                continue;
            } else {
                let delay = jiff::SignedDuration::try_from(self.backoff.delay()).unwrap_or_default();
                again = Timestamp::now().checked_add(delay).ok().into_iter().chain(plan.wake).min();
            }
            if !self.wait(again).await {
                return self.uid;
            }
        }
    }

    async fn perform_all(&mut self, pod: Option<&Arc<Pod>>, steps: Vec<super::plan::Step>) -> bool {
        for step in steps {
            if !self.perform(pod, step).await {
                return false;
            }
        }
        true
    }

    /// False when there is nobody left to work for.
    async fn wait(&mut self, until: Option<Timestamp>) -> bool {
        let sleep = async {
            match until {
                Some(at) => {
                    let left = at.duration_since(Timestamp::now());
                    tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.pod.changed() => changed.is_ok(),
            () = self.wake.notified() => true,
            () = sleep => true,
        }
    }

    pub(super) fn commands(&self) -> Commands {
        Commands(self.pod.clone())
    }

    pub(super) fn follow_pod(&self) -> watch::Receiver<Option<Arc<Pod>>> {
        self.pod.clone()
    }

    /// The newest state of the pod that is known.
    fn present(&mut self) -> Option<Arc<Pod>> {
        let watched = self.pod.borrow_and_update().clone()?;
        if self.mirror.is_some() {
            return Some(self.with_said(watched));
        }
        let revision = |pod: &Pod| pod.meta().resource_version.parse::<u64>().unwrap_or(0);
        let written = self.written.take().filter(|written| revision(written) > revision(&watched));
        self.written.clone_from(&written);
        Some(written.unwrap_or(watched))
    }

    pub(super) fn addresses(&self, pod: &Pod) -> Vec<IpAddr> {
        if pod.spec().host_network {
            return vec![self.context.node_ip];
        }
        self.memory.attachment.as_ref().map_or_else(Vec::new, |attachment| attachment.addresses.clone())
    }

    fn observe(&self, pod: Option<&Pod>) -> Observed {
        let memory = &self.memory;
        let mut runs = BTreeMap::<String, Vec<_>>::new();
        for run in self.context.runtime.list_pod(&self.uid) {
            runs.entry(run.key.name.clone()).or_default().push(run);
        }
        for runs in runs.values_mut() {
            runs.sort_by_key(|run| run.key.restart);
        }
        let mut stopping = memory.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        stopping.retain(|key, _| runs.values().flatten().any(|run| run.key == *key));
        let probed = memory
            .probers
            .iter()
            .filter_map(|(key, prober)| Some((key.name.clone(), prober.as_ref()?.probed())));
        Observed {
            sandbox: memory.sandbox.is_some(),
            attached: memory.attachment.is_some()
                || (memory.sandbox.is_some() && pod.is_some_and(|pod| pod.spec().host_network)),
            volumes: memory.volumes,
            released: memory.released,
            leftovers: memory.leftovers,
            confirmed: memory.confirmed,
            ending: memory.ending.clone(),
            stopping: stopping.clone(),
            setup: memory.setup.clone(),
            starts: memory.starts.clone(),
            crashes: memory.crashes.clone(),
            last_words: memory.last_words.clone(),
            users: memory.users.clone(),
            probed: probed.collect(),
            hold: self.hold(),
            runs,
        }
    }

    /// One prober for each running container with probes; those of ended runs are dropped.
    fn tend_probers(&mut self, pod: Option<&Pod>) {
        let seen = self.observe(pod);
        let running: BTreeSet<ContainerKey> = seen
            .runs
            .values()
            .filter_map(|runs| runs.last())
            .filter(|run| matches!(run.state, weir_runtime::ContainerState::Running { .. }))
            .map(|run| run.key.clone())
            .collect();
        self.memory.probers.retain(|key, _| running.contains(key));
        let Some(pod) = pod else { return };
        let Some(address) = self.addresses(pod).first().copied() else { return };
        let containers = pod.spec().containers.iter().chain(&pod.spec().init_containers);
        for container in containers {
            let Some(run) = seen.latest(&container.name) else { continue };
            if !running.contains(&run.key) || self.memory.probers.contains_key(&run.key) {
                continue;
            }
            let target = Target {
                runtime: Arc::clone(&self.context.runtime),
                key: run.key.clone(),
                address,
                container: container.clone(),
                about: self.about(pod, &container.name),
                recorder: self.context.recorder.clone(),
                wake: Arc::clone(&self.wake),
            };
            let prober = Prober::start(target, said_before(pod, &run.id));
            self.memory.probers.insert(run.key.clone(), prober);
        }
    }

    /// Writes the status if it differs; returns when to try again if that failed.
    async fn report(&mut self, pod: &Arc<Pod>, seen: &Observed) -> Option<Timestamp> {
        if self.memory.confirmed {
            return None;
        }
        if self.mirror.is_some() {
            return self.report_static(pod, seen).await;
        }
        let mut base = Arc::clone(pod);
        let api = self.context.client.namespaced::<Pod>(&pod.meta().namespace);
        // A conflict says that the base is old: look and try again, once or twice.
        for _ in 0..3 {
            let wanted = status(&base, seen, &self.addresses(&base), self.context.node_ip, Timestamp::now());
            if base.status.as_ref() == Some(&wanted) {
                return None;
            }
            let mut update = Pod::clone(&base);
            update.status = Some(wanted);
            let error = match api.update_status(&update).await {
                Ok(written) => {
                    self.written = Some(Arc::new(written));
                    return None;
                }
                Err(error) => error,
            };
            if error.is_not_found() {
                return None;
            }
            if !error.is_conflict() {
                tracing::warn!(pod = pod.meta().name, %error, "cannot report a pod's status");
                break;
            }
            match api.get_opt(&pod.meta().name).await {
                Ok(Some(fresh)) if fresh.meta().uid == self.uid => base = Arc::new(fresh),
                Ok(_) => return None,
                Err(error) => {
                    tracing::warn!(pod = pod.meta().name, %error, "cannot read a pod");
                    break;
                }
            }
        }
        again_after(REPORT_AGAIN)
    }

    /// An event for each wait before a restart, once.
    fn tell_of_waits(&mut self, pod: Option<&Pod>, seen: &Observed) {
        let Some(pod) = pod else { return };
        for (is_init, container) in all_containers(pod) {
            let Some(run) = seen.latest(&container.name) else { continue };
            let waits = exit(run).is_some_and(|exit| {
                runs_again(pod, container, is_init, exit)
                    && seen.restart_at(&container.name, exit) > Timestamp::now()
            });
            if waits && self.memory.told.insert(run.key.clone()) {
                let message = format!(
                    "Back-off restarting failed container {} in pod {}_{}({})",
                    container.name,
                    pod.meta().name,
                    pod.meta().namespace,
                    self.uid
                );
                self.warn(pod, &container.name, "BackOff", message);
            }
        }
        self.memory.told.retain(|key| seen.runs.values().flatten().any(|run| run.key == *key));
        self.tell_of_pulls(pod, seen);
    }

    /// The same for each wait before a pull is tried again.
    fn tell_of_pulls(&mut self, pod: &Pod, seen: &Observed) {
        self.memory.told_pulls.retain(|container, _| seen.starts.contains_key(container));
        for (name, failure) in seen.starts.iter().filter(|(_, failure)| failure.reason == "ErrImagePull") {
            let Some(container) = find_container(pod, name) else { continue };
            let told = self.memory.told_pulls.insert(container.name.clone(), failure.attempts);
            if told != Some(failure.attempts) {
                let image = failure.image.as_ref().unwrap_or(&container.image);
                let message = format!("Back-off pulling image \"{image}\"");
                self.tell(pod, &container.name, "BackOff", message);
                self.warn(pod, &container.name, "Failed", "Error: ImagePullBackOff".to_owned());
            }
        }
    }
}

fn again_after(wait: Duration) -> Option<Timestamp> {
    Timestamp::now().checked_add(jiff::SignedDuration::try_from(wait).unwrap_or_default()).ok()
}

/// Init containers first.
pub(super) fn all_containers(pod: &Pod) -> impl Iterator<Item = (bool, &weir_proto::core::v1::Container)> {
    let init = pod.spec().init_containers.iter().map(|container| (true, container));
    init.chain(pod.spec().containers.iter().map(|container| (false, container)))
}

/// What the API says of a run's readiness: an agent that starts must not make a ready pod unready.
fn said_before(pod: &Pod, id: &str) -> Probed {
    let of_run = |said: &&Said| said.container_id == format!("weir://{id}");
    let said =
        pod.status().container_statuses.iter().chain(&pod.status().init_container_statuses).find(of_run);
    said.map_or_else(Probed::default, |said| Probed {
        started: said.started == Some(true),
        ready: said.ready,
        unhealthy: None,
    })
}
