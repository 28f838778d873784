//! `weir get`: objects as tables or documents, once or as they change.

mod watch;

use anyhow::{Result, bail};
use weir_client::ListOptions;
use weir_proto::{Kind, Object};

use crate::arguments::{Choosing, Files};
use crate::failure::Failures;
use crate::output::{self, Extras, Format};
use crate::selection;
use crate::session::{Session, list_all};
use crate::target::{self, Target};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// TYPE [NAME …], TYPE,TYPE, or TYPE/NAME …
    #[arg(required_unless_present_any = ["filenames", "kustomize", "raw"])]
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    /// wide, json, yaml, name, jsonpath=…, jsonpath-as-json=…, jsonpath-file=…, custom-columns=…, custom-columns-file=…
    #[arg(long, short, default_value = "", hide_default_value = true)]
    output: String,
    /// Objects of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Only objects whose labels match, as in app=web,tier!=db
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
    /// Only objects whose fields match, as in status.phase=Running
    #[arg(long, default_value = "", hide_default_value = true)]
    field_selector: String,
    /// Order by the value at this path, as in .metadata.creationTimestamp
    #[arg(long)]
    sort_by: Option<String>,
    /// Go on printing objects as they change
    #[arg(long, short)]
    watch: bool,
    /// As --watch, but without the objects as they are now
    #[arg(long)]
    watch_only: bool,
    /// With --watch: print what kind of change it was
    #[arg(long)]
    output_watch_events: bool,
    #[arg(long)]
    no_headers: bool,
    #[arg(long)]
    show_labels: bool,
    /// A column for each of these labels
    #[arg(long, short = 'L', value_delimiter = ',')]
    label_columns: Vec<String>,
    /// Names with their type
    #[arg(long)]
    show_kind: bool,
    /// An object that is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
    /// Print what the server has at this path, as it is
    #[arg(long, conflicts_with_all = ["targets", "filenames", "watch", "watch_only"])]
    raw: Option<String>,
}

type Found = Vec<(&'static Kind, Vec<Box<dyn Object>>)>;

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    if let Some(path) = &options.raw {
        return Ok(session.terminal.write(&session.client.document(path).await?)?);
    }
    let format = Format::parse(&options.output)?;
    let by_file = !options.files.filenames.is_empty() || options.files.kustomize.is_some();
    let targets = if by_file { Vec::new() } else { target::parse(&options.targets)? };
    if options.watch || options.watch_only {
        return watch::run(session, options, &targets, &format).await;
    }
    let mut failures = Failures::default();
    let found = match by_file {
        true => of_files(session, options, &mut failures).await?,
        false => of_targets(session, options, &targets, &mut failures).await,
    };
    if format.is_table() {
        tables(session, options, found, &format, failures)
    } else {
        let alone = matches!(targets.as_slice(), [Target { name: Some(_), .. }]);
        let mut objects: Vec<Box<dyn Object>> = found.into_iter().flat_map(|(_, objects)| objects).collect();
        if alone && objects.is_empty() {
            return failures.finish();
        }
        if let Some(path) = &options.sort_by {
            output::sort(&mut objects, path)?;
        }
        match &format {
            Format::Columns(columns) => session.print(columns.grid(&objects, options.no_headers))?,
            format => output::print_objects(session, &objects, alone, format)?,
        }
        failures.finish()
    }
}

async fn of_files(session: &Session, options: &Options, failures: &mut Failures) -> Result<Found> {
    let picks =
        selection::pick(session, &options.targets, Some(&options.files), &Choosing::default()).await?;
    let mut found = Found::new();
    for object in selection::objects(session, picks, failures).await {
        add(&mut found, object.kind(), vec![object]);
    }
    Ok(found)
}

async fn of_targets(
    session: &Session,
    options: &Options,
    targets: &[Target],
    failures: &mut Failures,
) -> Found {
    let mut found = Found::new();
    for target in targets {
        let objects = fetch(session, options, target).await;
        if let Some(objects) = failures.keep(session, objects) {
            add(&mut found, target.kind, objects);
        }
    }
    found
}

/// Objects of one kind belong into one table, however they were named.
fn add(found: &mut Found, kind: &'static Kind, objects: Vec<Box<dyn Object>>) {
    match found.iter_mut().find(|(known, _)| *known == kind) {
        Some((_, present)) => present.extend(objects),
        None => found.push((kind, objects)),
    }
}

async fn fetch(session: &Session, options: &Options, target: &Target) -> Result<Vec<Box<dyn Object>>> {
    let Some(name) = &target.name else {
        let list = ListOptions {
            label_selector: options.selector.clone(),
            field_selector: options.field_selector.clone(),
            ..ListOptions::default()
        };
        return list_all(&session.api_over(target.kind, options.all_namespaces), &list).await;
    };
    if !options.selector.is_empty() || !options.field_selector.is_empty() {
        bail!("name cannot be provided when a selector is specified");
    }
    if options.all_namespaces && target.kind.namespaced {
        bail!("a resource cannot be retrieved by name across all namespaces");
    }
    let api = session.api(target.kind, "");
    if options.ignore_not_found {
        return Ok(api.get_opt(name).await?.into_iter().collect());
    }
    Ok(vec![api.get(name).await?])
}

fn tables(
    session: &Session,
    options: &Options,
    mut found: Found,
    format: &Format,
    failures: Failures,
) -> Result<()> {
    let several = found.len() > 1 || options.show_kind;
    let mut shown = 0;
    for (kind, objects) in found.iter_mut().filter(|(_, objects)| !objects.is_empty()) {
        if shown > 0 {
            session.say("")?;
        }
        shown += 1;
        if let Some(path) = &options.sort_by {
            output::sort(objects, path)?;
        }
        let extras = extras(options, kind, several);
        session.print(output::grid(kind, objects, (session.now)(), *format == Format::Wide, &extras))?;
    }
    let failed = failures.finish();
    if shown == 0 && failed.is_ok() && !options.ignore_not_found {
        let everywhere = options.all_namespaces || found.iter().all(|(kind, _)| !kind.namespaced);
        if everywhere {
            session.note("No resources found");
        } else {
            session.note(format_args!("No resources found in {} namespace.", session.namespace));
        }
    }
    failed
}

fn extras(options: &Options, kind: &Kind, typed_names: bool) -> Extras {
    Extras {
        namespace: options.all_namespaces && kind.namespaced,
        labels: options.show_labels,
        label_columns: options.label_columns.clone(),
        no_headers: options.no_headers,
        typed_names,
        event: None,
    }
}
