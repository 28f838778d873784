//! `weir events`: what happened, the latest last.

use anyhow::{Result, bail};
use futures::TryStreamExt;
use weir_client::{ListOptions, WatchEvent, WatchOptions};
use weir_proto::core::v1::Event;
use weir_proto::{Kind, Object, Resource};

use crate::output::{self, Extras, Format};
use crate::session::{Session, list_all};
use crate::target;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only events about this object, TYPE/NAME
    #[arg(long = "for")]
    about: Option<String>,
    /// Only of these types: Normal, Warning
    #[arg(long, value_delimiter = ',')]
    types: Vec<String>,
    /// Events of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Go on printing events as they come
    #[arg(long, short)]
    watch: bool,
    /// json, yaml, name, jsonpath=…, …
    #[arg(long, short, default_value = "", hide_default_value = true)]
    output: String,
    #[arg(long)]
    no_headers: bool,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    let format = Format::parse(&options.output)?;
    let about = options.about.as_ref().map(|word| one(word)).transpose()?;
    let wanted = |event: &Event| {
        let of_type = options.types.is_empty()
            || options.types.iter().any(|wanted| wanted.eq_ignore_ascii_case(&event.r#type));
        let object = event.involved_object.clone().unwrap_or_default();
        of_type && about.as_ref().is_none_or(|(kind, name)| object.kind == kind.kind && object.name == *name)
    };
    let api = session.api_over(Event::KIND, options.all_namespaces);
    let mut events = list_all(&api, &ListOptions::default()).await?;
    events.retain(|event| event.downcast_ref::<Event>().is_some_and(wanted));
    events.sort_by_key(|event| event.downcast_ref::<Event>().map(when));
    let mut extras =
        Extras { namespace: options.all_namespaces, no_headers: options.no_headers, ..Extras::default() };
    if !format.is_table() {
        output::print_objects(session, &events, false, &format)?;
    } else if !events.is_empty() {
        print(session, &events, &format, &extras)?;
        extras.no_headers = true;
    } else if !options.watch {
        let place = if options.all_namespaces {
            String::new()
        } else {
            format!(" in {} namespace", session.namespace)
        };
        session.note(format_args!("No events found{place}."));
    }
    if !options.watch {
        return Ok(());
    }
    let one = ListOptions { limit: 1, ..ListOptions::default() };
    let resource_version = api.list(&one).await?.resource_version;
    let mut changes = api.watch(&WatchOptions { resource_version, ..WatchOptions::default() }).await?;
    while let Some(change) = changes.try_next().await? {
        let (WatchEvent::Added(event) | WatchEvent::Modified(event)) = change else { continue };
        if event.downcast_ref::<Event>().is_some_and(wanted) {
            print(session, &[event], &format, &extras)?;
            extras.no_headers = true;
        }
    }
    bail!("the server ended the watch")
}

fn print(session: &Session, events: &[Box<dyn Object>], format: &Format, extras: &Extras) -> Result<()> {
    if !format.is_table() {
        return output::print_objects(session, events, true, format);
    }
    session.print(output::grid(Event::KIND, events, (session.now)(), *format == Format::Wide, extras))
}

/// When it happened last.
pub(super) fn when(event: &Event) -> i64 {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time);
    let micro = series.or(event.event_time).map(|time| time.unix());
    let created = event.meta().creation_timestamp.map(|time| time.unix());
    event.last_timestamp.map(|time| time.unix()).or(micro).or(created).unwrap_or_default()
}

fn one(word: &str) -> Result<(&'static Kind, String)> {
    match target::parse_named(&[word.to_owned()])?.pop() {
        Some(named) => Ok(named),
        None => bail!("--for {word}: want TYPE/NAME"),
    }
}
