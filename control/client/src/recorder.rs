//! Tells users what happened to an object, as Event objects beside it.
//!
//! The same thing told again raises the count of the event that is there instead of adding another. Telling never
//! waits: what comes faster than it can be written, or too often about one object, is left out and counted in the
//! log. What is remembered of past events is a bounded cache; after a restart the first repeat makes a new event.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use weir_proto::Resource;
use weir_proto::core::v1::{Event, EventSource, ObjectReference};
use weir_proto::meta::v1::Time;

use crate::client::Client;
use crate::{Error, Result};

/// Events that wait to be written.
const QUEUE: usize = 1024;
/// Events and objects that are remembered.
const REMEMBERED: usize = 4096;
/// What one object may cause at once, and how soon it may cause one more (as Kubernetes limits it).
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// Of all objects together: this many a second.
const PER_SECOND: u32 = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    Normal,
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        }
    }
}

/// Cheap to clone; needs a tokio runtime.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Told>,
    left_out: Arc<AtomicU64>,
    _task: Arc<AbortOnDropHandle<()>>,
}

#[derive(Debug, Clone)]
struct Told {
    about: ObjectReference,
    severity: Severity,
    reason: String,
    message: String,
    at: Time,
}

/// What makes two events the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Same {
    object: String,
    severity: Severity,
    reason: String,
    message: String,
}

impl Recorder {
    /// `component` is who tells ("deployment-controller"), `host` where from (a node's name, or empty).
    pub fn new(client: &Client, component: &str, host: &str) -> Recorder {
        let (queue, told) = mpsc::channel(QUEUE);
        let writer = Writer {
            client: client.clone(),
            source: EventSource { component: component.to_owned(), host: host.to_owned() },
            written: HashMap::new(),
            budgets: HashMap::new(),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(writer.run(told)));
        Recorder { queue, left_out: Arc::default(), _task: Arc::new(task) }
    }

    pub fn normal<R: Resource>(&self, about: &R, reason: &str, message: impl Into<String>) {
        self.tell(reference(about), Severity::Normal, reason, message);
    }

    pub fn warning<R: Resource>(&self, about: &R, reason: &str, message: impl Into<String>) {
        self.tell(reference(about), Severity::Warning, reason, message);
    }

    /// About anything that can be referred to.
    pub fn tell(&self, about: ObjectReference, severity: Severity, reason: &str, message: impl Into<String>) {
        let told =
            Told { about, severity, reason: reason.to_owned(), message: message.into(), at: Time::now() };
        if self.queue.try_send(told).is_err() {
            let left_out = self.left_out.fetch_add(1, Ordering::Relaxed) + 1;
            if left_out.is_power_of_two() {
                tracing::warn!(left_out, "events come faster than they can be written");
            }
        }
    }
}

/// Points at an object, as events do.
pub fn reference<R: Resource>(object: &R) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: R::KIND.api_version(),
        kind: R::KIND.kind.to_owned(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectReference::default()
    }
}

struct Writer {
    client: Client,
    source: EventSource,
    /// The event as it was last written.
    written: HashMap<Same, Event>,
    budgets: HashMap<String, Budget>,
}

/// A token bucket.
struct Budget {
    tokens: f64,
    since: Instant,
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        let earned = now.duration_since(self.since).as_secs_f64() / REFILL.as_secs_f64();
        self.tokens = (self.tokens + earned).min(BURST);
        self.since = now;
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

impl Writer {
    async fn run(mut self, mut told: mpsc::Receiver<Told>) {
        while let Some(told) = told.recv().await {
            if !self.affords(&told.about) {
                tracing::debug!(
                    object = told.about.name,
                    reason = told.reason,
                    "too many events about this object"
                );
                continue;
            }
            let (object, reason) = (told.about.name.clone(), told.reason.clone());
            if let Err(error) = self.write(told).await {
                tracing::warn!(object, reason, %error, "cannot write an event");
            }
            tokio::time::sleep(Duration::from_secs(1) / PER_SECOND).await;
        }
    }

    fn affords(&mut self, about: &ObjectReference) -> bool {
        let now = Instant::now();
        if self.budgets.len() >= REMEMBERED {
            // Who has not been heard of for long enough to have a full bucket needs none.
            self.budgets.retain(|_, budget| {
                let earned = now.duration_since(budget.since).as_secs_f64() / REFILL.as_secs_f64();
                budget.tokens + earned < BURST
            });
        }
        if self.budgets.len() >= REMEMBERED {
            self.budgets.clear();
        }
        let object = format!("{} {}/{}", about.kind, about.namespace, about.name);
        self.budgets.entry(object).or_insert(Budget { tokens: BURST, since: now }).take(now)
    }

    async fn write(&mut self, told: Told) -> Result<()> {
        let same = told.same();
        let written = match self.written.get(&same) {
            Some(event) => self.again(event.clone(), &told).await,
            None => self.first(&told).await,
        };
        let event = written?;
        if self.written.len() >= REMEMBERED {
            self.written.clear();
        }
        self.written.insert(same, event);
        Ok(())
    }

    async fn first(&self, told: &Told) -> Result<Event> {
        self.client.api::<Event>().create(&told.event(&self.source)).await
    }

    /// Somebody may have changed or removed (or time expired) the event since.
    async fn again(&self, mut event: Event, told: &Told) -> Result<Event> {
        let api = self.client.namespaced::<Event>(&event.meta().namespace);
        repeat(&mut event, told);
        match api.update(&event).await {
            Err(Error::Api(error)) if matches!(error.reason(), "NotFound" | "Conflict") => {
                match api.get_opt(&event.meta().name).await? {
                    None => self.first(told).await,
                    Some(mut present) => {
                        repeat(&mut present, told);
                        api.update(&present).await
                    }
                }
            }
            answer => answer,
        }
    }
}

fn repeat(event: &mut Event, told: &Told) {
    event.count += 1;
    event.last_timestamp = Some(told.at);
}

impl Told {
    fn same(&self) -> Same {
        let about = &self.about;
        Same {
            object: format!(
                "{} {} {}/{} {} {}",
                about.api_version, about.kind, about.namespace, about.name, about.uid, about.field_path
            ),
            severity: self.severity,
            reason: self.reason.clone(),
            message: self.message.clone(),
        }
    }

    fn event(&self, source: &EventSource) -> Event {
        let mut event = Event {
            involved_object: Some(self.about.clone()),
            reason: self.reason.clone(),
            message: self.message.clone(),
            r#type: self.severity.as_str().to_owned(),
            count: 1,
            first_timestamp: Some(self.at),
            last_timestamp: Some(self.at),
            source: Some(source.clone()),
            reporting_component: source.component.clone(),
            reporting_instance: source.host.clone(),
            ..Event::default()
        };
        let namespace = if self.about.namespace.is_empty() { "default" } else { &self.about.namespace };
        let meta = event.meta_mut();
        meta.namespace = namespace.to_owned();
        // The server makes it unique.
        meta.generate_name = format!("{}.", self.about.name);
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeServer;
    use crate::{Informer, informer};
    use weir_proto::core::v1::Node;

    fn node(name: &str) -> Node {
        let mut node = Node::default();
        node.meta_mut().name = name.to_owned();
        node
    }

    /// The events there are, once `holds` is true of them.
    async fn events(informer: &Informer<Event>, holds: impl Fn(&[Arc<Event>]) -> bool) -> Vec<Arc<Event>> {
        let mut changes = informer.subscribe();
        let wait = async {
            loop {
                let events = informer.list();
                if holds(&events) {
                    return events;
                }
                changes.next().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the events never came")
    }

    #[tokio::test]
    async fn the_same_thing_told_again_raises_a_count() {
        let server = FakeServer::default();
        let informer = Informer::start(server.client().api::<Event>(), informer::Options::default());
        let recorder = Recorder::new(&server.client(), "tester", "here");
        for _ in 0..3 {
            recorder.warning(&node("n1"), "Broken", "it broke");
        }
        recorder.normal(&node("n1"), "Mended", "it is well again");
        let events = events(&informer, |events| {
            events.len() == 2 && events.iter().map(|event| event.count).sum::<i32>() == 4
        })
        .await;
        let broken = events.iter().find(|event| event.reason == "Broken").unwrap();
        assert_eq!((broken.count, broken.r#type.as_str()), (3, "Warning"));
        assert_eq!(broken.meta().namespace, "default");
        assert_eq!(broken.involved_object.as_ref().unwrap().kind, "Node");
    }

    #[test]
    fn one_object_cannot_cause_events_without_end() {
        let start = Instant::now();
        let mut budget = Budget { tokens: BURST, since: start };
        let taken = (0..100).filter(|_| budget.take(start)).count();
        assert_eq!(taken, 25);
        assert!(budget.take(start + REFILL), "nothing is earned back");
    }
}
