//! `weir describe`: objects in full, for people, with their events. Kinds that people look at most are laid out as
//! kubectl lays them out; the others show every field they have.
//!
//! Sections write lines whose columns are separated by tabs; `output::tabs` lines them up.

mod container;
mod data;
mod deployment;
mod generic;
mod node;
mod pod;
mod service;

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use jiff::tz::TimeZone;
use weir_client::ListOptions;
use weir_proto::Object;
use weir_proto::apps::v1::{Deployment, ReplicaSet};
use weir_proto::core::v1::{ConfigMap, Event, Node, Pod, Secret, Service};
use weir_proto::meta::v1::{ObjectMeta, Time};

pub(crate) use container::template;

use crate::arguments::{Choosing, Files};
use crate::failure::Failures;
use crate::output::tabs;
use crate::selection;
use crate::session::Session;
use crate::verbs::events::when;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// TYPE [NAME …] or TYPE/NAME …
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    /// Only objects whose labels match
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
    /// Objects of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// With what happened to the objects
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    show_events: bool,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    // A type alone means all of its objects.
    let all = options.targets.len() == 1 && !options.targets[0].contains('/');
    let choosing = Choosing {
        selector: options.selector.clone(),
        all: all && options.selector.is_empty(),
        all_namespaces: options.all_namespaces,
        ..Choosing::default()
    };
    let mut failures = Failures::default();
    let picks = selection::pick(session, &options.targets, Some(&options.files), &choosing).await?;
    let objects = selection::objects(session, picks, &mut failures).await;
    if objects.is_empty() && all {
        session.note(format_args!("No resources found in {} namespace.", session.namespace));
    }
    for (number, object) in objects.iter().enumerate() {
        if number > 0 {
            session.print("\n\n")?;
        }
        let mut text = text(session, object.as_ref()).await?;
        if options.show_events {
            events(session, object.as_ref(), &mut text).await?;
        }
        session.print(tabs::expand(&text))?;
    }
    failures.finish()
}

async fn text(session: &Session, object: &dyn Object) -> Result<String> {
    let mut text = String::new();
    if let Some(pod) = object.downcast_ref::<Pod>() {
        pod::describe(&mut text, pod);
    } else if let Some(node) = object.downcast_ref::<Node>() {
        node::describe(session, &mut text, node).await?;
    } else if let Some(deployment) = object.downcast_ref::<Deployment>() {
        deployment::describe(session, &mut text, deployment).await?;
    } else if let Some(set) = object.downcast_ref::<ReplicaSet>() {
        deployment::describe_set(&mut text, set);
    } else if let Some(service) = object.downcast_ref::<Service>() {
        service::describe(session, &mut text, service).await?;
    } else if let Some(map) = object.downcast_ref::<ConfigMap>() {
        data::describe_config_map(&mut text, map);
    } else if let Some(secret) = object.downcast_ref::<Secret>() {
        data::describe_secret(&mut text, secret);
    } else {
        generic::describe(&mut text, object);
    }
    Ok(text)
}

/// Writes a line; a String takes whatever is written to it.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => {{
        use std::fmt::Write as _;
        let _infallible = writeln!($out, $($arg)*);
    }};
}
use line;

/// "Labels:\ta=b" and the further entries below it.
fn pairs(out: &mut String, margin: &str, title: &str, map: &BTreeMap<String, String>, separator: &str) {
    let mut title = format!("{margin}{title}:");
    for (key, value) in map.iter().filter(|(key, _)| !key.ends_with("/last-applied-configuration")) {
        line!(out, "{title}\t{key}{separator}{}", value.trim_end().replace('\n', " "));
        title = margin.to_owned();
    }
    if title != margin {
        line!(out, "{title}\t<none>");
    }
}

fn labels(out: &mut String, meta: &ObjectMeta) {
    pairs(out, "", "Labels", &meta.labels, "=");
    pairs(out, "", "Annotations", &meta.annotations, ": ");
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

fn joined<'a>(words: impl IntoIterator<Item = &'a String>) -> String {
    let words: Vec<&str> = words.into_iter().map(String::as_str).collect();
    or_none(&words.join(",")).to_owned()
}

/// "Mon, 01 Jan 2024 00:00:00 +0000", in UTC wherever one stands.
fn time(time: Option<Time>) -> String {
    let stamp = time.and_then(|time| jiff::Timestamp::from_second(time.unix()).ok());
    match stamp {
        Some(stamp) => stamp.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S %z").to_string(),
        None => "<unset>".to_owned(),
    }
}

fn title_case(flag: bool) -> &'static str {
    if flag { "True" } else { "False" }
}

async fn events(session: &Session, object: &dyn Object, out: &mut String) -> Result<()> {
    let meta = object.meta();
    // Events about objects without a namespace are in "default".
    let namespace = if meta.namespace.is_empty() { "default" } else { &meta.namespace };
    let selector = format!("involvedObject.name={},involvedObject.kind={}", meta.name, object.kind().kind);
    let list = session.client.namespaced::<Event>(namespace).list(&ListOptions::fields(selector)).await;
    // Who may read the object but not its events sees the object.
    let Ok(list) = list else { return Ok(()) };
    let mut events = list.items;
    // Another object of the name, that is gone, had events too; a node's are filed under its name.
    events.retain(|event| {
        let about = event.involved_object.clone().unwrap_or_default();
        let same = about.uid.is_empty() || about.uid == meta.uid || about.uid == meta.name;
        same && about.name == meta.name && about.kind == object.kind().kind
    });
    if events.is_empty() {
        line!(out, "Events:\t<none>");
        return Ok(());
    }
    events.sort_by_key(when);
    line!(out, "Events:\n  Type\tReason\tAge\tFrom\tMessage\n  ----\t------\t----\t----\t-------");
    for event in events {
        let last = session.age(event.last_timestamp.or(event.meta().creation_timestamp));
        let age = match event.first_timestamp {
            Some(first) if event.count > 1 => {
                format!("{last} (x{} over {})", event.count, session.age(Some(first)))
            }
            _ => last,
        };
        let from = event.source.as_ref().map(|source| source.component.as_str()).unwrap_or_default();
        let from = if from.is_empty() { &event.reporting_component } else { from };
        let message = event.message.trim().replace('\t', " ");
        write!(out, "  {}\t{}\t{age}\t{from}\t", event.r#type, event.reason).ok();
        line!(out, "{}", message.replace('\n', " "));
    }
    Ok(())
}
