//! `weir top`: how much CPU and memory nodes and pods use at this moment, measured by their agents.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;
use futures::future::join_all;
use weir_client::ListOptions;
use weir_proto::Quantity;
use weir_proto::core::v1::{Node, Pod};
use weir_proto::weir::v1::{NodeStats, StatsRequest, Usage};

use crate::failure::Exit;
use crate::output::Grid;
use crate::session::Session;

/// For one node's answer; the server itself gives up sooner.
const PATIENCE: Duration = Duration::from_secs(10);
const UNKNOWN: &str = "<unknown>";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// CPU and memory of nodes, of which they have how much
    #[command(visible_aliases = ["node", "no"])]
    Nodes(Nodes),
    /// CPU and memory of pods
    #[command(visible_aliases = ["pod", "po"])]
    Pods(Pods),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Nodes {
    name: Option<String>,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Pods {
    name: Option<String>,
    /// Of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Each container by itself
    #[arg(long)]
    containers: bool,
    /// And their sum
    #[arg(long)]
    sum: bool,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Shown {
    /// Those whose labels match
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
    /// The largest first
    #[arg(long, value_enum)]
    sort_by: Option<SortBy>,
    /// Without the line of names
    #[arg(long)]
    no_headers: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SortBy {
    Cpu,
    Memory,
}

impl Shown {
    fn header(&self, names: &[&str]) -> Vec<String> {
        if self.no_headers { Vec::new() } else { names.iter().map(|name| (*name).to_owned()).collect() }
    }

    /// The largest first, or as they are.
    fn sort<T>(&self, rows: &mut [T], usage: impl Fn(&T) -> Usage) {
        match self.sort_by {
            Some(SortBy::Cpu) => rows.sort_by_key(|row| std::cmp::Reverse(usage(row).cpu_nano_cores)),
            Some(SortBy::Memory) => {
                rows.sort_by_key(|row| std::cmp::Reverse(usage(row).memory_working_set_bytes));
            }
            None => {}
        }
    }
}

pub(crate) async fn run(session: &Session, verb: &Verb) -> Result<()> {
    match verb {
        Verb::Nodes(options) => nodes(session, options).await,
        Verb::Pods(options) => pods(session, options).await,
    }
}

async fn ask(session: &Session, node: &str) -> Result<NodeStats> {
    let request = StatsRequest { node_name: node.to_owned() };
    let mut inspect = session.client.inspect();
    match tokio::time::timeout(PATIENCE, inspect.stats(request)).await {
        Ok(Ok(stats)) => Ok(stats.into_inner()),
        Ok(Err(status)) => Err(session.client.error(&format!("measure node {node}"), status).into()),
        Err(_) => bail!("no answer within {PATIENCE:?}"),
    }
}

async fn nodes(session: &Session, options: &Nodes) -> Result<()> {
    let api = session.client.api::<Node>();
    let nodes = match &options.name {
        Some(name) => vec![api.get(name).await?],
        None => api.list(&ListOptions::labels(options.shown.selector.clone())).await?.items,
    };
    if nodes.is_empty() {
        bail!("no nodes found");
    }
    let answers = join_all(nodes.iter().map(|node| ask(session, &node.meta().name))).await;
    let mut rows: Vec<(&Node, Result<NodeStats>)> = nodes.iter().zip(answers).collect();
    let usage = |answer: &Result<NodeStats>| answer.as_ref().ok().and_then(|stats| stats.usage);
    options.shown.sort(&mut rows, |(_, answer)| usage(answer).unwrap_or_default());
    let names = ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"];
    let mut grid = Grid::new(options.shown.header(&names));
    for (node, answer) in &rows {
        grid.push(node_row(node, usage(answer).as_ref()));
    }
    session.print(grid)?;
    let mut silent = false;
    for (node, answer) in rows {
        if let Err(error) = answer {
            silent = true;
            session.note(format_args!("error: node {}: {error:#}", node.meta().name));
        }
    }
    if silent { Err(Exit(1).into()) } else { Ok(()) }
}

fn node_row(node: &Node, usage: Option<&Usage>) -> Vec<String> {
    let empty = BTreeMap::new();
    let allocatable = node.status.as_ref().map_or(&empty, |status| &status.allocatable);
    let of = |name: &str, value: fn(&Quantity) -> i128| allocatable.get(name).map(value);
    let percent = |used: i128, whole: Option<i128>| match whole {
        Some(whole @ 1..) => format!("{}%", used * 100 / whole),
        _ => UNKNOWN.to_owned(),
    };
    let milli = usage.and_then(milli_cores);
    let bytes = usage.map(|usage| i128::from(usage.memory_working_set_bytes));
    let unknown = || UNKNOWN.to_owned();
    vec![
        node.meta().name.clone(),
        milli.map_or_else(unknown, |milli| format!("{milli}m")),
        milli.map_or_else(unknown, |milli| percent(milli, of("cpu", Quantity::milli_value))),
        bytes.map_or_else(unknown, mebibytes),
        bytes.map_or_else(unknown, |bytes| percent(bytes, of("memory", Quantity::value))),
    ]
}

/// One line: a pod, or a container of it.
struct Line {
    namespace: String,
    pod: String,
    container: String,
    usage: Usage,
}

async fn pods(session: &Session, options: &Pods) -> Result<()> {
    let namespace = if options.all_namespaces { "" } else { &session.namespace };
    let api = session.client.namespaced::<Pod>(namespace);
    let pods = match &options.name {
        Some(name) if options.all_namespaces => {
            bail!("a pod's name ({name}) and --all-namespaces exclude each other")
        }
        Some(name) => vec![api.get(name).await?],
        None => api.list(&ListOptions::labels(options.shown.selector.clone())).await?.items,
    };
    if pods.is_empty() {
        session.note(match namespace {
            "" => "No resources found".to_owned(),
            namespace => format!("No resources found in {namespace} namespace."),
        });
        return Ok(());
    }
    let mut nodes: Vec<&str> = pods.iter().map(|pod| pod.spec().node_name.as_str()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes.retain(|node| !node.is_empty());
    let answers = join_all(nodes.iter().map(|node| ask(session, node))).await;
    let mut lines = Vec::new();
    let mut silent = Vec::new();
    for (node, answer) in nodes.iter().zip(answers) {
        match answer {
            Ok(stats) => lines.extend(lines_of(&stats, &pods, options.containers)),
            Err(error) => silent.push(format!("error: node {node}: {error:#}; its pods are not shown")),
        }
    }
    lines.sort_by(|one, other| {
        (&one.namespace, &one.pod, &one.container).cmp(&(&other.namespace, &other.pod, &other.container))
    });
    options.shown.sort(&mut lines, |line| line.usage);
    print(session, options, &lines)?;
    for line in &silent {
        session.note(line);
    }
    if silent.is_empty() { Ok(()) } else { Err(Exit(1).into()) }
}

fn lines_of(stats: &NodeStats, pods: &[Pod], containers: bool) -> Vec<Line> {
    let mut lines = Vec::new();
    for pod in stats.pods.iter().filter(|found| pods.iter().any(|pod| pod.meta().uid == found.uid)) {
        let line = |container: &str, usage: Option<Usage>| Line {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            container: container.to_owned(),
            usage: usage.unwrap_or_default(),
        };
        if containers {
            lines.extend(pod.containers.iter().map(|container| line(&container.name, container.usage)));
        } else {
            // As kubectl adds them up: without what the pod's own group holds beside its containers.
            lines.push(line("", Some(sum(pod.containers.iter().filter_map(|container| container.usage)))));
        }
    }
    lines
}

fn sum(usages: impl Iterator<Item = Usage>) -> Usage {
    usages.fold(Usage { cpu_nano_cores: Some(0), ..Usage::default() }, |sum, usage| Usage {
        cpu_nano_cores: sum.cpu_nano_cores.zip(usage.cpu_nano_cores).map(|(one, other)| one + other),
        memory_working_set_bytes: sum.memory_working_set_bytes + usage.memory_working_set_bytes,
        ..sum
    })
}

fn print(session: &Session, options: &Pods, lines: &[Line]) -> Result<()> {
    let mut names = Vec::new();
    if options.all_namespaces {
        names.push("NAMESPACE");
    }
    names.extend(if options.containers { &["POD", "NAME"][..] } else { &["NAME"] });
    names.extend(["CPU(cores)", "MEMORY(bytes)"]);
    let width = names.len();
    let mut grid = Grid::new(options.shown.header(&names));
    let cells = |usage: &Usage| {
        let cpu = milli_cores(usage).map_or_else(|| UNKNOWN.to_owned(), |milli| format!("{milli}m"));
        [cpu, mebibytes(usage.memory_working_set_bytes.into())]
    };
    for line in lines {
        let mut row = Vec::new();
        if options.all_namespaces {
            row.push(line.namespace.clone());
        }
        row.push(line.pod.clone());
        if options.containers {
            row.push(line.container.clone());
        }
        row.extend(cells(&line.usage));
        grid.push(row);
    }
    if options.sum {
        let mut row = vec![String::new(); width.saturating_sub(2)];
        row.extend(cells(&sum(lines.iter().map(|line| line.usage))));
        grid.push(row);
    }
    session.print(grid)
}

fn milli_cores(usage: &Usage) -> Option<i128> {
    usage.cpu_nano_cores.map(|nano| i128::from(nano.div_ceil(1_000_000)))
}

fn mebibytes(bytes: i128) -> String {
    format!("{}Mi", bytes / (1024 * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_does_not_answer_is_shown_so() {
        let mut node = Node::default();
        node.meta_mut().name = "n1".to_owned();
        let status = node.status.get_or_insert_default();
        status.allocatable = [
            ("cpu".to_owned(), Quantity::from_value(2)),
            ("memory".to_owned(), Quantity::from_bytes(1 << 30)),
        ]
        .into();
        assert_eq!(node_row(&node, None), ["n1", UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]);
        let usage = Usage {
            cpu_nano_cores: Some(500_000_001),
            memory_working_set_bytes: 256 << 20,
            ..Usage::default()
        };
        assert_eq!(node_row(&node, Some(&usage)), ["n1", "501m", "25%", "256Mi", "25%"]);
    }

    #[test]
    fn a_sum_with_something_unknown_is_unknown() {
        let usage =
            |cpu_nano_cores| Usage { cpu_nano_cores, memory_working_set_bytes: 1, ..Usage::default() };
        let known = sum([usage(Some(1)), usage(Some(2))].into_iter());
        assert_eq!((known.cpu_nano_cores, known.memory_working_set_bytes), (Some(3), 2));
        assert_eq!(sum([usage(Some(1)), usage(None)].into_iter()).cpu_nano_cores, None);
    }
}
