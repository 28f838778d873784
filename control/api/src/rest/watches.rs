//! Watches: one JSON document a line, until the client leaves, its time is up, or it must list again.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use weir_proto::Kind;
use weir_proto::status::ApiError;

use super::negotiate::Form;
use super::{Call, answer, lists, negotiate};
use crate::cache::{ChangeType, WatchEvent, Watcher};
use crate::registry::WatchQuery;

/// A watch without a time limit gets one: clients that are gone without a word are not kept for ever.
const LONGEST: u64 = 3600;

pub(super) async fn watch(call: &Call<'_>, headers: &HeaderMap) -> Result<Response, ApiError> {
    let form = negotiate::form(headers)?;
    let mut field_selector = call.query.field_selector.clone();
    if !call.resource.name.is_empty() {
        let separator = if field_selector.is_empty() { "" } else { "," };
        field_selector = format!("{field_selector}{separator}metadata.name={}", call.resource.name);
    }
    let query = WatchQuery {
        namespace: call.resource.namespace.clone(),
        label_selector: call.query.label_selector.clone(),
        field_selector,
        resource_version: call.query.resource_version.clone(),
        bookmarks: call.query.bookmarks,
    };
    let kind = call.resource.kind;
    let watcher = call.rest.registry.watch(&call.context, kind, &query).await?;
    let seconds = call.query.timeout_seconds.unwrap_or(LONGEST).min(LONGEST);
    let lines = Lines {
        watcher,
        kind,
        form,
        titled: false,
        initial: query.resource_version.is_empty() || query.resource_version == "0",
        mark_initial: call.query.initial_events,
        until: Instant::now() + Duration::from_secs(seconds),
        draining: call.rest.draining.clone(),
    };
    let body = stream::unfold(lines, |mut lines| async move {
        let line = lines.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), lines))
    });
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

struct Lines {
    watcher: Watcher,
    kind: &'static Kind,
    form: Form,
    /// Whether a table's columns have been sent; once is enough.
    titled: bool,
    /// The present state is being sent, and ends in a bookmark.
    initial: bool,
    /// The client wants to know of that bookmark.
    mark_initial: bool,
    until: Instant,
    draining: tokio_util::sync::CancellationToken,
}

impl Lines {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let event = tokio::select! {
                biased;
                () = self.draining.cancelled() => return None,
                () = sleep_until(self.until) => return None,
                event = self.watcher.next() => event?,
            };
            match event {
                Ok(event) => {
                    if let Some(line) = self.line(&event) {
                        return Some(line);
                    }
                }
                Err(error) => {
                    return Some(
                        format!("{}\n", json!({"type": "ERROR", "object": answer::status(&error)})).into(),
                    );
                }
            }
        }
    }

    fn line(&mut self, event: &WatchEvent) -> Option<Bytes> {
        match event {
            WatchEvent::Change { change, object } => {
                let change = match change {
                    ChangeType::Added => "ADDED",
                    ChangeType::Modified => "MODIFIED",
                    ChangeType::Deleted => "DELETED",
                };
                let object = match self.form {
                    Form::Json => object.json().to_string(),
                    Form::Table => {
                        let titled = std::mem::replace(&mut self.titled, true);
                        lists::table(self.kind, std::slice::from_ref(object), !titled).to_string()
                    }
                };
                Some(format!("{{\"type\":\"{change}\",\"object\":{object}}}\n").into())
            }
            WatchEvent::Bookmark { revision } => {
                let ends_initial = std::mem::replace(&mut self.initial, false);
                if ends_initial && !self.mark_initial {
                    return None;
                }
                let mut meta = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
                if ends_initial {
                    meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
                }
                let object = json!({
                    "kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": meta,
                });
                Some(format!("{}\n", json!({"type": "BOOKMARK", "object": object})).into())
            }
        }
    }
}
