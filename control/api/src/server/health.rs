//! Health, for those who decide whether to send us anything: `/livez` says that the process answers, `/readyz` and
//! `/healthz` that it can serve. Each check has a path of its own (`/readyz/etcd`), `?verbose` lists them, `?exclude=`
//! leaves one out, all as in Kubernetes. `/version` says what it is.
//!
//! These are open to everybody, so they cost little whoever asks however often: the store is asked once a second.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use weir_store::Store;

use crate::registry::Registry;

/// The version of Kubernetes whose API this is modelled on; clients compare themselves with it.
const KUBERNETES: (&str, &str) = ("1", "32");
/// How long the store's last answer holds.
const ANSWER_HOLDS: Duration = Duration::from_secs(1);
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Read to see whether the store answers.
const ANY_KEY: &str = "/registry/namespaces/default";

/// The checks of [`Health::check`], in the order in which they are listed.
const LIVE: [&str; 1] = ["ping"];
const READY: [&str; 5] = ["ping", "etcd", "watch-cache", "poststarthook/namespaces", "shutdown"];

#[derive(Clone)]
pub(super) struct Health {
    registry: Registry,
    store: Arc<dyn Store>,
    prepared: watch::Receiver<bool>,
    leaving: CancellationToken,
    last: Arc<Mutex<Option<Asked>>>,
}

/// What the store was found to be, and when.
struct Asked {
    when: Instant,
    wrong: Option<String>,
}

impl Health {
    /// `leaving` is cancelled when the server is told to stop, before anything else happens.
    pub(super) fn new(
        registry: Registry,
        store: Arc<dyn Store>,
        prepared: watch::Receiver<bool>,
        leaving: CancellationToken,
    ) -> Self {
        Health { registry, store, prepared, leaving, last: Arc::default() }
    }

    /// What is wrong; `None` if all is well.
    async fn check(&self, name: &str) -> Option<String> {
        match name {
            "etcd" => self.ask_store().await,
            "watch-cache" => {
                let mut waiting = self.registry.not_ready();
                waiting.sort_unstable();
                (!waiting.is_empty()).then(|| format!("waiting for {}", waiting.join(", ")))
            }
            "poststarthook/namespaces" => {
                (!*self.prepared.borrow()).then(|| "the cluster's namespaces are not made yet".to_owned())
            }
            "shutdown" => self.leaving.is_cancelled().then(|| "process is shutting down".to_owned()),
            _ => None,
        }
    }

    async fn ask_store(&self) -> Option<String> {
        // Who comes while the store is being asked waits for that answer.
        let mut last = self.last.lock().await;
        if let Some(asked) = last.as_ref()
            && asked.when.elapsed() < ANSWER_HOLDS
        {
            return asked.wrong.clone();
        }
        let wrong = match timeout(PATIENCE, self.store.get(ANY_KEY)).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("the store does not answer within {PATIENCE:?}")),
        };
        *last = Some(Asked { when: Instant::now(), wrong: wrong.clone() });
        wrong
    }

    async fn report(&self, endpoint: &str, checks: &[&str], query: Option<String>) -> Response {
        let query = query.unwrap_or_default();
        let parameters: Vec<(&str, &str)> =
            query.split('&').map(|part| part.split_once('=').unwrap_or((part, ""))).collect();
        let verbose = parameters.iter().any(|(name, _)| *name == "verbose");
        let excluded = |check: &str| parameters.contains(&("exclude", check));
        let (mut lines, mut failed) = (String::new(), Vec::new());
        for check in checks {
            let outcome = if excluded(check) { None } else { self.check(check).await };
            lines += &match &outcome {
                None if excluded(check) => format!("[+]{check} excluded: ok\n"),
                None => format!("[+]{check} ok\n"),
                // What is wrong with a store may name its machines: that is for the log.
                Some(_) if *check == "etcd" => format!("[-]{check} failed: reason withheld\n"),
                Some(reason) => format!("[-]{check} failed: {reason}\n"),
            };
            if let Some(reason) = outcome {
                failed.push(format!("{check}: {reason}"));
            }
        }
        if !failed.is_empty() {
            tracing::debug!(endpoint, failed = failed.join("; "), "not healthy");
            return text(StatusCode::SERVICE_UNAVAILABLE, format!("{lines}{endpoint} check failed\n"));
        }
        let passed = format!("{lines}{endpoint} check passed\n");
        text(StatusCode::OK, if verbose { passed } else { "ok".to_owned() })
    }

    async fn report_one(&self, endpoint: &str, checks: &[&str], check: &str) -> Response {
        let check = check.trim_end_matches('/');
        match checks.iter().find(|known| **known == check) {
            Some(known) => self.report(endpoint, &[*known], None).await,
            None => text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
        }
    }
}

pub(super) fn routes(health: Health) -> Router {
    type Checked = State<Health>;
    let mut router = Router::new().route("/version", get(version));
    for (path, endpoint, checks) in
        [("/livez", "livez", &LIVE[..]), ("/readyz", "readyz", &READY), ("/healthz", "healthz", &READY)]
    {
        let all = move |State(health): Checked, RawQuery(query): RawQuery| async move {
            health.report(endpoint, checks, query).await
        };
        let one = move |State(health): Checked, Path(check): Path<String>| async move {
            health.report_one(endpoint, checks, &check).await
        };
        router = router.route(path, get(all)).route(&format!("{path}/{{*check}}"), get(one));
    }
    router.with_state(health)
}

fn text(code: StatusCode, body: String) -> Response {
    let mut response = (code, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn version() -> Response {
    let (major, minor) = KUBERNETES;
    Json(json!({
        "major": major,
        "minor": minor,
        "gitVersion": format!("v{major}.{minor}.0+weir.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    }))
    .into_response()
}
