//! What one request counts as. The gate knows when a request began, how it ended and, from its path, roughly what it is; what
//! exactly it is about becomes known further in, and is left in notes that travel with the request's task.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{Method, Response};
use bytes::Bytes;
use prometheus::IntGauge;
use weir_proto::Kind;

use super::{LONG_RUNNING, REQUEST_DURATION, REQUESTS, RESPONSE_SIZES, TERMINATIONS};

/// Paths that are about no object, by which they are counted.
const PATHS: [&str; 9] =
    ["/healthz", "/livez", "/readyz", "/version", "/metrics", "/api", "/apis", "/openapi/v2", "/openapi/v3"];

/// What a path and a method alone tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) verb: &'static str,
    /// One of ours, or empty.
    path: &'static str,
}

impl Class {
    /// `watches`: the query says so.
    pub(crate) fn of(method: &Method, path: &str, watches: bool) -> Class {
        if let Some(call) = path.strip_prefix("/weir.v1.") {
            return Class::of_grpc(call);
        }
        let verb = match method.as_str() {
            "GET" if watches => "WATCH",
            "GET" => "GET",
            "HEAD" => "HEAD",
            "POST" => "POST",
            "PUT" => "PUT",
            "PATCH" => "PATCH",
            "DELETE" => "DELETE",
            _ => "other",
        };
        let ours = |known: &&&str| path == **known || path.strip_prefix(**known).is_some_and(is_check);
        let path = PATHS.iter().find(ours).copied().unwrap_or_default();
        Class { verb, path }
    }

    fn of_grpc(call: &str) -> Class {
        let verb = match call {
            "Resources/Get" => "GET",
            "Resources/List" => "LIST",
            "Resources/Watch" => "WATCH",
            "Resources/Create" => "POST",
            "Resources/Update" => "PUT",
            "Resources/Patch" => "PATCH",
            "Resources/Delete" => "DELETE",
            "Resources/DeleteCollection" => "DELETECOLLECTION",
            "NodeService/Join" => return Class { verb: "POST", path: "/weir.v1.NodeService/Join" },
            "DataplaneService/Sync" => {
                return Class { verb: "WATCH", path: "/weir.v1.DataplaneService/Sync" };
            }
            "Inspect/Net" => return Class { verb: "GET", path: "/weir.v1.Inspect/Net" },
            _ if call.starts_with("Streams/") => return Class { verb: "CONNECT", path: "/weir.v1.Streams" },
            _ => "other",
        };
        Class { verb, path: "" }
    }

    /// Whether it may change something, as far as the path tells.
    pub(crate) fn mutates(self) -> bool {
        matches!(self.verb, "POST" | "PUT" | "PATCH" | "DELETE" | "DELETECOLLECTION")
    }
}

fn is_check(rest: &str) -> bool {
    rest.starts_with('/')
}

/// What was found out about a request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Notes {
    about: Option<About>,
    dry_run: bool,
    /// Bytes of the answer, where they are known before it is sent.
    size: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
struct About {
    verb: &'static str,
    kind: &'static Kind,
    subresource: &'static str,
    scope: &'static str,
}

tokio::task_local! {
    static NOTES: Cell<Notes>;
}

fn change(change: impl FnOnce(&mut Notes)) {
    // What the server does for itself is no request.
    let _ = NOTES.try_with(|cell| {
        let mut notes = cell.get();
        change(&mut notes);
        cell.set(notes);
    });
}

/// What the request is about. The first word counts: what a request leads to is a part of it.
pub(crate) fn note(verb: &'static str, kind: &'static Kind, namespace: &str, name: &str, subresource: &str) {
    change(|notes| {
        if notes.about.is_none() {
            let known = kind.subresources.iter().find(|known| **known == subresource);
            let scope = match (name, namespace) {
                ("", "") => "cluster",
                ("", _) => "namespace",
                _ => "resource",
            };
            notes.about = Some(About { verb, kind, subresource: known.copied().unwrap_or_default(), scope });
        }
    });
}

pub(crate) fn note_dry_run() {
    change(|notes| notes.dry_run = true);
}

pub(crate) fn note_size(bytes: usize) {
    change(|notes| notes.size = Some(bytes));
}

/// Runs a request, and returns with its answer what was noted on the way.
pub(crate) async fn noting<T>(request: impl Future<Output = T>) -> (T, Notes) {
    NOTES
        .scope(Cell::default(), async {
            let answer = request.await;
            (answer, NOTES.with(Cell::get))
        })
        .await
}

impl Notes {
    /// verb, group, version, resource, subresource, scope
    fn labels(&self, class: Class) -> [&'static str; 6] {
        match self.about {
            Some(about) => {
                let kind = about.kind;
                [about.verb, kind.group, kind.version, kind.plural, about.subresource, about.scope]
            }
            None => [class.verb, "", "", "", class.path, ""],
        }
    }

    /// Counts an answer.
    pub(crate) fn count(&self, class: Class, code: u16, took: Duration, size: Option<u64>) {
        let [verb, group, version, resource, subresource, scope] = self.labels(class);
        let dry_run = if self.dry_run { "All" } else { "" };
        let code = code_label(code);
        let all = [verb, group, version, resource, subresource, scope, code, dry_run, "apiserver"];
        REQUESTS.with_label_values(&all).inc();
        let all = [verb, group, version, resource, subresource, scope, dry_run, "apiserver"];
        REQUEST_DURATION.with_label_values(&all).observe(took.as_secs_f64());
        let size = self.size.and_then(|size| u64::try_from(size).ok()).or(size);
        if let (Some(size), "GET" | "LIST") = (size, verb) {
            let all = [verb, group, version, resource, subresource, scope, "apiserver"];
            RESPONSE_SIZES.with_label_values(&all).observe(size as f64);
        }
    }

    /// Counts a request that was ended before its time.
    pub(crate) fn count_terminated(&self, class: Class, code: u16) {
        let [verb, group, version, resource, subresource, scope] = self.labels(class);
        let all = [verb, group, version, resource, subresource, scope, code_label(code), "apiserver"];
        TERMINATIONS.with_label_values(&all).inc();
    }

    fn runs_long(&self, class: Class) -> bool {
        match self.about {
            Some(about) => {
                about.verb == "WATCH"
                    || matches!(about.subresource, "log" | "exec" | "attach" | "portforward")
            }
            None => matches!(class.verb, "WATCH" | "CONNECT"),
        }
    }
}

/// The codes that the API answers with; there are few.
fn code_label(code: u16) -> &'static str {
    match code {
        101 => "101",
        200 => "200",
        201 => "201",
        202 => "202",
        304 => "304",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        405 => "405",
        406 => "406",
        409 => "409",
        410 => "410",
        413 => "413",
        415 => "415",
        422 => "422",
        429 => "429",
        500 => "500",
        501 => "501",
        503 => "503",
        504 => "504",
        _ => "other",
    }
}

/// Counts a stream for as long as its body lives.
#[derive(Debug)]
struct LongRunning {
    body: Body,
    gauge: IntGauge,
}

/// The answer, counted as long running where it is a stream that has begun.
pub(crate) fn long_running(notes: &Notes, class: Class, answer: Response<Body>) -> Response<Body> {
    if !notes.runs_long(class)
        || !answer.status().is_success()
        || answer.headers().contains_key("grpc-status")
    {
        return answer;
    }
    let [verb, group, version, resource, subresource, scope] = notes.labels(class);
    let labels = [verb, group, version, resource, subresource, scope, "apiserver"];
    let gauge = LONG_RUNNING.with_label_values(&labels);
    gauge.inc();
    answer.map(|body| Body::new(LongRunning { body, gauge }))
}

impl HttpBody for LongRunning {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for LongRunning {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::Resource;
    use weir_proto::core::v1::Pod;

    use super::*;

    #[test]
    fn paths_of_clients_never_become_labels() {
        for (method, path, verb, known) in [
            (Method::GET, "/readyz", "GET", "/readyz"),
            (Method::GET, "/readyz/etcd", "GET", "/readyz"),
            (Method::GET, "/readyzzz", "GET", ""),
            (Method::GET, "/api/v1/namespaces/x/pods/secret-name", "GET", "/api"),
            (Method::TRACE, "/whatever/x", "other", ""),
            (Method::POST, "/weir.v1.Resources/Create", "POST", ""),
            (Method::POST, "/weir.v1.Resources/Made-Up-7", "other", ""),
        ] {
            let class = Class::of(&method, path, false);
            assert_eq!((class.verb, class.path), (verb, known), "{method} {path}");
        }
    }

    #[tokio::test]
    async fn the_first_note_counts_and_unknown_subresources_do_not() {
        let ((), notes) = noting(async {
            note("GET", Pod::KIND, "default", "p", "made-up");
            note("LIST", Pod::KIND, "", "", "");
            note_dry_run();
        })
        .await;
        let class = Class::of(&Method::GET, "/", false);
        assert_eq!(notes.labels(class), ["GET", "", "v1", "pods", "", "resource"]);
        assert!(notes.dry_run);
        // Outside of a request nothing is noted.
        note("GET", Pod::KIND, "", "", "");
    }
}
