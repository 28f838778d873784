//! Which of several instances acts: the one that holds a Lease.
//!
//! The holder renews the Lease every `retry_period`; others take it once it has not changed for its whole duration,
//! as they see it by their own clock (so clocks need not agree). A holder that could not renew for `renew_deadline`
//! counts itself out, before anybody else can come in.
//!
//! A process that was stopped and wakes late has missed that: its [`Leadership`] is then over by the monotonic clock,
//! and a client bound to it ([`crate::Client::fenced`]) refuses to write. What was already on its way says by which Lease it
//! was sent, and the API server makes that Lease part of the write's transaction: it changes nothing once another
//! holds it. Who has lost the Lease competes for it again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tonic::metadata::{MetadataMap, MetadataValue};
use weir_proto::coordination::v1::{Lease, LeaseSpec};
use weir_proto::meta::v1::MicroTime;

use crate::api::Api;
use crate::backoff::spread;
use crate::client::Client;
use crate::{Error, Result, metrics};

/// The metadata that the API server reads a claim from.
const CLAIM: &str = "weir-leadership-bin";

#[derive(Debug, Clone)]
pub struct Config {
    pub namespace: String,
    /// The Lease that is competed for.
    pub name: String,
    /// Who we are: unique to this process.
    pub identity: String,
    pub lease_duration: Duration,
    pub renew_deadline: Duration,
    pub retry_period: Duration,
}

/// What cannot keep two from leading at a time.
#[derive(Debug, thiserror::Error)]
pub enum TimingError {
    #[error("the lease duration must be longer than the renew deadline")]
    Deadline,
    #[error("the renew deadline must be longer than 1.2 retry periods")]
    Retries,
    #[error("the lease duration must be whole seconds, and the retry period above zero")]
    Units,
}

impl Config {
    /// As Kubernetes' components ask it.
    pub fn check(&self) -> Result<(), TimingError> {
        let seconds = i32::try_from(self.lease_duration.as_secs());
        if seconds.is_err() || self.lease_duration.subsec_nanos() != 0 || self.retry_period.is_zero() {
            return Err(TimingError::Units);
        }
        if self.lease_duration <= self.renew_deadline {
            return Err(TimingError::Deadline);
        }
        if self.renew_deadline <= self.retry_period.mul_f64(1.2) {
            return Err(TimingError::Retries);
        }
        Ok(())
    }

    /// The Lease `name` in `kube-system`, with the durations that Kubernetes' components have.
    pub fn new(name: impl Into<String>, identity: impl Into<String>) -> Config {
        Config {
            namespace: "kube-system".to_owned(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// The right to act, for as long as it lasts.
#[derive(Debug, Clone)]
pub struct Leadership {
    lost: CancellationToken,
    deadline: Arc<Mutex<Instant>>,
    /// By what right: `NAMESPACE/NAME/TRANSITIONS/HOLDER` of the Lease, as the API server reads it.
    claim: Arc<str>,
}

impl Leadership {
    fn until(deadline: Instant, lost: CancellationToken, lease: &Lease) -> Leadership {
        let (meta, spec) = (lease.meta(), lease.spec());
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let transitions = spec.lease_transitions.unwrap_or(0);
        let claim = format!("{}/{}/{transitions}/{holder}", meta.namespace, meta.name);
        Leadership { lost, deadline: Arc::new(Mutex::new(deadline)), claim: claim.into() }
    }

    /// Says in a request by what right it is made.
    pub(crate) fn sign(&self, metadata: &mut MetadataMap) {
        metadata.insert_bin(CLAIM, MetadataValue::from_bytes(self.claim.as_bytes()));
    }

    /// The API server knows better than our clock.
    pub(crate) fn deposed(&self) {
        if !self.lost.is_cancelled() {
            tracing::warn!(claim = &*self.claim, "the API server refuses our writes: the lease was taken");
            self.lost.cancel();
        }
    }

    /// False once it was lost, and also if the deadline has passed while this process could not notice.
    pub fn holds(&self) -> bool {
        !self.lost.is_cancelled()
            && Instant::now() < *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancelled when it is lost, or when the election is told to stop.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    fn extend(&self, deadline: Instant) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }
}

/// Competes until `cancel`; runs `lead` each time the Lease is won. `lead` must return soon after
/// [`Leadership::lost`]; if it returns of itself, the Lease is given up and competed for again.
pub async fn run<F, Fut>(client: &Client, config: &Config, cancel: &CancellationToken, mut lead: F)
where
    F: FnMut(Leadership) -> Fut,
    Fut: Future<Output = ()>,
{
    let mut candidate =
        Candidate { api: client.namespaced(&config.namespace), config: config.clone(), seen: None };
    metrics::leads(&config.name, false);
    while let Some(held) = candidate.acquire(cancel).await {
        metrics::leads(&config.name, true);
        tracing::info!(lease = config.name, identity = config.identity, "leading");
        let leadership = Leadership::until(held.until, cancel.child_token(), &held.lease);
        {
            let work = lead(leadership.clone());
            tokio::pin!(work);
            tokio::select! {
                () = &mut work => leadership.lost.cancel(),
                () = candidate.renew(&leadership, held.lease) => {
                    leadership.lost.cancel();
                    work.await;
                }
            }
        }
        metrics::leads(&config.name, false);
        tracing::info!(lease = config.name, identity = config.identity, "leading no more");
        candidate.release().await;
    }
}

struct Candidate {
    api: Api<Lease>,
    config: Config,
    /// The Lease's revision that was seen last, and since when.
    seen: Option<(String, Instant)>,
}

struct Held {
    lease: Lease,
    until: Instant,
}

impl Candidate {
    /// None once cancelled.
    async fn acquire(&mut self, cancel: &CancellationToken) -> Option<Held> {
        loop {
            if cancel.is_cancelled() {
                return None;
            }
            match self.attempt().await {
                Ok(Some(held)) => return Some(held),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(lease = self.config.name, %error, "cannot compete for the lease")
                }
            }
            tokio::select! {
                () = tokio::time::sleep(spread(self.config.retry_period)) => {}
                () = cancel.cancelled() => return None,
            }
        }
    }

    /// None where somebody else holds it, or was faster.
    async fn attempt(&mut self) -> Result<Option<Held>> {
        let began = Instant::now();
        let until = began + self.config.renew_deadline;
        let written = match self.api.get_opt(&self.config.name).await? {
            None => self.api.create(&self.won(Lease::default())).await,
            Some(lease) if self.free(&lease) => self.api.update(&self.won(lease)).await,
            Some(_) => return Ok(None),
        };
        match written {
            Ok(lease) => Ok(Some(Held { lease, until })),
            Err(error) if error.is_conflict() || error.is_already_exists() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ours, given up, or not renewed for its whole duration.
    fn free(&mut self, lease: &Lease) -> bool {
        let spec = lease.spec();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.config.identity {
            return true;
        }
        let revision = &lease.meta().resource_version;
        match &self.seen {
            Some((seen, since)) if seen == revision => since.elapsed() >= duration(spec),
            _ => {
                self.seen = Some((revision.clone(), Instant::now()));
                false
            }
        }
    }

    /// Each leadership has a number of its own, even if the same instance leads again: what is under way from the
    /// one before must not count for this one.
    fn won(&self, mut lease: Lease) -> Lease {
        let meta = lease.meta_mut();
        meta.namespace = self.config.namespace.clone();
        meta.name = self.config.name.clone();
        let spec = lease.spec_mut();
        spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
        spec.acquire_time = Some(MicroTime::now());
        spec.holder_identity = Some(self.config.identity.clone());
        self.fresh(lease)
    }

    fn fresh(&self, mut lease: Lease) -> Lease {
        let now = MicroTime::now();
        let spec = lease.spec_mut();
        spec.lease_duration_seconds = Some(self.config.lease_duration.as_secs() as i32);
        spec.renew_time = Some(now);
        lease
    }

    /// Returns when the Lease is lost, or no longer wanted.
    async fn renew(&self, leadership: &Leadership, mut lease: Lease) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.config.retry_period) => {}
                () = leadership.lost.cancelled() => return,
            }
            if !leadership.holds() {
                tracing::warn!(lease = self.config.name, "the lease could not be renewed in time");
                return;
            }
            let until = Instant::now() + self.config.renew_deadline;
            let answer = tokio::time::timeout(self.config.retry_period, self.renewed(&lease)).await;
            match answer {
                Ok(Ok(renewed)) => {
                    lease = renewed;
                    leadership.extend(until);
                }
                Ok(Err(error)) if error.is_conflict() || error.is_not_found() => {
                    tracing::warn!(lease = self.config.name, %error, "the lease was taken");
                    return;
                }
                Ok(Err(error)) => tracing::warn!(lease = self.config.name, %error, "cannot renew the lease"),
                Err(_) => tracing::warn!(lease = self.config.name, "no answer when renewing the lease"),
            }
        }
    }

    /// An answer that was lost leaves us with an old revision: if the Lease still is ours, go on from what it is.
    async fn renewed(&self, lease: &Lease) -> Result<Lease> {
        match self.api.update(&self.fresh(lease.clone())).await {
            Err(conflict) if conflict.is_conflict() => {
                let now = self.api.get(&self.config.name).await?;
                let same = now.spec().holder_identity == lease.spec().holder_identity
                    && now.spec().lease_transitions == lease.spec().lease_transitions;
                if !same {
                    return Err(conflict);
                }
                self.api.update(&self.fresh(now)).await
            }
            answer => answer,
        }
    }

    /// Lets the next one in at once.
    async fn release(&self) {
        let identity = self.config.identity.as_str();
        let give_up = |lease: &mut Lease| {
            if lease.spec().holder_identity.as_deref() == Some(identity) {
                lease.spec_mut().holder_identity = None;
            }
        };
        let answer: Result<_, Error> = self.api.modify(&self.config.name, give_up).await;
        if let Err(error) = answer {
            tracing::debug!(lease = self.config.name, %error, "could not give the lease up; it will run out");
        }
    }
}

fn duration(spec: &LeaseSpec) -> Duration {
    Duration::from_secs(spec.lease_duration_seconds.unwrap_or(15).max(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeServer;
    use tokio::sync::mpsc;

    fn config(identity: &str) -> Config {
        Config {
            lease_duration: Duration::from_secs(1),
            renew_deadline: Duration::from_millis(600),
            retry_period: Duration::from_millis(50),
            ..Config::new("weir-test", identity)
        }
    }

    /// Reports its name when it leads, and holds on until it is told otherwise.
    fn compete(
        server: &FakeServer,
        identity: &'static str,
        leads: mpsc::UnboundedSender<(&'static str, Leadership)>,
    ) -> CancellationToken {
        let (client, cancel) = (server.client(), CancellationToken::new());
        let stop = cancel.clone();
        tokio::spawn(async move {
            run(&client, &config(identity), &stop, |leadership| {
                let leads = leads.clone();
                async move {
                    let _ = leads.send((identity, leadership.clone()));
                    leadership.lost().cancelled().await;
                }
            })
            .await;
        });
        cancel
    }

    #[test]
    fn timings_by_which_two_could_lead_are_refused() {
        let with = |lease, renew, retry| {
            let [lease_duration, renew_deadline, retry_period] =
                [lease, renew, retry].map(Duration::from_millis);
            Config { lease_duration, renew_deadline, retry_period, ..Config::new("l", "a") }.check()
        };
        assert!(Config::new("l", "a").check().is_ok());
        assert!(with(3000, 2000, 500).is_ok());
        for wrong in
            [with(2000, 2000, 500), with(3000, 2000, 1900), with(2500, 2000, 500), with(3000, 2000, 0)]
        {
            assert!(wrong.is_err());
        }
    }

    #[tokio::test]
    async fn one_leads_and_when_it_stops_the_other_follows_at_once() {
        let server = FakeServer::default();
        let (sender, mut leads) = mpsc::unbounded_channel();
        let first = compete(&server, "a", sender.clone());
        let (identity, leadership) = leads.recv().await.unwrap();
        assert_eq!(identity, "a");
        let second = compete(&server, "b", sender);
        assert!(leadership.holds());
        assert!(leads.try_recv().is_err(), "two lead at a time");
        first.cancel();
        assert_eq!(leads.recv().await.unwrap().0, "b");
        assert!(!leadership.holds());
        let served = prometheus::gather();
        let status = served.iter().find(|family| family.name() == "leader_election_master_status").unwrap();
        assert_eq!(status.get_metric()[0].get_label()[0].value(), "weir-test");
        second.cancel();
    }

    #[tokio::test]
    async fn a_leader_that_cannot_renew_counts_itself_out_before_another_comes_in() {
        let server = FakeServer::default();
        let (sender, mut leads) = mpsc::unbounded_channel();
        let first = compete(&server, "a", sender.clone());
        let (_, leadership) = leads.recv().await.unwrap();
        let lease = server.client().namespaced::<Lease>("kube-system").get("weir-test").await.unwrap();
        assert_eq!(lease.spec().holder_identity.as_deref(), Some("a"));

        server.refuse_writes(true);
        let fenced = server.client().fenced(&leadership);
        leadership.lost().cancelled().await;
        assert!(!leadership.holds());
        let refused = fenced.namespaced::<Lease>("kube-system").update(&lease).await.unwrap_err();
        assert!(matches!(refused, Error::NotLeader { .. }), "{refused}");
        first.cancel();
        server.refuse_writes(false);
        let second = compete(&server, "b", sender);
        assert_eq!(leads.recv().await.unwrap().0, "b");
        second.cancel();
    }
}
