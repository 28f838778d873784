//! The loop: follows pods, nodes and namespaces, decides, and writes with bounded concurrency.
//!
//! The state lives in this one task; bindings and conditions are written beside it and report back. Everything can
//! be lost at any moment: what was not written is decided again after a restart.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use weir_client::{Client, Error, Informer, Notice, informer};
use weir_proto::core::v1::{Namespace, Node, Pod};

use crate::framework::Profile;
use crate::intake;
use crate::metrics::{self, Attempt, OfProfile};
use crate::pod::{PodInfo, Shape};
use crate::report::{Nomination, Reporter, Unplaced};
use crate::scheduler::{Decision, Scheduler};
use crate::settings::Settings;

/// Decisions between looks at what else has happened.
const DECISIONS_AT_ONCE: usize = 32;

#[derive(Clone, Debug)]
pub struct Config {
    /// Pods name the scheduler they want; this one takes those that name it.
    pub scheduler_name: String,
    pub settings: Settings,
    /// Bindings and status writes under way at once.
    pub concurrent_writes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheduler_name: "default-scheduler".to_owned(),
            settings: Settings::default(),
            concurrent_writes: 256,
        }
    }
}

/// Schedules until cancelled.
pub async fn run(client: Client, config: Config, cancel: CancellationToken) {
    let unfinished = informer::Options::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let pods = Informer::start(client.api::<Pod>(), unfinished.trim(intake::trim));
    let nodes = Informer::start(client.api::<Node>(), informer::Options::default());
    let namespaces = Informer::start(client.api::<Namespace>(), informer::Options::default());
    let mut scheduling = Scheduling {
        scheduler: Scheduler::new(&config.scheduler_name, Profile::new(&config.settings)),
        metrics: OfProfile::new(&config.scheduler_name),
        reporter: Reporter::new(client, &config.scheduler_name),
        config,
        pods,
        nodes,
        namespaces,
        writes: JoinSet::new(),
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = scheduling.run() => {}
    }
}

struct Scheduling {
    config: Config,
    scheduler: Scheduler,
    reporter: Reporter,
    metrics: OfProfile,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    namespaces: Informer<Namespace>,
    writes: JoinSet<Write>,
}

/// How a write ended.
enum Write {
    Binding { pod: Arc<PodInfo>, node: Arc<str>, began: Instant, tried: Tried, outcome: Result<(), Error> },
    Condition { pod: Arc<PodInfo>, outcome: Result<bool, Error> },
    Preemption { pod: Arc<PodInfo>, victims: Vec<Arc<PodInfo>>, outcome: Result<bool, Error> },
}

/// What it took to find a pod's node.
#[derive(Clone, Copy, Debug)]
struct Tried {
    attempts: u32,
    since: Instant,
    decided_in: Duration,
}

impl Scheduling {
    /// Ends when the informers do.
    async fn run(&mut self) {
        // Nodes first: what is decided before all of them are known is decided badly.
        let (mut pods, mut nodes, mut namespaces) =
            (self.pods.subscribe(), self.nodes.subscribe(), self.namespaces.subscribe());
        tokio::join!(self.pods.synced(), self.nodes.synced(), self.namespaces.synced());
        self.scheduler.all_namespaces(&self.namespaces.list());
        self.scheduler.all_nodes(&self.nodes.list());
        self.take_all_pods();
        loop {
            let now = Instant::now();
            let may_write = self.writes.len() < self.config.concurrent_writes;
            let has_work = may_write && self.scheduler.has_work(now);
            self.scheduler.count_waiting();
            tokio::select! {
                notice = pods.next() => match notice {
                    Some(Notice::Changed(change)) => self.pod_changed(change.old.as_deref(), change.new.as_deref()),
                    Some(Notice::Resync) => self.take_all_pods(),
                    None => return,
                },
                notice = nodes.next() => match notice {
                    Some(Notice::Changed(change)) => match (change.old, change.new) {
                        (_, Some(node)) => self.scheduler.node(&node),
                        (Some(node), None) => self.scheduler.node_gone(&node.meta().name),
                        (None, None) => {}
                    },
                    Some(Notice::Resync) => self.scheduler.all_nodes(&self.nodes.list()),
                    None => return,
                },
                notice = namespaces.next() => match notice {
                    Some(Notice::Changed(change)) => match (change.old, change.new) {
                        (_, Some(namespace)) => self.scheduler.namespace(&namespace),
                        (Some(namespace), None) => self.scheduler.namespace_gone(&namespace.meta().name),
                        (None, None) => {}
                    },
                    Some(Notice::Resync) => self.scheduler.all_namespaces(&self.namespaces.list()),
                    None => return,
                },
                Some(written) = self.writes.join_next() => match written {
                    Ok(write) => self.written(write),
                    Err(error) => tracing::error!(%error, "a write died"),
                },
                () = until(self.scheduler.deadline()), if may_write && !has_work => {}
                () = async {}, if has_work => {
                    self.decide(now);
                    // This branch is always ready; let others have the thread.
                    yield_now().await;
                }
            }
        }
    }

    fn take_all_pods(&mut self) {
        let pods = self.pods.list();
        self.scheduler.all_pods(&pods);
        for pod in pods {
            self.tell_gated(&pod);
        }
    }

    fn pod_changed(&mut self, old: Option<&Pod>, new: Option<&Pod>) {
        if let Some(old) = old
            && new.is_none_or(|new| new.meta().uid != old.meta().uid)
        {
            self.scheduler.pod_gone(&old.meta().uid);
        }
        if let Some(new) = new {
            self.scheduler.pod(new);
            self.tell_gated(new);
        }
    }

    fn decide(&mut self, now: Instant) {
        for _ in 0..DECISIONS_AT_ONCE {
            if self.writes.len() >= self.config.concurrent_writes {
                return;
            }
            let began = Instant::now();
            let Some(decision) = self.scheduler.decide(now) else { return };
            let decided_in = began.elapsed();
            metrics::decided(decided_in);
            match decision {
                Decision::Bind { pod, node, attempts, since } => {
                    let tried = Tried { attempts, since, decided_in };
                    let reporter = self.reporter.clone();
                    self.writes.spawn(async move {
                        let began = Instant::now();
                        let outcome = reporter.bind(&pod, &node).await;
                        Write::Binding { pod, node, began, tried, outcome }
                    });
                }
                Decision::Wait { pod, message, withdrawn } => {
                    self.failed(&pod, &message, decided_in);
                    let nomination = if withdrawn { Nomination::Clear } else { Nomination::Keep };
                    self.tell(pod, Unplaced::unschedulable(message, nomination));
                }
                Decision::Preempt { pod, message, node, victims, displaced } => {
                    self.failed(&pod, &message, decided_in);
                    self.preempt(pod, message, node, victims);
                    displaced.into_iter().for_each(|other| self.clear_nomination(other));
                }
            }
        }
    }

    fn failed(&self, pod: &PodInfo, message: &str, decided_in: Duration) {
        tracing::debug!(namespace = pod.namespace(), pod = pod.name, message, "fits nowhere");
        self.metrics.attempted(Attempt::Unschedulable, decided_in);
        self.reporter.event_failed(pod, message);
    }

    fn preempt(&mut self, pod: Arc<PodInfo>, message: String, node: Arc<str>, victims: Vec<Arc<PodInfo>>) {
        let names: Vec<_> = victims.iter().map(|victim| victim.name.as_str()).collect();
        tracing::info!(namespace = pod.namespace(), pod = pod.name, %node, victims = ?names, "preempting");
        let reporter = self.reporter.clone();
        self.writes.spawn(async move {
            let why = Unplaced::unschedulable(message, Nomination::Set(node.clone()));
            let outcome = reporter.preempt(&pod, &why, &node, &victims).await;
            Write::Preemption { pod, victims, outcome }
        });
    }

    fn clear_nomination(&mut self, pod: Arc<PodInfo>) {
        let reporter = self.reporter.clone();
        self.writes.spawn(async move {
            let outcome = reporter.clear_nomination(&pod).await;
            Write::Condition { pod, outcome }
        });
    }

    fn written(&mut self, write: Write) {
        match write {
            Write::Binding { pod, node, began, tried, outcome: Ok(()) } => {
                tracing::debug!(namespace = pod.namespace(), pod = pod.name, %node, "bound");
                let took = began.elapsed();
                self.metrics.bound(took);
                self.metrics.attempted(Attempt::Scheduled, tried.decided_in + took);
                metrics::scheduled(tried.attempts, tried.since.elapsed());
                self.scheduler.bound(&pod.uid);
            }
            Write::Binding { pod, node, began, tried, outcome: Err(error) } => {
                tracing::warn!(namespace = pod.namespace(), pod = pod.name, %node, %error, "cannot bind");
                self.metrics.attempted(Attempt::Error, tried.decided_in + began.elapsed());
                self.scheduler.binding_failed(&pod.uid, Instant::now());
            }
            Write::Preemption { outcome: Ok(true), .. } => {}
            Write::Preemption { pod, victims, outcome } => {
                if let Err(error) = outcome {
                    tracing::warn!(namespace = pod.namespace(), pod = pod.name, %error, "cannot preempt");
                }
                self.scheduler.preemption_failed(&pod, &victims, Instant::now());
            }
            Write::Condition { outcome: Ok(_), .. } => {}
            Write::Condition { pod, outcome: Err(error) } => {
                tracing::warn!(namespace = pod.namespace(), pod = pod.name, %error, "cannot write the condition");
            }
        }
    }

    /// Writes the pod's condition, if it does not say so already.
    fn tell(&mut self, pod: Arc<PodInfo>, why: Unplaced) {
        if self.pods.get(pod.namespace(), &pod.name).is_some_and(|present| why.is_told_by(&present)) {
            return;
        }
        let reporter = self.reporter.clone();
        self.writes.spawn(async move {
            let outcome = reporter.write_condition(&pod, &why).await;
            Write::Condition { pod, outcome }
        });
    }

    fn tell_gated(&mut self, pod: &Pod) {
        let (meta, spec) = (pod.meta(), pod.spec());
        let ours = spec.scheduler_name == self.config.scheduler_name && spec.node_name.is_empty();
        if ours && !spec.scheduling_gates.is_empty() && meta.deletion_timestamp.is_none() {
            let shape = Shape { namespace: meta.namespace.clone(), ..Shape::default() };
            let info = PodInfo {
                uid: meta.uid.as_str().into(),
                name: meta.name.clone(),
                priority: intake::priority(spec),
                preempts: intake::preempts(spec),
                shape: Arc::new(shape),
            };
            self.tell(Arc::new(info), Unplaced::gated());
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}
