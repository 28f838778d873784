//! Does what a plan says, one step at a time, and tells users by events. The only place that changes anything.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;
use weir_client::{DeleteOptions, Severity, reference};
use weir_dataplane::PodLink;
use weir_proto::core::v1::{Container, ObjectReference, Pod};
use weir_runtime::{ContainerKey, Runtime, Sandbox};

use super::downward::Surroundings;
use super::observed::{Failure, crashes_after, exit};
use super::plan::{Step, Why};
use super::sources::Needed;
use super::worker::{Worker, all_containers};
use super::{container, env, sandbox, volumes};
use crate::dataplane::DataplaneError;

/// Why a step failed.
#[derive(Debug, Error)]
pub(super) enum PerformError {
    #[error(transparent)]
    Runtime(#[from] weir_runtime::Error),
    #[error(transparent)]
    Image(#[from] weir_runtime::images::ImageError),
    #[error(transparent)]
    Network(#[from] weir_network::Error),
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    #[error(transparent)]
    Volume(#[from] volumes::VolumeError),
    #[error(transparent)]
    Env(#[from] env::EnvError),
    #[error(transparent)]
    Container(#[from] container::ContainerError),
    #[error(transparent)]
    Client(#[from] weir_client::Error),
    #[error("the pod has no container {0:?}")]
    NoContainer(String),
    #[error("the pod has no sandbox")]
    NoSandbox,
    #[error("interrupted")]
    Interrupted,
}

impl PerformError {
    /// Kubernetes' word for it in a waiting container's status.
    fn reason(&self) -> &'static str {
        match self {
            Self::Runtime(error) => error.reason(),
            Self::Image(error) => error.reason(),
            Self::Env(_) | Self::Container(_) | Self::Client(_) | Self::Volume(_) | Self::NoContainer(_) => {
                "CreateContainerConfigError"
            }
            Self::Network(_) | Self::Dataplane(_) | Self::NoSandbox | Self::Interrupted => {
                "CreateContainerError"
            }
        }
    }
}

type Result<T = ()> = std::result::Result<T, PerformError>;

impl Worker {
    /// Whether the step was done. What failed is remembered, told by an event, and planned again.
    pub(super) async fn perform(&mut self, pod: Option<&Arc<Pod>>, step: Step) -> bool {
        tracing::debug!(uid = self.uid, ?step, "step");
        let outcome = match (&step, pod) {
            (Step::TearDown, _) => self.tear_down().await,
            (Step::Stop { key, deadline, why }, _) => {
                self.stop(pod, key, *deadline, why);
                Ok(())
            }
            (Step::Remove { key }, _) => self.remove(key.clone()).await,
            (Step::DetachNetwork, _) => self.detach().await,
            (Step::CreateSandbox, Some(pod)) => self.create_sandbox(pod).await,
            (Step::AttachNetwork, Some(_)) => self.attach().await,
            (Step::MountVolumes, Some(pod)) => self.mount_volumes(pod).await,
            (Step::Start { container, restart, .. }, Some(pod)) => self.start(pod, container, *restart).await,
            (Step::ConfirmEnd, Some(pod)) => self.confirm_end(pod).await,
            // Plans for pods that the API forgot hold only the steps above.
            (_, None) => Ok(()),
        };
        let Err(error) = outcome else { return true };
        self.failed(pod.map(|pod| &**pod), &step, &error);
        false
    }

    fn failed(&mut self, pod: Option<&Pod>, step: &Step, error: &PerformError) {
        let message = error.to_string();
        let name = pod.map_or("", |pod| &pod.meta().name);
        tracing::warn!(uid = self.uid, name, ?step, error = message, "a step failed");
        let now = Timestamp::now();
        let mut setup = |reason: &str| {
            self.memory.setup =
                Some(Failure::again(self.memory.setup.as_ref(), reason, message.clone(), now));
            reason.to_owned()
        };
        let (container, reason, text) = match step {
            Step::CreateSandbox | Step::AttachNetwork => {
                let reason = setup("FailedCreatePodSandBox");
                ("", reason, format!("Failed to create pod sandbox: {message}"))
            }
            Step::MountVolumes => ("", setup("FailedMount"), message),
            Step::Start { container, .. } => {
                let before = self.memory.starts.get(container);
                let failure = Failure::again(before, error.reason(), message.clone(), now);
                let text = match failure.reason.as_str() {
                    "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
                        let image =
                            pod.and_then(|pod| find_container(pod, container)).map(|found| &found.image);
                        format!("Failed to pull image \"{}\": {message}", image.map_or("", String::as_str))
                    }
                    _ => format!("Error: {message}"),
                };
                self.memory.starts.insert(container.clone(), failure);
                (container.as_str(), "Failed".to_owned(), text)
            }
            Step::Stop { .. } | Step::Remove { .. } | Step::TearDown | Step::DetachNetwork => {
                ("", "FailedKillPod".to_owned(), format!("error killing pod: {message}"))
            }
            Step::ConfirmEnd => return,
        };
        if let Some(pod) = pod {
            self.warn(pod, container, &reason, text);
        }
    }

    async fn create_sandbox(&mut self, pod: &Pod) -> Result {
        self.memory.leftovers = true;
        let addresses = if pod.spec().host_network {
            vec![]
        } else {
            vec![self.context.network.reserve(&self.uid).await?]
        };
        if sandbox::misses_cluster_dns(pod, &self.context.names) {
            let message =
                "this node has no cluster DNS; the pod gets the node's resolv.conf (dnsPolicy Default)";
            self.warn(pod, "", "MissingClusterDNS", message.to_owned());
        }
        let spec = sandbox::spec(pod, &addresses, &self.context.names);
        let made = self.blocking(move |runtime| runtime.create_sandbox(&spec)).await??;
        self.memory.sandbox = Some(made);
        self.memory.setup = None;
        Ok(())
    }

    async fn attach(&mut self) -> Result {
        let Some(netns) = self.sandbox()?.netns.clone() else { return Ok(()) };
        let attachment = self.context.network.add_pod(&self.uid, &netns).await?;
        let link = PodLink {
            ifindex: attachment.host_ifindex,
            addresses: attachment.addresses.clone(),
            pod_mac: attachment.pod_mac,
            host_mac: attachment.host_mac,
        };
        self.context.dataplane.call(move |dataplane| dataplane.attach_pod(&link)).await?;
        self.memory.attachment = Some(attachment);
        self.memory.setup = None;
        Ok(())
    }

    async fn detach(&mut self) -> Result {
        // The dataplane lets go first: an index may be another link's once the link is gone.
        if let Some(ifindex) = self.context.network.host_ifindex(&self.uid).await? {
            self.context.dataplane.call(move |dataplane| dataplane.detach_pod(ifindex)).await?;
        }
        self.context.network.remove_pod(&self.uid).await?;
        self.memory.attachment = None;
        Ok(())
    }

    async fn mount_volumes(&mut self, pod: &Arc<Pod>) -> Result {
        let dir = self.sandbox()?.dir.clone();
        let needed = Needed::by_volumes(&pod.spec().volumes);
        let sources = needed.fetch(&self.context.client, &pod.meta().namespace).await?;
        let (pod, around) = (Arc::clone(pod), self.surroundings(pod));
        self.blocking(move |_| volumes::make(&pod, &dir, &sources, &around)).await??;
        self.memory.volumes = true;
        self.memory.setup = None;
        Ok(())
    }

    async fn start(&mut self, pod: &Arc<Pod>, name: &str, restart: u32) -> Result {
        let container =
            find_container(pod, name).ok_or_else(|| PerformError::NoContainer(name.to_owned()))?.clone();
        let key = ContainerKey::new(&self.uid, name, restart);
        container::check(&container)?;
        self.remember_crash(&key);
        let needed = Needed::by_container(&container);
        let sources = needed.fetch(&self.context.client, &pod.meta().namespace).await?;
        let variables = env::environment(pod, &container, &sources, &self.surroundings(pod))?;
        let (reference, policy) = (container.image.clone(), container::pull_policy(&container));
        let image = self.blocking(move |runtime| runtime.images().resolve(&reference, policy)).await??;
        self.tell(
            pod,
            name,
            "Pulled",
            format!("Container image \"{}\" is present on this node ({})", image.reference, image.digest),
        );
        let dir = self.sandbox()?.dir.clone();
        let spec =
            container::spec(pod, &container, key.clone(), image, variables, &dir, &self.context.seccomp_dir)?;
        let create = move |runtime: &Runtime| runtime.create_container(&spec);
        self.blocking(create).await??;
        self.tell(pod, name, "Created", format!("Created container: {name}"));
        let started = key.clone();
        let start = move |runtime: &Runtime| {
            let outcome = runtime.start_container(&started);
            if outcome.is_err() {
                // It never ran: the next try makes it anew under the same number.
                runtime.remove_container(&started)?;
            }
            outcome
        };
        self.blocking(start).await??;
        self.tell(pod, name, "Started", format!("Started container {name}"));
        self.memory.starts.remove(name);
        Ok(())
    }

    /// Counts the run before this one, once.
    fn remember_crash(&mut self, key: &ContainerKey) {
        let Some(before) = key.restart.checked_sub(1) else { return };
        let failed_before = self.memory.starts.contains_key(&key.name);
        let previous = self.context.runtime.status(&ContainerKey::new(&self.uid, &key.name, before)).ok();
        if let Some(exit) = previous.as_ref().and_then(exit).filter(|_| !failed_before) {
            let crashes = self.memory.crashes.entry(key.name.clone()).or_default();
            *crashes = crashes_after(*crashes, exit);
        }
    }

    /// Lets a thread wait for the container's end; its exit wakes this worker.
    fn stop(&mut self, pod: Option<&Arc<Pod>>, key: &ContainerKey, deadline: Timestamp, why: &Why) {
        let stopping = Arc::clone(&self.memory.stopping);
        let again =
            stopping.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), deadline).is_some();
        if let Some(pod) = pod.filter(|_| !again) {
            let message = match why {
                Why::PodEnds => format!("Stopping container {}", key.name),
                Why::Unhealthy(why) => format!("Container {} will be restarted: {why}", key.name),
            };
            self.tell(pod, &key.name, "Killing", message);
        }
        let grace = Duration::try_from(deadline.duration_since(Timestamp::now())).unwrap_or_default();
        let (runtime, key, wake) = (Arc::clone(&self.context.runtime), key.clone(), Arc::clone(&self.wake));
        tokio::task::spawn_blocking(move || {
            if let Err(error) = runtime.stop_container(&key, grace) {
                tracing::warn!(container = %key, %error, "cannot stop a container");
                std::thread::sleep(Duration::from_secs(1));
            }
            stopping.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            wake.notify_one();
        });
    }

    async fn remove(&mut self, key: ContainerKey) -> Result {
        self.blocking(move |runtime| runtime.remove_container(&key)).await??;
        Ok(())
    }

    async fn tear_down(&mut self) -> Result {
        self.detach().await?;
        let uid = self.uid.clone();
        self.blocking(move |runtime| runtime.remove_sandbox(&uid)).await??;
        self.memory.sandbox = None;
        self.memory.volumes = false;
        self.memory.leftovers = false;
        Ok(())
    }

    async fn confirm_end(&mut self, pod: &Pod) -> Result {
        let api = self.context.client.namespaced::<Pod>(&pod.meta().namespace);
        match api.delete(&pod.meta().name, &DeleteOptions::now(&self.uid)).await {
            // Another pod may have the name by now.
            Err(error) if !(error.is_not_found() || error.is_conflict()) => Err(error.into()),
            _ => {
                self.memory.confirmed = true;
                Ok(())
            }
        }
    }

    fn sandbox(&self) -> Result<&Sandbox> {
        self.memory.sandbox.as_ref().ok_or(PerformError::NoSandbox)
    }

    fn surroundings(&self, pod: &Pod) -> Surroundings {
        Surroundings {
            node_name: self.context.node_name.clone(),
            host_ip: self.context.node_ip,
            pod_ips: self.addresses(pod),
            allocatable: self.context.allocatable.clone(),
        }
    }

    async fn blocking<T: Send + 'static>(&self, f: impl FnOnce(&Runtime) -> T + Send + 'static) -> Result<T> {
        let runtime = Arc::clone(&self.context.runtime);
        tokio::task::spawn_blocking(move || f(&runtime)).await.map_err(|_| PerformError::Interrupted)
    }

    /// The pod, or one of its containers, as events refer to it.
    pub(super) fn about(&self, pod: &Pod, container: &str) -> ObjectReference {
        let mut about = reference(pod);
        if !container.is_empty() {
            let is_init = pod.spec().init_containers.iter().any(|init| init.name == container);
            let field = if is_init { "initContainers" } else { "containers" };
            about.field_path = format!("spec.{field}{{{container}}}");
        }
        about
    }

    fn tell(&self, pod: &Pod, container: &str, reason: &str, message: String) {
        self.context.recorder.tell(self.about(pod, container), Severity::Normal, reason, message);
    }

    pub(super) fn warn(&self, pod: &Pod, container: &str, reason: &str, message: String) {
        self.context.recorder.tell(self.about(pod, container), Severity::Warning, reason, message);
    }
}

fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    all_containers(pod).map(|(_, container)| container).find(|container| container.name == name)
}
