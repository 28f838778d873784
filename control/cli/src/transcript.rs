//! Whole command lines against a server in memory: every `testdata/*.session` is what a terminal would show, run line by
//! line against the objects of `testdata/cluster.yaml`, at a fixed time.
//!
//! After a change of what verbs print, `WEIR_BLESS=1 cargo nextest run -p weir-cli transcript` writes the files anew;
//! read the difference before committing it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use futures::stream::{self, BoxStream, StreamExt};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use weir_client::Client;
use weir_client::fake::FakeServer;
use weir_proto::meta::v1::Time;
use weir_proto::weir::v1::resources_server::ResourcesServer;
use weir_proto::weir::v1::streams_server::{Streams, StreamsServer};
use weir_proto::weir::v1::{
    ForwardInput, ForwardOutput, LogsChunk, LogsRequest, SessionInput, SessionOutput,
};
use weir_proto::{apps, core, discovery};

use crate::arguments::{Arguments, Validate};
use crate::failure;
use crate::manifest;
use crate::session::Session;
use crate::terminal::Terminal;

/// No command in a transcript takes longer, unless it waits for what never comes.
const LONGEST: Duration = Duration::from_secs(10);
/// 2024-01-01T12:00:00Z.
const NOW: i64 = 1_704_110_400;

#[tokio::test]
async fn transcripts_are_as_they_were() {
    let mut different = Vec::new();
    let mut files: Vec<_> = fs::read_dir("testdata").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files.into_iter().filter(|file| file.extension().is_some_and(|ending| ending == "session")) {
        let written = fs::read_to_string(&file).unwrap();
        let replayed = replay(&written).await;
        if std::env::var_os("WEIR_BLESS").is_some() {
            fs::write(&file, &replayed).unwrap();
        } else if replayed != written {
            let diff = similar::TextDiff::from_lines(&written, &replayed);
            different.push(format!("{}\n{}", file.display(), diff.unified_diff()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// The same commands and comments, with what the commands say now.
async fn replay(written: &str) -> String {
    let server = cluster(Path::new("testdata/cluster.yaml"));
    let mut replayed = String::new();
    for line in written.lines() {
        if let Some(command) = line.strip_prefix("$ weir ") {
            replayed += &format!("{line}\n{}", weir(&server, command).await);
        } else if line.starts_with("# ") || line == "#" {
            replayed += &format!("{line}\n");
        }
    }
    replayed
}

async fn weir(server: &FakeServer, command: &str) -> String {
    let words = ["weir".to_owned()].into_iter().chain(split(command));
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => return format!("{}[exit {}]\n", error.render(), u8::from(error.use_stderr())),
    };
    let routes = Routes::new(ResourcesServer::new(server.clone())).add_service(StreamsServer::new(Logs));
    let session = Session {
        client: Client::in_process(routes),
        namespace: arguments.connection.namespace.clone().unwrap_or_else(|| "default".to_owned()),
        server: "https://127.0.0.1:6443".to_owned(),
        terminal: Terminal::captured(),
        now: || Time::from_unix(NOW),
    };
    let running = crate::with_server(&session, &arguments.command);
    let result = tokio::time::timeout(LONGEST, running).await;
    let result = result.unwrap_or_else(|_| Err(anyhow::anyhow!("{command}: no end within {LONGEST:?}")));
    let code = result.err().map(|error| failure::report(&session.terminal, &error)).unwrap_or_default();
    let mut text = session.terminal.text();
    if !text.is_empty() && !text.ends_with('\n') {
        text += "[no newline]\n";
    }
    if code != 0 {
        text += &format!("[exit {code}]\n");
    }
    text
}

/// As a shell would, but for everything beyond quotes.
fn split(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in command.chars() {
        match (character, quote) {
            (end, Some(open)) if end == open => quote = None,
            (inside, Some(_)) => word.get_or_insert_default().push(inside),
            ('\'' | '"', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (' ', None) => words.extend(word.take()),
            (other, None) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

/// The objects of a file, as they are, on a new server.
fn cluster(file: &Path) -> FakeServer {
    let server = FakeServer::default();
    let text = fs::read(file).unwrap();
    for manifest in manifest::parse("cluster.yaml", &text, Validate::Strict).unwrap() {
        let object = manifest.object.as_ref();
        macro_rules! put {
            ($($kind:ty),*) => {
                $(if let Some(object) = object.downcast_ref::<$kind>() {
                    server.put(object);
                    continue;
                })*
            };
        }
        put!(
            core::v1::Namespace,
            core::v1::Node,
            core::v1::Pod,
            core::v1::Service,
            core::v1::ConfigMap,
            core::v1::Secret,
            core::v1::Event,
            apps::v1::Deployment,
            apps::v1::ReplicaSet,
            discovery::v1::EndpointSlice
        );
        panic!("cluster.yaml: {} is not put yet", manifest.kind);
    }
    server
}

/// Containers that say who they are, in two pieces.
struct Logs;

#[tonic::async_trait]
impl Streams for Logs {
    type LogsStream = BoxStream<'static, Result<LogsChunk, Status>>;
    type ExecStream = BoxStream<'static, Result<SessionOutput, Status>>;
    type AttachStream = BoxStream<'static, Result<SessionOutput, Status>>;
    type PortForwardStream = BoxStream<'static, Result<ForwardOutput, Status>>;

    async fn exec(&self, _: Request<Streaming<SessionInput>>) -> Result<Response<Self::ExecStream>, Status> {
        Err(Status::unimplemented("no containers here"))
    }

    async fn attach(
        &self,
        _: Request<Streaming<SessionInput>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        Err(Status::unimplemented("no containers here"))
    }

    async fn port_forward(
        &self,
        _: Request<Streaming<ForwardInput>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        Err(Status::unimplemented("no containers here"))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let LogsRequest { pod, container, tail_lines, since_seconds, previous, .. } = request.into_inner();
        let asked = format!("tail {tail_lines:?} since {since_seconds:?} previous {previous}");
        let pieces = [format!("{pod} {container} first\n{pod} {container} sec"), format!("ond\n{asked}\n")];
        let chunk = |piece: String| Ok(LogsChunk { data: piece.into_bytes() });
        Ok(Response::new(stream::iter(pieces).map(chunk).boxed()))
    }
}
