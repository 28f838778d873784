//! How objects look on the terminal.

mod columns;
mod grid;
mod sort;
pub(crate) mod tabs;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Value, json};
use weir_proto::meta::v1::Time;
use weir_proto::{Kind, Object, table, yaml};

pub(crate) use columns::Columns;
pub(crate) use grid::Grid;
pub(crate) use sort::sort;

use crate::session::Session;
use crate::target::display;
use weir_document::jsonpath::Template;

const FORMATS: &str =
    "json, yaml, name, wide, jsonpath, jsonpath-as-json, jsonpath-file, custom-columns, custom-columns-file";

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Format {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
    JsonPath(Template),
    JsonPathAsJson(Template),
    Columns(Columns),
}

/// What a table shows besides the kind's own columns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extras {
    pub(crate) namespace: bool,
    pub(crate) labels: bool,
    /// Labels with a column of their own.
    pub(crate) label_columns: Vec<String>,
    pub(crate) no_headers: bool,
    /// Names with their type, where a table is one of several.
    pub(crate) typed_names: bool,
    /// The kind of change that a watch told of.
    pub(crate) event: Option<&'static str>,
}

impl Format {
    pub(crate) fn parse(word: &str) -> Result<Self> {
        let (name, argument) = word.split_once('=').unwrap_or((word, ""));
        let file =
            || std::fs::read_to_string(argument).with_context(|| format!("-o {name}: read {argument}"));
        let template = |text: &str| match text {
            "" => bail!("template format specified but no template given: -o {name}='{{.metadata.name}}'"),
            text => Ok(Template::parse(text)?),
        };
        Ok(match name {
            "table" | "" => Self::Table,
            "wide" => Self::Wide,
            "json" => Self::Json,
            "yaml" => Self::Yaml,
            "name" => Self::Name,
            "jsonpath" => Self::JsonPath(template(argument)?),
            "jsonpath-as-json" => Self::JsonPathAsJson(template(argument)?),
            "jsonpath-file" => Self::JsonPath(template(file()?.trim_end_matches('\n'))?),
            "custom-columns" => Self::Columns(Columns::parse(argument)?),
            "custom-columns-file" => Self::Columns(Columns::parse_file(&file()?)?),
            "go-template" | "go-template-file" | "template" | "templatefile" => {
                bail!("-o {name}: Go templates are not supported; jsonpath and custom-columns are")
            }
            _ => bail!(
                "unable to match a printer suitable for the output format {word:?}, allowed formats are: {FORMATS}"
            ),
        })
    }

    pub(crate) fn is_table(&self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// The table of objects of one kind.
pub(crate) fn grid(kind: &Kind, objects: &[Box<dyn Object>], now: Time, wide: bool, extras: &Extras) -> Grid {
    let mut header: Vec<String> = table::header(kind, wide).into_iter().map(str::to_owned).collect();
    if extras.namespace {
        header.insert(0, "NAMESPACE".to_owned());
    }
    if extras.event.is_some() {
        header.insert(0, "EVENT".to_owned());
    }
    // `app.kubernetes.io/name` is shown under NAME.
    let title = |label: &String| label.rsplit('/').next().unwrap_or(label).to_uppercase();
    header.extend(extras.label_columns.iter().map(title));
    if extras.labels {
        header.push("LABELS".to_owned());
    }
    let mut grid = Grid::new(if extras.no_headers { Vec::new() } else { header });
    for object in objects {
        grid.push(row(object.as_ref(), now, wide, extras));
    }
    grid
}

fn row(object: &dyn Object, now: Time, wide: bool, extras: &Extras) -> Vec<String> {
    let mut row = table::cells(object, now, wide);
    let meta = object.meta();
    if extras.typed_names
        && let Some(name) = row.first_mut().filter(|cell| **cell == meta.name)
    {
        *name = display(object.kind(), name);
    }
    if extras.namespace {
        row.insert(0, meta.namespace.clone());
    }
    if let Some(event) = extras.event {
        row.insert(0, event.to_owned());
    }
    let of_label = |label: &String| meta.labels.get(label).cloned().unwrap_or_default();
    row.extend(extras.label_columns.iter().map(of_label));
    if extras.labels {
        let labels: Vec<String> = meta.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        row.push(if labels.is_empty() { "<none>".to_owned() } else { labels.join(",") });
    }
    row
}

/// Every format but tables. A sole object that was asked for by name stands alone, others in a List.
pub(crate) fn print_objects(
    session: &Session,
    objects: &[Box<dyn Object>],
    alone: bool,
    format: &Format,
) -> Result<()> {
    let value = || match objects {
        [object] if alone => object.to_json(),
        objects => list(objects),
    };
    match format {
        Format::Name => {
            for object in objects {
                session.say(display(object.kind(), &object.meta().name))?;
            }
        }
        Format::Columns(columns) => session.print(columns.grid(objects, false))?,
        Format::JsonPath(template) => session.print(template.render(&value())?)?,
        Format::JsonPathAsJson(template) => {
            let value = value();
            session.say(indented(&template.values(&value)?)?)?;
        }
        Format::Yaml => session.print(yaml::to_string(&value()))?,
        Format::Json => session.say(indented(&value())?)?,
        Format::Table | Format::Wide => {
            if let Some(first) = objects.first() {
                let extras = Extras::default();
                session.print(grid(
                    first.kind(),
                    objects,
                    (session.now)(),
                    *format == Format::Wide,
                    &extras,
                ))?;
            }
        }
    }
    Ok(())
}

/// JSON as kubectl sets it: by four spaces.
fn indented(value: &impl Serialize) -> Result<String> {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
    value.serialize(&mut serializer)?;
    Ok(String::from_utf8(text)?)
}

fn list(objects: &[Box<dyn Object>]) -> Value {
    let items: Vec<Value> = objects.iter().map(|object| object.to_json()).collect();
    json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "" }, "items": items })
}
