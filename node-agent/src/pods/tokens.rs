//! Tokens of service accounts for projected volumes: asked of the API server, bound to the pod, and kept in memory until it
//! is time for the next.
//!
//! A token is renewed after 80 % of its life, or after a day. While the API server does not answer the old one stays in
//! use for as long as it is good. Ages are measured by the monotonic clock against the life that the server gave: that
//! the node's clock differs from the server's, or jumps, changes nothing.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;
use weir_client::{Backoff, Client};
use weir_proto::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use weir_proto::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};

use super::sources::Sources;

const DEFAULT_SECONDS: i64 = 3600;
/// No token is shown for longer, however long it would be good.
const OLDEST: Duration = Duration::from_secs(24 * 3600);
/// How soon after a refusal it is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

#[derive(Debug, Error)]
pub(crate) enum TokenError {
    #[error("service account {namespace}/{account} is not there; make it, or name another in the pod")]
    NoAccount { namespace: String, account: String },
    #[error("cannot get a token for service account {namespace}/{account}: {source}")]
    Request { namespace: String, account: String, source: Box<weir_client::Error> },
    #[error("the token for service account {namespace}/{account} came without its time")]
    NoTime { namespace: String, account: String },
}

/// What a volume asks for, of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asked {
    pod_uid: String,
    audience: String,
    seconds: i64,
}

#[derive(Clone)]
struct Held {
    text: Arc<str>,
    renew_at: Instant,
    ends_at: Instant,
    backoff: Backoff,
}

/// A token to show now.
#[derive(Clone)]
struct Token {
    text: Arc<str>,
    /// When to ask for it again.
    renew_at: Instant,
    /// Why it is not a newer one.
    trouble: Option<String>,
}

/// What it says opens doors: it stays out of logs.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("renew_at", &self.renew_at).finish_non_exhaustive()
    }
}

/// The tokens of this node's pods. Clones share them.
#[derive(Clone, Default)]
pub struct Tokens {
    held: Arc<Mutex<HashMap<Asked, Held>>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// Adds all that the volumes of a pod show. Answers why they are not newer, where they should be.
    pub(super) async fn add_to(
        &self,
        sources: &mut Sources,
        client: &Client,
        pod: &Pod,
    ) -> Result<Option<String>, TokenError> {
        let projected = pod.spec().volumes.iter().filter_map(|volume| volume.projected.as_ref());
        let parts = projected.flat_map(|projected| &projected.sources);
        let mut trouble = None;
        for wanted in parts.filter_map(|part| part.service_account_token.as_ref()) {
            let token = self.current(client, pod, wanted).await?;
            sources.renew_at = sources.renew_at.into_iter().chain([token.renew_at]).min();
            sources
                .tokens
                .insert((wanted.audience.clone(), wanted.expiration_seconds), token.text.as_ref().to_owned());
            trouble = trouble.or(token.trouble);
        }
        Ok(trouble)
    }

    /// The token for one source of a volume: held, or a new one.
    async fn current(
        &self,
        client: &Client,
        pod: &Pod,
        wanted: &ServiceAccountTokenProjection,
    ) -> Result<Token, TokenError> {
        let asked = Asked {
            pod_uid: pod.meta().uid.clone(),
            audience: wanted.audience.clone(),
            seconds: wanted.expiration_seconds.unwrap_or(DEFAULT_SECONDS),
        };
        let held = self.lock().get(&asked).cloned();
        if let Some(held) = held.as_ref().filter(|held| Instant::now() < held.renew_at) {
            return Ok(held.token(None));
        }
        let began = Instant::now();
        let (held, trouble) = match request(client, pod, &asked).await {
            Ok((text, life)) => (Held::new(text, began, life), None),
            Err(error) => match held.filter(|held| Instant::now() < held.ends_at) {
                Some(held) => (held.put_off(), Some(format!("{error}; the old one is shown meanwhile"))),
                None => return Err(error),
            },
        };
        let token = held.token(trouble);
        let mut all = self.lock();
        // Those of pods that are gone end by themselves.
        all.retain(|_, held| began < held.ends_at);
        all.insert(asked, held);
        Ok(token)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Asked, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn new(text: String, began: Instant, life: Duration) -> Self {
        let renew_after = renew_after(life, chance());
        let backoff = Backoff::new(RETRY.0, RETRY.1);
        Held { text: text.into(), renew_at: began + renew_after, ends_at: began + life, backoff }
    }

    fn put_off(mut self) -> Self {
        self.renew_at = Instant::now() + self.backoff.delay();
        self
    }

    fn token(&self, trouble: Option<String>) -> Token {
        Token { text: self.text.clone(), renew_at: self.renew_at, trouble }
    }
}

/// After 80 % of its life or a day; a little earlier, by chance, so that a node's pods do not ask all at once.
fn renew_after(life: Duration, chance: f64) -> Duration {
    let latest = life.mul_f64(0.8).min(OLDEST);
    latest.saturating_sub(latest.mul_f64(0.05).mul_f64(chance.clamp(0.0, 1.0)))
}

/// From 0 to 1. Every RandomState of a thread differs from the one before; that is all the chance that is needed here.
fn chance() -> f64 {
    f64::from(RandomState::new().build_hasher().finish() as u32) / f64::from(u32::MAX)
}

async fn request(client: &Client, pod: &Pod, asked: &Asked) -> Result<(String, Duration), TokenError> {
    let meta = pod.meta();
    let account = match pod.spec().service_account_name.as_str() {
        "" => "default",
        named => named,
    };
    let (namespace, account) = (meta.namespace.clone(), account.to_owned());
    let bound = BoundObjectReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
    };
    let spec = TokenRequestSpec {
        audiences: Some(asked.audience.clone()).filter(|audience| !audience.is_empty()).into_iter().collect(),
        expiration_seconds: Some(asked.seconds),
        bound_object_ref: Some(bound),
    };
    let wanted = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let answer = client.namespaced::<ServiceAccount>(&namespace).request_token(&account, &wanted).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(source) => {
            let about_account = |error: &weir_client::Error| {
                let details = error.api().and_then(|error| error.status().details.as_ref());
                error.is_not_found() && details.is_some_and(|details| details.kind == "serviceaccounts")
            };
            return Err(match about_account(&source) {
                true => TokenError::NoAccount { namespace, account },
                false => TokenError::Request { namespace, account, source: Box::new(source) },
            });
        }
    };
    let made = answer.meta().creation_timestamp;
    let status = answer.status.unwrap_or_default();
    match made.zip(status.expiration_timestamp) {
        Some((made, ends)) if !status.token.is_empty() => {
            let life = u64::try_from(ends.unix().saturating_sub(made.unix())).unwrap_or(0);
            // An Instant cannot be told to be centuries away.
            Ok((status.token, Duration::from_secs(life.min(1 << 32))))
        }
        _ => Err(TokenError::NoTime { namespace, account }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_in_the_last_fifth_of_its_life_and_not_later_than_after_a_day() {
        let hour = Duration::from_secs(3600);
        assert_eq!(renew_after(hour, 0.0), Duration::from_secs(2880));
        assert_eq!(renew_after(hour, 1.0), Duration::from_secs(2736));
        assert_eq!(renew_after(hour * 24 * 365, 0.0), OLDEST);
        assert_eq!(renew_after(Duration::ZERO, 0.5), Duration::ZERO);
    }

    fn wanted(audience: &str) -> ServiceAccountTokenProjection {
        ServiceAccountTokenProjection { audience: audience.to_owned(), ..Default::default() }
    }

    fn held(text: &str, renew_in: i64, ends_in: u64) -> Held {
        let now = Instant::now();
        let renew_at = if renew_in < 0 { now } else { now + Duration::from_secs(renew_in.unsigned_abs()) };
        let backoff = Backoff::new(RETRY.0, RETRY.1);
        Held { text: text.into(), renew_at, ends_at: now + Duration::from_secs(ends_in), backoff }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_asked_for_again_when_four_fifths_of_what_the_server_gave_are_over() {
        let server = weir_client::fake::FakeServer::default();
        let mut account = ServiceAccount::default();
        account.meta_mut().namespace = "shop".to_owned();
        account.meta_mut().name = "default".to_owned();
        server.put(&account);
        // Shorter than what is asked for.
        server.shorten_tokens(600);
        let (client, tokens, mut pod) = (server.client(), Tokens::default(), Pod::default());
        pod.meta_mut().namespace = "shop".to_owned();
        let current = async || tokens.current(&client, &pod, &wanted("")).await.expect("a token");
        let began = Instant::now();
        let first = current().await;
        assert_eq!(&*first.text, "token 1 of default");
        let renewal = first.renew_at - began;
        assert!((456..=480).contains(&renewal.as_secs()), "{renewal:?}");
        tokio::time::advance(Duration::from_secs(455)).await;
        assert_eq!(&*current().await.text, "token 1 of default");
        tokio::time::advance(Duration::from_secs(26)).await;
        let second = current().await;
        assert_eq!((&*second.text, second.trouble.is_some()), ("token 2 of default", false));
        // The second one's own time counts from when it was given.
        assert!(second.renew_at - began >= Duration::from_secs(481 + 456), "{:?}", second.renew_at - began);
        // Where the server refuses, the second one serves to its end.
        server.refuse_writes(true);
        tokio::time::advance(Duration::from_secs(500)).await;
        let late = current().await;
        assert_eq!((&*late.text, late.trouble.is_some()), ("token 2 of default", true));
        tokio::time::advance(Duration::from_secs(101)).await;
        assert!(tokens.current(&client, &pod, &wanted("")).await.is_err(), "it is over");
        server.refuse_writes(false);
        assert_eq!(&*current().await.text, "token 3 of default");
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_token_is_shown_while_no_newer_is_to_be_had_and_no_longer_than_it_is_good() {
        let server = weir_client::fake::FakeServer::default();
        server.refuse_writes(true);
        let (client, tokens, pod) = (server.client(), Tokens::default(), Pod::default());
        let asked = |audience: &str| Asked {
            pod_uid: String::new(),
            audience: audience.to_owned(),
            seconds: DEFAULT_SECONDS,
        };
        tokens.lock().insert(asked("fresh"), held("one", 60, 600));
        tokens.lock().insert(asked("due"), held("two", -1, 600));
        tokens.lock().insert(asked("over"), held("three", -1, 0));
        let fresh = tokens.current(&client, &pod, &wanted("fresh")).await.unwrap();
        assert_eq!((&*fresh.text, fresh.trouble.is_some()), ("one", false));
        let due = tokens.current(&client, &pod, &wanted("due")).await.unwrap();
        assert_eq!((&*due.text, due.trouble.is_some()), ("two", true));
        assert!(due.renew_at > Instant::now(), "not asked for in a loop");
        let error = tokens.current(&client, &pod, &wanted("over")).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot get a token for service account /default"), "{error}");
        assert!(!format!("{fresh:?} {tokens:?}").contains("one"), "tokens stay out of logs");
    }
}
