//! Probes of a running container: one task per run, which asks and keeps the answers for its pod's worker.
//!
//! The startup probe comes first; readiness and liveness begin once it has succeeded. HTTP and TCP are asked from the
//! node, over TLS where the scheme says so, and gRPC by its health service; commands run in the container. Nobody's
//! certificate is checked, as in Kubernetes.

mod ask;
mod grpc;
mod tls;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use weir_client::{Recorder, Severity};
use weir_proto::IntOrString;
use weir_proto::core::v1::{Container, ObjectReference, Probe};
use weir_runtime::{ContainerKey, Runtime};

use super::observed::Probed;
pub(super) use ask::ask;

#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum ProbeError {
    #[error("{probe}: port {port:?} is neither a number nor the name of one of the container's ports")]
    Port { probe: &'static str, port: String },
}

/// Everything a prober needs to know.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub runtime: Arc<Runtime>,
    pub key: ContainerKey,
    pub address: IpAddr,
    pub container: Container,
    /// The container, for events.
    pub about: ObjectReference,
    pub recorder: Recorder,
    /// Told when an answer changes something.
    pub wake: Arc<Notify>,
}

/// Probes until dropped.
#[derive(Debug)]
pub(super) struct Prober {
    probed: Arc<Mutex<Probed>>,
    _task: AbortOnDropHandle<()>,
}

impl Prober {
    /// `before` is what is known from before a restart of the agent. `None` for a container without probes.
    pub(super) fn start(target: Target, before: Probed) -> Option<Self> {
        let container = &target.container;
        if container.startup_probe.is_none()
            && container.readiness_probe.is_none()
            && container.liveness_probe.is_none()
        {
            return None;
        }
        let first = Probed {
            started: before.started || container.startup_probe.is_none(),
            ready: before.ready || container.readiness_probe.is_none(),
            unhealthy: None,
        };
        let probed = Arc::new(Mutex::new(first));
        let task = AbortOnDropHandle::new(tokio::spawn(run(target, Arc::clone(&probed))));
        Some(Self { probed, _task: task })
    }

    pub(super) fn probed(&self) -> Probed {
        self.probed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Names the ports of probes and hooks that the container does not have.
pub(super) fn check(container: &Container) -> Result<(), ProbeError> {
    let hooks = container
        .lifecycle
        .as_ref()
        .map_or([None, None], |lifecycle| [lifecycle.post_start.as_ref(), lifecycle.pre_stop.as_ref()]);
    let hooks = ["lifecycle.postStart", "lifecycle.preStop"].into_iter().zip(hooks);
    let hooks =
        hooks.filter_map(|(name, hook)| Some((name, hook?.http_get.as_ref(), hook?.tcp_socket.as_ref())));
    let probes = named(container).into_iter();
    let probes =
        probes.filter_map(|(name, probe)| Some((name, probe?.http_get.as_ref(), probe?.tcp_socket.as_ref())));
    for (probe, http, tcp) in probes.chain(hooks) {
        let http = http.and_then(|get| get.port.as_ref());
        let tcp = tcp.and_then(|tcp| tcp.port.as_ref());
        for wanted in http.into_iter().chain(tcp) {
            if port(container, wanted).is_none() {
                return Err(ProbeError::Port { probe, port: wanted.to_string() });
            }
        }
    }
    Ok(())
}

fn named(container: &Container) -> [(&'static str, Option<&Probe>); 3] {
    [
        ("startupProbe", container.startup_probe.as_deref()),
        ("readinessProbe", container.readiness_probe.as_deref()),
        ("livenessProbe", container.liveness_probe.as_deref()),
    ]
}

fn port(container: &Container, wanted: &IntOrString) -> Option<u16> {
    match wanted {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|port| *port != 0),
        IntOrString::String(name) => {
            let found = container.ports.iter().find(|port| port.name == *name);
            match found {
                Some(port) => u16::try_from(port.container_port).ok(),
                None => name.parse().ok(),
            }
        }
    }
}

async fn run(target: Target, probed: Arc<Mutex<Probed>>) {
    let set = |change: &dyn Fn(&mut Probed)| {
        let mut probed = probed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = probed.clone();
        change(&mut probed);
        if *probed != before {
            target.wake.notify_one();
        }
    };
    let [startup, readiness, liveness] = named(&target.container);
    let already = probed.lock().unwrap_or_else(PoisonError::into_inner).started;
    if let (name, Some(probe)) = startup
        && !already
    {
        let mut series = Series::new(name, probe, &target);
        loop {
            match series.next().await {
                Verdict::Good => break,
                Verdict::Bad(why) => return set(&|probed| probed.unhealthy = Some(why.clone())),
                Verdict::Unsettled => {}
            }
        }
        set(&|probed| probed.started = true);
    }
    let readiness = async {
        if let (name, Some(probe)) = readiness {
            let mut series = Series::new(name, probe, &target);
            loop {
                match series.next().await {
                    Verdict::Good => set(&|probed| probed.ready = true),
                    Verdict::Bad(_) => set(&|probed| probed.ready = false),
                    Verdict::Unsettled => {}
                }
            }
        }
    };
    let liveness = async {
        if let (name, Some(probe)) = liveness {
            let mut series = Series::new(name, probe, &target);
            loop {
                if let Verdict::Bad(why) = series.next().await {
                    set(&|probed| probed.unhealthy = Some(why.clone()));
                }
            }
        }
    };
    tokio::join!(readiness, liveness);
}

enum Verdict {
    /// As many successes in a row as it takes.
    Good,
    /// As many failures in a row as it takes.
    Bad(String),
    Unsettled,
}

/// One probe, asked again and again.
struct Series<'a> {
    name: &'static str,
    probe: &'a Probe,
    target: &'a Target,
    begun: bool,
    good: i32,
    bad: i32,
}

impl<'a> Series<'a> {
    fn new(name: &'static str, probe: &'a Probe, target: &'a Target) -> Self {
        Self { name, probe, target, begun: false, good: 0, bad: 0 }
    }

    async fn next(&mut self) -> Verdict {
        let seconds = |number: i32, default: u64| {
            Duration::from_secs(u64::try_from(number).ok().filter(|n| *n > 0).unwrap_or(default))
        };
        let wait = if self.begun {
            seconds(self.probe.period_seconds, 10)
        } else {
            seconds(self.probe.initial_delay_seconds, 0)
        };
        self.begun = true;
        tokio::time::sleep(wait).await;
        let timeout = seconds(self.probe.timeout_seconds, 1);
        match ask(self.probe, self.target, timeout).await {
            Ok(()) => {
                (self.good, self.bad) = (self.good.saturating_add(1), 0);
                if self.good >= self.probe.success_threshold.max(1) {
                    Verdict::Good
                } else {
                    Verdict::Unsettled
                }
            }
            Err(why) => {
                (self.good, self.bad) = (0, self.bad.saturating_add(1));
                let kind = self.name.trim_end_matches("Probe");
                let message = format!("{}{} probe failed: {why}", kind[..1].to_uppercase(), &kind[1..]);
                let target = self.target;
                target.recorder.tell(target.about.clone(), Severity::Warning, "Unhealthy", &message);
                let enough = if self.probe.failure_threshold > 0 { self.probe.failure_threshold } else { 3 };
                if self.bad >= enough { Verdict::Bad(message) } else { Verdict::Unsettled }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::{ContainerPort, HttpGetAction, Lifecycle, LifecycleHandler, TcpSocketAction};

    use super::*;

    fn with(probe: Probe) -> Container {
        let port = ContainerPort { name: "web".to_owned(), container_port: 8080, ..ContainerPort::default() };
        Container { ports: vec![port], readiness_probe: Some(Box::new(probe)), ..Container::default() }
    }

    #[test]
    fn ports_are_numbers_or_names() {
        let container = with(Probe::default());
        assert_eq!(port(&container, &IntOrString::Int(80)), Some(80));
        assert_eq!(port(&container, &"web".into()), Some(8080));
        assert_eq!(port(&container, &"none".into()), None);
        assert_eq!(port(&container, &IntOrString::Int(70_000)), None);
    }

    #[test]
    fn a_port_that_the_container_does_not_have_is_named() {
        let tcp = TcpSocketAction { port: Some("none".into()), ..TcpSocketAction::default() };
        let container = with(Probe { tcp_socket: Some(tcp), ..Probe::default() });
        let error = check(&container).expect_err("refused").to_string();
        assert!(error.starts_with("readinessProbe: port \"none\""), "{error}");
        let get = HttpGetAction { port: Some("none".into()), ..HttpGetAction::default() };
        let hook = LifecycleHandler { http_get: Some(get), ..LifecycleHandler::default() };
        let lifecycle = Some(Box::new(Lifecycle { pre_stop: Some(hook), ..Lifecycle::default() }));
        let container = Container { lifecycle, ..with(Probe::default()) };
        let error = check(&container).expect_err("refused").to_string();
        assert!(error.starts_with("lifecycle.preStop: port \"none\""), "{error}");
    }
}
