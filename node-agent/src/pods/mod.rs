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
mod env;
mod env_files;
mod ephemeral;
mod eviction;
mod feeds;
mod hooks;
mod image_volumes;
mod images;
mod local_storage;
pub mod mirror;
mod observed;
mod perform;
mod phase;
mod plan;
mod probes;
mod projection;
mod resolv_conf;
mod resources;
mod sandbox;
mod services;
mod sources;
mod status;
mod termination;
mod tokens;
mod user;
mod volumes;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use weir_client::{Client, Informer, Notice, Recorder};
use weir_network::Network;
use weir_proto::Quantity;
use weir_proto::core::v1::Pod;
use weir_runtime::{Runtime, Sandbox};

pub use admission::Rules;
pub use eviction::{Ending, Endings};
pub use feeds::Feeds;
pub use sandbox::Names;
pub use services::Services;
pub use tokens::Tokens;

use crate::dataplane;
use eviction::Wakes;
use worker::Worker;

/// What every worker needs.
#[derive(Clone, Debug)]
pub struct Context {
    pub node_name: String,
    pub node_ip: IpAddr,
    pub allocatable: BTreeMap<String, Quantity>,
    pub names: Names,
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
}

/// A worker from outside.
struct Slot {
    pod: watch::Sender<Option<Arc<Pod>>>,
}

struct Pods {
    context: Arc<Context>,
    slots: HashMap<String, Slot>,
    workers: JoinSet<String>,
    wakes: Wakes,
    /// What an earlier agent left.
    found: HashMap<String, Option<Sandbox>>,
}

/// Follows the pods of this node until told to stop. Containers are left as they are then.
pub async fn run(context: Arc<Context>, pods: Informer<Pod>, shutdown: CancellationToken) {
    pods.synced().await;
    let mut all = Pods {
        found: find(&context).await,
        slots: HashMap::new(),
        workers: JoinSet::new(),
        wakes: context.endings.wakes.clone(),
        context,
    };
    all.collect_leftovers(&pods).await;
    follow_exits(&all.context.runtime, all.wakes.clone());
    let measuring = local_storage::watch(Arc::clone(&all.context), pods.clone());
    let _measuring = AbortOnDropHandle::new(tokio::spawn(measuring));
    let mut changes = pods.subscribe();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            ended = all.workers.join_next(), if !all.workers.is_empty() => all.ended(ended),
            notice = changes.next() => match notice {
                None => return,
                Some(Notice::Resync) => all.resync(&pods.list()),
                Some(Notice::Changed(change)) => {
                    // A name may have been taken over by another pod, which comes with its own uid.
                    let (old, new) = (change.old, change.new);
                    let gone = old.filter(|old| new.as_ref().is_none_or(|new| new.meta().uid != old.meta().uid));
                    if let Some(old) = gone {
                        all.tell(&old.meta().uid, None);
                    }
                    if let Some(new) = new {
                        all.tell(&new.meta().uid.clone(), Some(new));
                    }
                }
            },
        }
    }
}

impl Pods {
    fn resync(&mut self, pods: &[Arc<Pod>]) {
        let known: BTreeSet<&str> = pods.iter().map(|pod| pod.meta().uid.as_str()).collect();
        let unknown = self.slots.keys().chain(self.found.keys()).filter(|uid| !known.contains(uid.as_str()));
        for uid in unknown.cloned().collect::<BTreeSet<_>>() {
            self.tell(&uid, None);
        }
        for pod in pods {
            self.tell(&pod.meta().uid, Some(Arc::clone(pod)));
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
        let (sender, receiver) = watch::channel(pod);
        let wake = Arc::new(Notify::new());
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), Arc::clone(&wake));
        let worker = Worker::new(Arc::clone(&self.context), uid.to_owned(), receiver, wake, found);
        self.workers.spawn(worker.run());
        self.slots.insert(uid.to_owned(), Slot { pod: sender });
    }

    fn ended(&mut self, worker: Option<Result<String, tokio::task::JoinError>>) {
        match worker {
            Some(Ok(uid)) => {
                self.slots.remove(&uid);
                self.wakes.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
            }
            Some(Err(error)) => tracing::error!(%error, "a pod's worker ended badly"),
            None => {}
        }
    }

    /// Links and addresses of pods that neither the API nor the runtime knows.
    async fn collect_leftovers(&self, pods: &Informer<Pod>) {
        let mut known: BTreeSet<String> = pods.list().iter().map(|pod| pod.meta().uid.clone()).collect();
        known.extend(self.found.keys().cloned());
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
