//! `weir logs`: what containers wrote, through the API server from their pods' agents.

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use weir_client::ListOptions;
use weir_proto::Resource;
use weir_proto::core::v1::Pod;
use weir_proto::labels::Selector;
use weir_proto::meta::v1::{LabelSelector, Time};
use weir_proto::weir::v1::LogsRequest;

use crate::duration;
use crate::session::Session;
use crate::target;

/// How many lines of each container are shown where a selector names many.
const TAIL_OF_MANY: i64 = 10;
pub(crate) const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// POD [CONTAINER], or TYPE/NAME for one of the pods of a Deployment or ReplicaSet
    #[arg(required_unless_present = "selector")]
    target: Option<String>,
    #[arg(conflicts_with = "container")]
    of_container: Option<String>,
    /// Pods whose labels match
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
    /// The container, where the pod has several
    #[arg(long, short)]
    container: Option<String>,
    /// All containers of the pods
    #[arg(long)]
    all_containers: bool,
    /// All pods of a Deployment or ReplicaSet
    #[arg(long)]
    all_pods: bool,
    /// Begin each line with the pod and container that wrote it
    #[arg(long)]
    prefix: bool,
    /// Go on as the container writes
    #[arg(long, short)]
    follow: bool,
    /// The container before its last restart
    #[arg(long, short)]
    previous: bool,
    /// Only the last lines; -1: all
    #[arg(long, allow_hyphen_values = true)]
    tail: Option<i64>,
    /// Only lines younger than this, as 90s, 5m or 2h
    #[arg(long, conflicts_with = "since_time")]
    since: Option<String>,
    /// Only lines after this time, as 2024-01-31T12:00:00Z
    #[arg(long)]
    since_time: Option<String>,
    /// Only so many bytes; 0: all
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    limit_bytes: i64,
    /// Begin each line with its time
    #[arg(long)]
    timestamps: bool,
    /// How many containers may be followed at once
    #[arg(long, default_value_t = 5)]
    max_log_requests: usize,
    /// One container that cannot be read does not stop the others
    #[arg(long)]
    ignore_errors: bool,
}

/// One stream to read.
#[derive(Debug)]
struct Source {
    pod: String,
    container: String,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    let since = since(session, options)?;
    let sources = sources(session, options).await?;
    if options.follow && sources.len() > options.max_log_requests {
        bail!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, use \
             --max-log-requests to increase the limit",
            sources.len(),
            options.max_log_requests
        );
    }
    let read = |source| async move {
        match stream(session, options, since, source).await {
            Err(error) if options.ignore_errors => {
                session.note(format_args!("error: {error:#}"));
                Ok(())
            }
            result => result,
        }
    };
    if options.follow {
        try_join_all(sources.iter().map(read)).await?;
        return Ok(());
    }
    for source in &sources {
        read(source).await?;
    }
    Ok(())
}

fn since(session: &Session, options: &Options) -> Result<Option<i64>> {
    if let Some(text) = &options.since_time {
        let time: Time = serde_json::from_value(text.as_str().into())
            .with_context(|| format!("--since-time {text}: want a time such as 2024-01-31T12:00:00Z"))?;
        return Ok(Some((session.now)().unix().saturating_sub(time.unix()).max(1)));
    }
    let Some(text) = &options.since else { return Ok(None) };
    let span = duration::parse(text).context("--since")?;
    Ok(span.map(|span| i64::try_from(span.as_secs()).unwrap_or(i64::MAX).max(1)))
}

async fn stream(session: &Session, options: &Options, since: Option<i64>, source: &Source) -> Result<()> {
    let tail = options.tail.unwrap_or(if options.selector.is_empty() { -1 } else { TAIL_OF_MANY });
    let request = LogsRequest {
        namespace: session.namespace.clone(),
        pod: source.pod.clone(),
        container: source.container.clone(),
        follow: options.follow,
        previous: options.previous,
        tail_lines: (tail >= 0).then_some(tail),
        since_seconds: since,
        timestamps: options.timestamps,
        limit_bytes: (options.limit_bytes > 0).then_some(options.limit_bytes),
    };
    let failed = |status| {
        session
            .client
            .error(&format!("read the log of container {} of pod {}", source.container, source.pod), status)
    };
    let mut chunks = session.client.streams().logs(request).await.map_err(failed)?.into_inner();
    let prefix = match options.prefix {
        true => format!("[pod/{}/{}] ", source.pod, source.container),
        false => String::new(),
    };
    let mut lines = Lines::new(prefix);
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        session.terminal.write(&lines.of(chunk.data))?;
    }
    Ok(session.terminal.write(&lines.rest())?)
}

/// All that one container has written.
pub(crate) async fn print(session: &Session, pod: &str, container: &str) -> Result<()> {
    let request = LogsRequest {
        namespace: session.namespace.clone(),
        pod: pod.to_owned(),
        container: container.to_owned(),
        ..LogsRequest::default()
    };
    let failed =
        |status| session.client.error(&format!("read the log of container {container} of pod {pod}"), status);
    let mut chunks = session.client.streams().logs(request).await.map_err(failed)?.into_inner();
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        session.terminal.write(&chunk.data)?;
    }
    Ok(())
}

/// Whole lines of a stream that comes in pieces, each with its prefix; without one, the pieces as they come.
struct Lines {
    prefix: String,
    begun: Vec<u8>,
}

impl Lines {
    fn new(prefix: String) -> Self {
        Self { prefix, begun: Vec::new() }
    }

    fn of(&mut self, piece: Vec<u8>) -> Vec<u8> {
        if self.prefix.is_empty() {
            return piece;
        }
        self.begun.extend(piece);
        let mut whole = Vec::new();
        while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
            whole.extend(self.prefix.as_bytes());
            whole.extend(self.begun.drain(..=end));
        }
        whole
    }

    /// The last line, where it does not end.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.begun);
        if !rest.is_empty() {
            rest.splice(0..0, self.prefix.bytes());
            rest.push(b'\n');
        }
        rest
    }
}

async fn sources(session: &Session, options: &Options) -> Result<Vec<Source>> {
    let (pods, many) = pods(session, options).await?;
    let mut sources = Vec::new();
    for pod in &pods {
        let ephemeral = pod.spec().ephemeral_containers.iter().map(|c| c.name.as_str());
        let others = pod.spec().init_containers.iter().chain(&pod.spec().containers);
        let names: Vec<&str> = others.map(|c| c.name.as_str()).chain(ephemeral).collect();
        let source =
            |container: &str| Source { pod: pod.meta().name.clone(), container: container.to_owned() };
        let named = options.container.as_deref().or(options.of_container.as_deref());
        match named {
            Some(container) if names.contains(&container) => sources.push(source(container)),
            Some(container) => bail!(
                "container {container} is not valid for pod {}; there are: {}",
                pod.meta().name,
                names.join(", ")
            ),
            None if options.all_containers => sources.extend(names.into_iter().map(source)),
            None => sources.push(source(&default_container(session, pod, many)?)),
        }
    }
    Ok(sources)
}

fn default_container(session: &Session, pod: &Pod, many: bool) -> Result<String> {
    let names: Vec<&str> = pod.spec().containers.iter().map(|container| container.name.as_str()).collect();
    let annotated = pod.meta().annotations.get(DEFAULT_CONTAINER).map(String::as_str);
    if let Some(container) = annotated.filter(|container| names.contains(container)) {
        return Ok(container.to_owned());
    }
    let first = names.first().with_context(|| format!("pod {} has no containers", pod.meta().name))?;
    if names.len() > 1 && !many {
        session.note(format_args!("Defaulted container {first:?} out of: {}", names.join(", ")));
    }
    Ok((*first).to_owned())
}

/// The pods that are meant, and whether a selector meant them.
async fn pods(session: &Session, options: &Options) -> Result<(Vec<Pod>, bool)> {
    let api = session.client.namespaced::<Pod>(&session.namespace);
    let selected = |selector: String| async move {
        let mut pods = session
            .client
            .namespaced::<Pod>(&session.namespace)
            .list(&ListOptions::labels(selector))
            .await?
            .items;
        pods.sort_by(|one, other| one.meta().name.cmp(&other.meta().name));
        anyhow::Ok(pods)
    };
    let Some(word) = &options.target else {
        let pods = selected(options.selector.clone()).await?;
        if pods.is_empty() {
            session.note(format_args!("No resources found in {} namespace.", session.namespace));
        }
        return Ok((pods, true));
    };
    if !options.selector.is_empty() {
        bail!("only a selector (-l) or a POD name is allowed");
    }
    let named = match word.contains('/') {
        true => target::parse_named(&[word.to_owned()])?.pop().context("which pod?")?,
        false => (Pod::KIND, word.clone()),
    };
    if named.0 == Pod::KIND {
        return Ok((vec![api.get(&named.1).await?], false));
    }
    let object = session.api(named.0, "").get(&named.1).await?.to_json();
    let mut pods = selected(selector_of(word, &object)?).await?;
    if pods.is_empty() {
        bail!("{word} has no pods");
    }
    if pods.len() > 1 && !options.all_pods {
        session.note(format_args!("Found {} pods, using pod/{}", pods.len(), pods[0].meta().name));
        pods.truncate(1);
    }
    Ok((pods, options.all_pods))
}

pub(crate) fn selector_of(word: &str, object: &serde_json::Value) -> Result<String> {
    let selector = &object["spec"]["selector"];
    if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        let selector: LabelSelector = serde_json::from_value(selector.clone())?;
        return Ok(Selector::try_from(&selector)
            .with_context(|| format!("the selector of {word}"))?
            .to_string());
    }
    match selector.as_object().filter(|labels| !labels.is_empty()) {
        Some(labels) => {
            let pair = |(key, value): (&String, &serde_json::Value)| {
                format!("{key}={}", value.as_str().unwrap_or_default())
            };
            Ok(labels.iter().map(pair).collect::<Vec<_>>().join(","))
        }
        None => bail!("{word} selects no pods"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_get_their_prefix_however_they_come_in_pieces() {
        let mut lines = Lines::new("> ".to_owned());
        let mut out = Vec::new();
        for piece in ["a", "b\nc\n", "", "d\ne"] {
            out.extend(lines.of(piece.as_bytes().to_vec()));
        }
        out.extend(lines.rest());
        assert_eq!(String::from_utf8_lossy(&out), "> ab\n> c\n> d\n> e\n");
    }
}
