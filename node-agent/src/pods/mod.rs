//! The node's pods: one worker for each, fed by a watch of the pods that are bound to this node.
//!
//! Worker's round: look ([`observed`]), report ([`status`]), decide ([`plan`], pure), do ([`perform`]), wait for a
//! change of the pod, the end of a container, a probe's answer or the plan's own time.
//!
//! Nothing needed lies in memory only: after a restart workers find sandboxes and containers through the runtime, and
//! pods that the API forgot meanwhile are torn down.

mod admission;
mod container;
mod downward;
mod end;
mod env;
mod env_files;
mod ephemeral;
mod eviction;
mod feeds;
mod fit;
mod hooks;
mod image_volumes;
mod images;
mod local_storage;
pub mod mirror;
mod mirrors;
mod observed;
mod perform;
mod phase;
mod plan;
mod preemption;
mod probes;
mod projection;
mod release;
mod resolv_conf;
mod resources;
mod sandbox;
mod services;
mod sources;
mod statics;
mod status;
mod termination;
mod tokens;
mod user;
mod volumes;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use jiff::SignedDuration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use weir_client::{Client, Informer, Notice, Recorder};
use weir_network::Network;
use weir_proto::Quantity;
use weir_proto::core::v1::{Node, Pod};
use weir_runtime::{Runtime, Sandbox};

pub use admission::Rules;
pub use eviction::{Ending, Endings, own_grace};
pub use feeds::Feeds;
pub use sandbox::Names;
pub use services::Services;
pub use tokens::Tokens;

use crate::eviction::signals::Pressure;
use crate::static_pods::Wanted;
use crate::{dataplane, dns};
use eviction::Wakes;
use mirror::{is_mirror, is_static_uid};
use mirrors::Mirrors;
use worker::Worker;

/// What every worker needs.
#[derive(Clone, Debug)]
pub struct Context {
    pub node_name: String,
    pub node_ip: IpAddr,
    pub allocatable: BTreeMap<String, Quantity>,
    pub names: Names,
    pub cluster_dns: dns::Addresses,
    pub seccomp_dir: PathBuf,
    pub rules: Rules,
    /// Most processes of a pod.
    pub pod_max_pids: Option<u64>,
    pub client: Client,
    pub recorder: Recorder,
    pub runtime: Arc<Runtime>,
    pub network: Arc<Network>,
    pub dataplane: dataplane::Handle,
    pub tokens: Tokens,
    pub endings: Endings,
    pub feeds: Feeds,
    pub services: Services,
    /// How long a pod's end waits for other nodes' acknowledgement.
    pub end_limit: SignedDuration,
    pub gate: Gate,
    /// Where it is noted which static pods were started.
    pub static_records: PathBuf,
}

/// What decides about pods that come, beside what the others leave.
#[derive(Clone, Debug)]
pub struct Gate {
    pub max_pods: u32,
    /// This node's own object.
    pub node: Informer<Node>,
    pub pressures: watch::Receiver<BTreeSet<Pressure>>,
    pub shutting_down: Arc<AtomicBool>,
}

/// A worker from outside.
struct Slot {
    pod: watch::Sender<Option<Arc<Pod>>>,
    /// Of static pods: shows the worker the mirror.
    mirror: Option<watch::Sender<Option<Arc<Pod>>>>,
    wake: Arc<Notify>,
}

struct Pods {
    context: Arc<Context>,
    slots: HashMap<String, Slot>,
    workers: JoinSet<String>,
    wakes: Wakes,
    /// What an earlier agent left.
    found: HashMap<String, Option<Sandbox>>,
    static_pods: watch::Receiver<Option<Wanted>>,
}

/// Follows the pods of this node until told to stop. Containers are left as they are then.
///
/// Static pods run from the start. Pods of the API that an earlier agent left go on as they are until the API has said
/// what is to become of them.
pub async fn run(
    context: Arc<Context>,
    pods: Informer<Pod>,
    static_pods: watch::Receiver<Option<Wanted>>,
    shutdown: CancellationToken,
) {
    let mirrors = Mirrors {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        pods: pods.clone(),
        node: context.gate.node.clone(),
        wanted: static_pods.clone(),
    };
    let _mirrors = AbortOnDropHandle::new(tokio::spawn(mirrors.run(shutdown.clone())));
    let mut all = Pods {
        found: find(&context).await,
        slots: HashMap::new(),
        workers: JoinSet::new(),
        wakes: context.endings.wakes.clone(),
        context,
        static_pods,
    };
    all.adopt_addresses().await;
    follow_exits(&all.context.runtime, all.wakes.clone());
    let measuring = local_storage::watch(Arc::clone(&all.context), pods.clone());
    let _measuring = AbortOnDropHandle::new(tokio::spawn(measuring));
    all.follow_files();
    let (mut changes, mut synced, mut files) = (pods.subscribe(), false, true);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            ended = all.workers.join_next(), if !all.workers.is_empty() => all.ended(ended),
            changed = all.static_pods.changed(), if files => match changed {
                Ok(()) => all.follow_files(),
                Err(_) => files = false,
            },
            notice = changes.next() => match notice {
                None => return,
                Some(Notice::Resync) => {
                    if !std::mem::replace(&mut synced, true) {
                        all.collect_leftovers(&pods).await;
                    }
                    all.resync(&pods.list());
                }
                Some(Notice::Changed(change)) => {
                    // A name may have been taken over by another pod, which comes with its own uid.
                    let (old, new) = (change.old, change.new);
                    let gone = old.filter(|old| new.as_ref().is_none_or(|new| new.meta().uid != old.meta().uid));
                    if let Some(old) = gone {
                        all.heard(&old, true);
                    }
                    if let Some(new) = new {
                        all.heard(&new, false);
                    }
                }
            },
        }
    }
}

impl Pods {
    /// What the API says of a pod.
    fn heard(&mut self, pod: &Arc<Pod>, gone: bool) {
        if is_mirror(pod) {
            return self.show_mirror(pod, gone);
        }
        self.tell(&pod.meta().uid.clone(), (!gone).then(|| Arc::clone(pod)));
    }

    fn resync(&mut self, pods: &[Arc<Pod>]) {
        let known: BTreeSet<&str> = pods.iter().map(|pod| pod.meta().uid.as_str()).collect();
        let unknown = self.slots.keys().chain(self.found.keys());
        let unknown = unknown.filter(|uid| !known.contains(uid.as_str()) && !is_static_uid(uid));
        for uid in unknown.cloned().collect::<BTreeSet<_>>() {
            self.tell(&uid, None);
        }
        // Who is here already comes first: what it takes is not there for those who are new.
        let (here, new): (Vec<_>, Vec<_>) =
            pods.iter().partition(|pod| self.found.contains_key(&pod.meta().uid));
        for pod in here.into_iter().chain(new) {
            self.heard(pod, false);
        }
    }

    /// Hands the pod to its worker, which is made when it is not there.
    fn tell(&mut self, uid: &str, pod: Option<Arc<Pod>>) {
        if let Some(slot) = self.slots.get(uid) {
            let _ = slot.pod.send_replace(pod);
            return;
        }
        let found = self.found.remove(uid);
        if pod.is_none() && found.is_none() {
            return;
        }
        if pod.is_none() {
            tracing::info!(uid, "removing what is left of a pod that the API no longer knows");
        }
        let admission = match (&pod, &found) {
            (Some(pod), None) => self.admit(pod),
            // What an earlier agent let in stays.
            _ => Ok(Vec::new()),
        };
        let (sender, receiver) = watch::channel(pod);
        let wake = Arc::new(Notify::new());
        let (mirror, shown) = is_static_uid(uid).then(|| watch::channel(None)).unzip();
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), Arc::clone(&wake));
        let making_room = match admission {
            Ok(victims) => victims,
            Err((reason, message)) => {
                self.context.endings.order(uid, Ending::refusal(&reason, &message));
                Vec::new()
            }
        };
        let context = Arc::clone(&self.context);
        let worker =
            Worker::new(Arc::clone(&context), uid.to_owned(), receiver, Arc::clone(&wake), found, shown);
        self.workers.spawn(async move {
            preemption::gone(&context.runtime, &making_room).await;
            worker.run().await
        });
        self.slots.insert(uid.to_owned(), Slot { pod: sender, mirror, wake });
    }

    /// Whether a pod that is new here can run here: after whose end, or why not.
    fn admit(&self, pod: &Pod) -> Result<Vec<String>, fit::Refusal> {
        let is_over = |pod: &Pod| matches!(pod.status().phase.as_str(), "Succeeded" | "Failed");
        if pod.meta().deletion_timestamp.is_some() || is_over(pod) {
            return Ok(Vec::new());
        }
        let gate = &self.context.gate;
        let node = gate.node.list().into_iter().next();
        let pressures = gate.pressures.borrow().clone();
        let facts = fit::Facts {
            name: &self.context.node_name,
            allocatable: &self.context.allocatable,
            max_pods: gate.max_pods,
            labels: node.as_ref().map(|node| &node.meta().labels),
            pressures: &pressures,
            shutting_down: gate.shutting_down.load(Ordering::SeqCst),
        };
        let others: Vec<Arc<Pod>> = self
            .slots
            .values()
            .filter_map(|slot| slot.pod.borrow().clone())
            .filter(|pod| !is_over(pod))
            .collect();
        let others = others.iter().map(AsRef::as_ref);
        if let Some(refusal) = fit::refusal(pod, others.clone(), &facts) {
            return Err(refusal);
        }
        let lacks = fit::lacks(pod, others.clone(), &facts);
        let Some(first) = lacks.first() else { return Ok(Vec::new()) };
        if !mirror::is_critical(pod) {
            return Err(first.refusal());
        }
        let victims = preemption::victims(pod, others, &lacks)
            .map_err(|message| ("UnexpectedAdmissionError".to_owned(), message))?;
        preemption::order(&self.context.endings, &victims, &lacks);
        Ok(victims.iter().map(|pod| pod.meta().uid.clone()).collect())
    }

    fn ended(&mut self, worker: Option<Result<String, tokio::task::JoinError>>) {
        match worker {
            Some(Ok(uid)) => {
                self.slots.remove(&uid);
                self.wakes.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
                let _ = self.context.endings.take(&uid);
                self.forget_static(&uid);
            }
            Some(Err(error)) => tracing::error!(%error, "a pod's worker ended badly"),
            None => {}
        }
    }

    /// Before any pod gets an address: what the kernel knows and the address file may not.
    async fn adopt_addresses(&self) {
        let uids: BTreeSet<String> = self.found.keys().cloned().collect();
        if let Err(error) = self.context.network.adopt(&uids).await {
            tracing::error!(%error, "cannot compare the pods' addresses with the kernel's");
        }
    }

    /// Links and addresses of pods that neither the API nor the runtime knows.
    async fn collect_leftovers(&self, pods: &Informer<Pod>) {
        let mut known: BTreeSet<String> = pods.list().iter().map(|pod| pod.meta().uid.clone()).collect();
        known.extend(self.found.keys().chain(self.slots.keys()).cloned());
        match self.context.network.collect_leftovers(&known).await {
            Ok(links) if links.is_empty() => {}
            Ok(links) => tracing::info!(?links, "removed links of pods that are gone"),
            Err(error) => tracing::warn!(%error, "cannot remove links of pods that are gone"),
        }
    }
}

/// Pods of which something is on this node, with their sandboxes where these are whole.
async fn find(context: &Context) -> HashMap<String, Option<Sandbox>> {
    let runtime = Arc::clone(&context.runtime);
    let look = move || Ok::<_, weir_runtime::Error>((runtime.pod_uids()?, runtime.sandboxes()?));
    let (uids, sandboxes) = match tokio::task::spawn_blocking(look).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::error!(%error, "cannot list what an earlier agent left");
            return HashMap::new();
        }
        Err(_) => return HashMap::new(),
    };
    let leased = context.network.leases().into_keys();
    let mut found: HashMap<_, _> = uids.into_iter().chain(leased).map(|uid| (uid, None)).collect();
    for sandbox in sandboxes {
        found.insert(sandbox.spec.uid.clone(), Some(sandbox));
    }
    found
}

/// Wakes the worker of each container that ends. The thread lives as long as the runtime.
fn follow_exits(runtime: &Runtime, wakes: Wakes) {
    let events = runtime.events();
    let follow = move || {
        for event in events {
            let exit = &event.exit;
            tracing::info!(container = %event.key, code = exit.code, oom_killed = exit.oom_killed, "a container ended");
            if let Some(wake) = wakes.lock().unwrap_or_else(PoisonError::into_inner).get(&event.key.pod_uid) {
                wake.notify_one();
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("weir-pod-exits".into()).spawn(follow) {
        tracing::error!(%error, "cannot start the thread that follows the ends of containers");
    }
}
