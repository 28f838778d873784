//! How objects look on the terminal.

mod grid;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use weir_proto::meta::v1::Time;
use weir_proto::{Kind, Object, table, yaml};

pub(crate) use grid::Grid;

use crate::target::display;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

/// What a table shows besides the kind's own columns.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extras {
    pub(crate) namespace: bool,
    pub(crate) labels: bool,
    pub(crate) no_headers: bool,
    /// Names with their type, where a table is one of several.
    pub(crate) typed_names: bool,
}

impl Format {
    pub(crate) fn parse(word: &str) -> Result<Self> {
        Ok(match word {
            "table" | "" => Self::Table,
            "wide" => Self::Wide,
            "json" => Self::Json,
            "yaml" => Self::Yaml,
            "name" => Self::Name,
            other
                if other.starts_with("jsonpath")
                    || other.starts_with("custom-columns")
                    || other.starts_with("go-template") =>
            {
                bail!("-o {other}: not built yet; use table, wide, json, yaml or name")
            }
            other => bail!("-o {other}: no such format; use table, wide, json, yaml or name"),
        })
    }

    pub(crate) fn is_table(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// The table of objects of one kind.
pub(crate) fn grid(kind: &Kind, objects: &[Box<dyn Object>], format: Format, extras: Extras) -> Grid {
    let wide = format == Format::Wide;
    let mut header: Vec<String> = table::header(kind, wide).into_iter().map(str::to_owned).collect();
    if extras.namespace {
        header.insert(0, "NAMESPACE".to_owned());
    }
    if extras.labels {
        header.push("LABELS".to_owned());
    }
    let mut grid = Grid::new(if extras.no_headers { Vec::new() } else { header });
    let now = Time::now();
    for object in objects {
        let mut row = table::cells(object.as_ref(), now, wide);
        if extras.typed_names
            && let Some(name) = row.first_mut().filter(|cell| **cell == object.meta().name)
        {
            *name = display(kind, name);
        }
        if extras.namespace {
            row.insert(0, object.meta().namespace.clone());
        }
        if extras.labels {
            row.push(labels(object.as_ref()));
        }
        grid.push(row);
    }
    grid
}

fn labels(object: &dyn Object) -> String {
    let labels: Vec<String> =
        object.meta().labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if labels.is_empty() { "<none>".to_owned() } else { labels.join(",") }
}

/// JSON, YAML or names. A sole object that was asked for by name stands alone, others in a List.
pub(crate) fn print_objects(objects: &[Box<dyn Object>], alone: bool, format: Format) -> Result<()> {
    if format == Format::Name {
        for object in objects {
            println!("{}", display(object.kind(), &object.meta().name));
        }
        return Ok(());
    }
    let value = match objects {
        [object] if alone => object.to_json(),
        objects => list(objects),
    };
    match format {
        Format::Yaml => print!("{}", yaml::to_string(&value)),
        _ => println!("{}", serde_json::to_string_pretty(&value)?),
    }
    Ok(())
}

fn list(objects: &[Box<dyn Object>]) -> Value {
    let items: Vec<Value> = objects.iter().map(|object| object.to_json()).collect();
    json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "" }, "items": items })
}
