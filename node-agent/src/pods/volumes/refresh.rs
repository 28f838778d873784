//! Keeps what a pod's volumes show in step with the objects they show, for as long as the pod is on this node.
//!
//! One task a pod, which waits for one of the objects to change, for the pod's own labels and annotations, and for its time
//! to look again; then it reads the objects and writes what has changed. An object that is gone stays shown as it was last,
//! unless it is optional.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weir_client::{Backoff, Severity, reference};
use weir_proto::core::v1::{DownwardApiVolumeFile, Pod, Volume};

use super::super::Context;
use super::super::downward::Surroundings;
use super::super::feeds::Following;
use super::super::perform::PerformError;
use super::super::projection;
use super::super::sources::{Needed, Sources, Versions};
use super::super::worker::Worker;
use super::{directory, payload, show, shows_objects};

/// After a change, when what was shown before it is old enough to go.
const SWEEP: Duration = Duration::from_secs(11);
/// Between two changes of what is shown: longer than it takes to open a file, which a second change would come in between of.
const APART: Duration = Duration::from_secs(1);

/// Under what troubles with tokens are told; no volume has the name.
const ACCOUNT: &str = "";

/// The task of one pod.
#[derive(Debug)]
pub(in crate::pods) struct Refresher {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Refresher {
    /// Returns when nothing of the pod's volumes is written any more.
    async fn end(self) {
        self.stop.cancel();
        // Nothing is left to be done about one that panicked: it has ended.
        let _ = self.task.await;
    }
}

impl Worker {
    /// Starts the task once the pod's volumes are there, made now or by an earlier agent; ends it with the pod's work.
    pub(in crate::pods) async fn tend_refresher(&mut self, pod: Option<&Arc<Pod>>, runs: bool) {
        let Some(pod) = pod else { return };
        if matches!(pod.status().phase.as_str(), "Succeeded" | "Failed") {
            return self.end_refresher().await;
        }
        let attached = pod.spec().host_network || self.memory.attachment.is_some();
        let made = self.memory.volumes || (runs && attached);
        let Some(sandbox) = self.memory.sandbox.as_ref().filter(|_| made && self.memory.refresher.is_none())
        else {
            return;
        };
        if !pod.spec().volumes.iter().any(shows_objects) {
            return;
        }
        let stop = CancellationToken::new();
        let refresh = Refresh {
            pods: self.follow_pod(),
            around: self.surroundings(pod),
            context: Arc::clone(&self.context),
            pod: Arc::clone(pod),
            dir: sandbox.dir.clone(),
            told: BTreeMap::new(),
            renew_at: self.memory.renew_at.take(),
            shown: self.memory.shown.take(),
        };
        let task = tokio::spawn(refresh.run(stop.clone()));
        self.memory.refresher = Some(Refresher { stop, task });
    }

    pub(in crate::pods) async fn end_refresher(&mut self) {
        if let Some(refresher) = self.memory.refresher.take() {
            refresher.end().await;
        }
    }
}

struct Refresh {
    context: Arc<Context>,
    pod: Arc<Pod>,
    pods: watch::Receiver<Option<Arc<Pod>>>,
    dir: PathBuf,
    around: Surroundings,
    /// Versions of the objects as they are shown; `None` after a restart of the agent, when nobody knows.
    shown: Option<Versions>,
    renew_at: Option<Instant>,
    /// What is wrong with a volume, as it was last told.
    told: BTreeMap<String, String>,
}

impl Refresh {
    async fn run(mut self, stop: CancellationToken) {
        let namespace = self.pod.meta().namespace.clone();
        let needed = Needed::by_volumes(&self.pod.spec().volumes);
        let mut following = Following::start(&self.context.feeds, &self.context.client, &namespace, &needed);
        let follows_pod = self.pod.spec().volumes.iter().any(shows_fields_that_change);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let mut due = if self.shown.is_none() { Some(Instant::now()) } else { self.renew_at };
        let mut shown = self.shown.take().unwrap_or_default();
        // And there may be leftovers.
        let mut sweep = Some(Instant::now() + SWEEP);
        let mut earliest = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = following.changed(&shown) => due = Some(earliest.max(Instant::now())),
                Ok(()) = self.pods.changed(), if follows_pod => {
                    if self.take_pod() {
                        due = Some(earliest.max(Instant::now()));
                    }
                }
                () = at(due) => {
                    let read = tokio::select! {
                        () = stop.cancelled() => return,
                        read = self.read(&needed, &namespace) => read,
                    };
                    // What cannot be read now is shown as it was.
                    due = match read {
                        Ok(sources) => {
                            backoff.reset();
                            shown = sources.versions();
                            let again = sources.renew_at;
                            if self.show(sources).await {
                                earliest = Instant::now() + APART;
                                sweep = Some(Instant::now() + SWEEP);
                            }
                            again
                        }
                        Err(error) => {
                            tracing::debug!(pod = self.pod.meta().name, %error, "cannot read what a pod's volumes show");
                            if let PerformError::Token(error) = &error {
                                self.tell_account(error.to_string());
                            }
                            Some(Instant::now() + backoff.delay())
                        }
                    };
                }
                () = at(sweep) => {
                    sweep = None;
                    self.sweep().await;
                }
            }
        }
    }

    async fn read(&mut self, needed: &Needed, namespace: &str) -> Result<Sources, PerformError> {
        let mut sources = needed.clone().fetch(&self.context.client, namespace).await?;
        match self.context.tokens.add_to(&mut sources, &self.context.client, &self.pod).await? {
            Some(trouble) => self.tell_account(trouble),
            None => drop(self.told.remove(ACCOUNT)),
        }
        Ok(sources)
    }

    /// That the account's token is not renewed; once, until it is.
    fn tell_account(&mut self, problem: String) {
        if self.told.insert(ACCOUNT.to_owned(), problem.clone()).is_none() {
            tracing::warn!(pod = self.pod.meta().name, problem, "a pod's token is not renewed");
            let text = format!("{problem}. The node tries again; look whether the API server is well.");
            self.context.recorder.tell(reference(&*self.pod), Severity::Warning, "FailedTokenRenewal", text);
        }
    }

    /// Takes over the pod's present state; true if something of it changed that files may show.
    fn take_pod(&mut self) -> bool {
        let Some(pod) = self.pods.borrow_and_update().clone() else { return false };
        let (old, new) = (self.pod.meta(), pod.meta());
        let changed = old.labels != new.labels || old.annotations != new.annotations;
        if changed {
            self.pod = pod;
        }
        changed
    }

    /// True if anything was written.
    async fn show(&mut self, sources: Sources) -> bool {
        let (pod, dir, around) = (Arc::clone(&self.pod), self.dir.clone(), self.around.clone());
        let write = move || {
            let volumes = pod.spec().volumes.iter().filter(|volume| shows_objects(volume));
            let one = |volume: &Volume| {
                let files = projection::files(&pod, volume, &sources, &around)?;
                show(&pod, &dir, volume, &files.unwrap_or_default())
            };
            volumes.map(|volume| (volume.name.clone(), one(volume))).collect::<Vec<_>>()
        };
        let Ok(outcomes) = tokio::task::spawn_blocking(write).await else { return false };
        let mut written = false;
        for (volume, outcome) in outcomes {
            match outcome {
                Ok(changed) => {
                    written |= changed;
                    self.told.remove(&volume);
                }
                Err(problem) => self.tell(volume, problem.to_string()),
            }
        }
        written
    }

    fn tell(&mut self, volume: String, problem: String) {
        let text = format!("MountVolume.SetUp failed for volume {volume:?} : {problem}");
        if self.told.insert(volume, text.clone()).as_ref() != Some(&text) {
            tracing::warn!(pod = self.pod.meta().name, text, "a volume shows what was there before");
            self.context.recorder.tell(reference(&*self.pod), Severity::Warning, "FailedMount", text);
        }
    }

    async fn sweep(&self) {
        let (pod, dir) = (Arc::clone(&self.pod), self.dir.clone());
        let sweep = move || {
            for volume in pod.spec().volumes.iter().filter(|volume| shows_objects(volume)) {
                if let Err(error) = payload::sweep(&directory(&dir, volume), payload::KEPT) {
                    tracing::debug!(%error, "what a volume showed before stays until the next change");
                }
            }
        };
        // The next change sweeps too.
        let _ = tokio::task::spawn_blocking(sweep).await;
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Labels and annotations; all else that fields show is fixed.
fn shows_fields_that_change(volume: &Volume) -> bool {
    let changes = |item: &DownwardApiVolumeFile| {
        item.field_ref.as_ref().is_some_and(|field| {
            ["metadata.labels", "metadata.annotations"].iter().any(|kept| field.field_path.starts_with(kept))
        })
    };
    let projected = volume.projected.iter().flat_map(|projected| &projected.sources);
    let fields = projected.filter_map(|part| part.downward_api.as_ref()).flat_map(|part| &part.items);
    volume.downward_api.iter().flat_map(|source| &source.items).chain(fields).any(changes)
}
