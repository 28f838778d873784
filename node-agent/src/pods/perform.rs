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
use super::mirror::is_static;
use super::observed::{Failure, crashes_after, exit};
use super::plan::{Step, Why};
use super::sandbox::Names;
use super::sources::Needed;
use super::tokens::TokenError;
use super::worker::{Worker, all_containers};
use super::{container, env, ephemeral, resolv_conf, sandbox, services, termination, volumes};
use crate::dataplane::DataplaneError;

/// What the runtime says of a program that could not be executed.
const NOT_EXECUTED: &str = "RunContainerError";
/// How long the end of such a container may be on its way.
const END_OF_START: Duration = Duration::from_secs(10);

/// How long a pod waits for the node to hear where cluster DNS is. With a control plane that is a matter of milliseconds.
const ADDRESS_OF_DNS: Duration = Duration::from_secs(5);

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
    #[error("volume {volume:?}: {source}")]
    VolumeImage { volume: String, image: String, source: Box<weir_runtime::images::ImageError> },
    #[error(transparent)]
    Services(#[from] services::ServicesError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("cannot make the container's termination message file: {0}")]
    Message(std::io::Error),
    #[error("cannot remove volume {name:?}: {source}")]
    Release { name: String, source: std::io::Error },
    #[error("the pod has no container {0:?}")]
    NoContainer(String),
    #[error("the pod has no sandbox")]
    NoSandbox,
    #[error("interrupted")]
    Interrupted,
    /// Nothing failed: the pod is to end, and the step was for its life.
    #[error("the pod is to end")]
    Dismissed,
}

impl PerformError {
    /// Kubernetes' word for it in a waiting container's status.
    fn reason(&self) -> &'static str {
        match self {
            Self::Runtime(error) => error.reason(),
            Self::Image(error) => error.reason(),
            Self::VolumeImage { source, .. } => source.reason(),
            Self::Env(_)
            | Self::Container(_)
            | Self::Client(_)
            | Self::Services(_)
            | Self::Token(_)
            | Self::Volume(_)
            | Self::NoContainer(_) => "CreateContainerConfigError",
            Self::Network(_)
            | Self::Dataplane(_)
            | Self::NoSandbox
            | Self::Message(_)
            | Self::Release { .. }
            | Self::Interrupted
            | Self::Dismissed => "CreateContainerError",
        }
    }
}

pub(super) type Result<T = ()> = std::result::Result<T, PerformError>;

impl Worker {
    /// Whether the step was done. What failed is remembered, told by an event, and planned again.
    pub(super) async fn perform(&mut self, pod: Option<&Arc<Pod>>, step: Step) -> bool {
        tracing::debug!(uid = self.uid, ?step, "step");
        let outcome = match (&step, pod) {
            (Step::TearDown, _) => self.tear_down().await,
            (Step::Stop { key, deadline, why }, _) => {
                self.note_unacknowledged(pod.map(|pod| &**pod));
                self.stop(pod, key, *deadline, why);
                Ok(())
            }
            (Step::Remove { key }, _) => self.remove(key.clone()).await,
            (Step::DetachNetwork, _) => self.detach().await,
            (Step::ReleaseVolumes, _) => self.release_volumes().await,
            (Step::CreateSandbox, Some(pod)) => self.create_sandbox(pod).await,
            (Step::AttachNetwork, Some(_)) => self.attach().await,
            (Step::MountVolumes, Some(pod)) => self.mount_volumes(pod).await,
            (Step::Start { container, restart, .. }, Some(pod)) => self.start(pod, container, *restart).await,
            (Step::ConfirmEnd, Some(pod)) => self.confirm_end(pod).await,
            // Plans for pods that the API forgot hold only the steps above.
            (_, None) => Ok(()),
        };
        let error = match outcome {
            Ok(()) => return true,
            Err(PerformError::Dismissed) => {
                self.wake.notify_one();
                return false;
            }
            Err(error) => error,
        };
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
                let own = pod.and_then(|pod| find_container(pod, container)).map(|found| found.image);
                let image = match error {
                    PerformError::VolumeImage { image, .. } => Some(image),
                    _ => None,
                };
                let named = image.or(own.as_ref()).map_or("", String::as_str);
                let told = image_trouble(error.reason(), named, &message);
                let said = told.as_ref().map_or_else(|| message.clone(), |(_, _, said)| said.clone());
                let image = image.cloned();
                let failure = Failure { image, ..Failure::again(before, error.reason(), said, now) };
                let text = match told {
                    Some((reason, text, _)) => {
                        if let Some(pod) = pod {
                            self.warn(pod, container, reason, text);
                        }
                        format!("Error: {}", failure.reason)
                    }
                    None => format!("Error: {message}"),
                };
                if failure.reason == NOT_EXECUTED {
                    self.memory.starts.remove(container);
                } else {
                    self.memory.starts.insert(container.clone(), failure);
                }
                (container.as_str(), "Failed".to_owned(), text)
            }
            Step::Stop { .. }
            | Step::Remove { .. }
            | Step::TearDown
            | Step::DetachNetwork
            | Step::ReleaseVolumes => {
                ("", "FailedKillPod".to_owned(), format!("error killing pod: {message}"))
            }
            Step::ConfirmEnd => return,
        };
        if let Some(pod) = pod {
            self.warn(pod, container, &reason, text);
        }
    }

    /// With the address of cluster DNS, which a pod that comes first may have to wait for.
    async fn names(&self, pod: &Pod) -> Names {
        let mut addresses = self.context.cluster_dns.clone();
        let known = tokio::time::timeout(ADDRESS_OF_DNS, addresses.wait_for(Option::is_some));
        let cluster_dns = match resolv_conf::wants_cluster_dns(pod) {
            true => known.await.ok().and_then(std::result::Result::ok).and_then(|known| known.clone()),
            false => None,
        };
        Names { cluster_dns: cluster_dns.unwrap_or_default(), ..self.context.names.clone() }
    }

    async fn create_sandbox(&mut self, pod: &Pod) -> Result {
        self.memory.leftovers = true;
        let addresses = if pod.spec().host_network {
            vec![]
        } else {
            vec![self.context.network.reserve(&self.uid).await?]
        };
        let names = self.names(pod).await;
        if resolv_conf::misses_cluster_dns(pod, &names) {
            let message =
                "this node has no cluster DNS; the pod gets the node's resolv.conf (dnsPolicy Default)";
            self.warn(pod, "", "MissingClusterDNS", message.to_owned());
        }
        for omission in resolv_conf::form(pod, &names).omissions {
            self.warn(pod, "", "DNSConfigForming", omission);
        }
        let mut spec = sandbox::spec(pod, &addresses, &names);
        spec.resources.pids_limit = self.context.pod_max_pids;
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
        let (network, dataplane) = (&self.context.network, &self.context.dataplane);
        let known = self.memory.attachment.as_ref().map(|attachment| attachment.host_ifindex);
        let ifindex = network.host_ifindex(&self.uid).await?.or(known);
        // The maps let go first, so that nothing is sent to a link that is going; the programs when it is gone, which is
        // quick. What a crash leaves of them is removed when the dataplane is opened.
        if let Some(ifindex) = ifindex {
            dataplane.call(move |dataplane| dataplane.forget_pod(ifindex)).await?;
        }
        network.remove_pod(&self.uid).await?;
        if let Some(ifindex) = ifindex {
            dataplane.call(move |dataplane| dataplane.detach_pod(ifindex)).await?;
        }
        self.memory.attachment = None;
        Ok(())
    }

    async fn mount_volumes(&mut self, pod: &Arc<Pod>) -> Result {
        let dir = self.sandbox()?.dir.clone();
        let needed = Needed::by_volumes(&pod.spec().volumes);
        let mut sources = needed.fetch(&self.context.client, &pod.meta().namespace).await?;
        self.context.tokens.add_to(&mut sources, &self.context.client, pod).await?;
        let (versions, renew_at) = (sources.versions(), sources.renew_at);
        let (pod, around) = (Arc::clone(pod), self.surroundings(pod));
        self.blocking(move |_| volumes::make(&pod, &dir, &sources, &around)).await??;
        (self.memory.shown, self.memory.renew_at) = (Some(versions), renew_at);
        self.memory.volumes = true;
        self.memory.setup = None;
        Ok(())
    }

    async fn start(&mut self, pod: &Arc<Pod>, name: &str, restart: u32) -> Result {
        let container =
            find_container(pod, name).ok_or_else(|| PerformError::NoContainer(name.to_owned()))?;
        let key = ContainerKey::new(&self.uid, name, restart);
        container::check(pod, &container)?;
        self.remember_crash(&key);
        let dir = self.sandbox()?.dir.clone();
        let variables = self.environment(pod, &container, &dir).await?;
        self.mount_images(pod, &container).await?;
        let image = self.image(pod, &container).await?;
        let (pod_dir, run) = (dir.clone(), key.clone());
        self.blocking(move |_| termination::prepare(&pod_dir, &run)).await?.map_err(PerformError::Message)?;
        let mut spec =
            container::spec(pod, &container, key.clone(), image, variables, &dir, &self.context.seccomp_dir)?;
        spec.target = ephemeral::target(pod, name, &self.context.runtime.list());
        let create = move |runtime: &Runtime| runtime.create_container(&spec);
        self.blocking(create).await??;
        self.tell(pod, name, "Created", format!("Created container: {name}"));
        let started = key.clone();
        let start = move |runtime: &Runtime| {
            let outcome = runtime.start_container(&started);
            match &outcome {
                // It has ended: its restart policy says what comes next.
                Err(error) if error.reason() == NOT_EXECUTED => {
                    runtime.wait_container(&started, END_OF_START)?;
                }
                // It never ran: the next try makes it anew under the same number.
                Err(_) => runtime.remove_container(&started)?,
                Ok(_) => {}
            }
            outcome
        };
        self.blocking(start).await??;
        self.tell(pod, name, "Started", format!("Started container {name}"));
        self.memory.starts.remove(name);
        self.post_start(pod, &container, &key).await
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

    /// Says so, once, and has the container ended without waiting for it.
    pub(super) fn stop(
        &mut self,
        pod: Option<&Arc<Pod>>,
        key: &ContainerKey,
        deadline: Timestamp,
        why: &Why,
    ) {
        let mut stopping = self.memory.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        let again = stopping.insert(key.clone(), deadline).is_some();
        drop(stopping);
        // A second, less patient order finds the hook called already.
        let pod = pod.filter(|_| !again);
        if let Some(pod) = pod {
            let message = match why {
                Why::PodEnds => format!("Stopping container {}", key.name),
                Why::Unhealthy(why) => format!("Container {} will be restarted: {why}", key.name),
            };
            self.tell(pod, &key.name, "Killing", message);
        }
        self.end_container(pod, key, deadline);
    }

    async fn remove(&mut self, key: ContainerKey) -> Result {
        let remove = move |runtime: &Runtime| {
            runtime.remove_container(&key)?;
            // Runs that nobody can ask for any more would fill the disk with their logs.
            runtime.remove_log(&key)
        };
        self.blocking(remove).await??;
        Ok(())
    }

    async fn tear_down(&mut self) -> Result {
        self.end_refresher().await;
        self.detach().await?;
        let uid = self.uid.clone();
        self.blocking(move |runtime| runtime.remove_sandbox(&uid)).await??;
        self.memory.sandbox = None;
        self.memory.volumes = false;
        self.memory.leftovers = false;
        Ok(())
    }

    async fn confirm_end(&mut self, pod: &Pod) -> Result {
        if is_static(pod) {
            // Its mirror is not of the same uid, and went when the file did.
            self.memory.confirmed = true;
            return Ok(());
        }
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

    pub(super) fn surroundings(&self, pod: &Pod) -> Surroundings {
        Surroundings {
            node_name: self.context.node_name.clone(),
            host_ip: self.context.node_ip,
            pod_ips: self.addresses(pod),
            allocatable: self.context.allocatable.clone(),
        }
    }

    pub(super) fn blocking<T, F>(&self, f: F) -> impl Future<Output = Result<T>> + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&Runtime) -> T + Send + 'static,
    {
        let runtime = Arc::clone(&self.context.runtime);
        let task = tokio::task::spawn_blocking(move || f(&runtime));
        async { task.await.map_err(|_| PerformError::Interrupted) }
    }

    /// The pod, or one of its containers, as events refer to it.
    pub(super) fn about(&self, pod: &Pod, container: &str) -> ObjectReference {
        let mut about = reference(pod);
        if !container.is_empty() {
            let is_init = pod.spec().init_containers.iter().any(|init| init.name == container);
            let field = match ephemeral::is_ephemeral(pod, container) {
                true => "ephemeralContainers",
                false if is_init => "initContainers",
                false => "containers",
            };
            about.field_path = format!("spec.{field}{{{container}}}");
        }
        about
    }

    pub(super) fn tell(&self, pod: &Pod, container: &str, reason: &str, message: String) {
        self.context.recorder.tell(self.about(pod, container), Severity::Normal, reason, message);
    }

    pub(super) fn warn(&self, pod: &Pod, container: &str, reason: &str, message: String) {
        self.context.recorder.tell(self.about(pod, container), Severity::Warning, reason, message);
    }
}

/// Ephemeral ones included.
pub(super) fn find_container(pod: &Pod, name: &str) -> Option<Container> {
    let found = all_containers(pod).map(|(_, container)| container).find(|container| container.name == name);
    found.cloned().or_else(|| ephemeral::containers(pod).find(|container| container.name == name))
}

/// What went wrong with an image, in the kubelet's words: the event's reason and text, and what the status says.
fn image_trouble(reason: &str, image: &str, message: &str) -> Option<(&'static str, String, String)> {
    match reason {
        "ErrImagePull" => Some((
            "Failed",
            format!("Failed to pull image \"{image}\": {message}"),
            format!("failed to pull image \"{image}\": {message}"),
        )),
        "ErrImageNeverPull" => {
            let text = format!("Container image \"{image}\" is not present with pull policy of Never");
            Some(("ErrImageNeverPull", text.clone(), text))
        }
        "InvalidImageName" => Some((
            "InspectFailed",
            format!("Failed to apply default image tag \"{image}\": {message}"),
            format!("Failed to apply default image tag \"{image}\": {message}"),
        )),
        _ => None,
    }
}
