//! `weir api-resources` and `weir api-versions`: the table of kinds, as the `.proto` files declare it.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use weir_proto::Kind;

use crate::output::Grid;
use crate::terminal::Terminal;

const VERBS: &str = "create,delete,deletecollection,get,list,patch,update,watch";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// wide or name
    #[arg(long, short, default_value = "", hide_default_value = true)]
    output: String,
    /// Only this group's
    #[arg(long)]
    api_group: Option<String>,
    /// Only those in namespaces, or with =false only the others
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    namespaced: Option<bool>,
    /// Only those of these categories
    #[arg(long, value_delimiter = ',')]
    categories: Vec<String>,
    /// Only those that have all of these verbs
    #[arg(long, value_delimiter = ',')]
    verbs: Vec<String>,
    /// name or kind
    #[arg(long, value_parser = ["name", "kind"])]
    sort_by: Option<String>,
    #[arg(long)]
    no_headers: bool,
}

pub(crate) fn run(terminal: &Terminal, options: &Options) -> Result<()> {
    let mut header = vec!["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"];
    match options.output.as_str() {
        "" => {}
        "name" => {
            let names: Vec<String> =
                kinds(options).into_iter().map(|kind| kind.resource_name() + "\n").collect();
            return Ok(terminal.write(names.concat().as_bytes())?);
        }
        "wide" => header.extend(["VERBS", "CATEGORIES"]),
        other => bail!("-o {other}: no such format; use wide or name"),
    }
    let header = if options.no_headers { Vec::new() } else { header };
    let mut grid = Grid::new(header.into_iter().map(str::to_owned).collect());
    for kind in kinds(options) {
        let mut row = vec![
            kind.plural.to_owned(),
            kind.short_names.join(","),
            kind.api_version(),
            kind.namespaced.to_string(),
            kind.kind.to_owned(),
        ];
        if options.output == "wide" {
            row.extend([VERBS.to_owned(), kind.categories.join(",")]);
        }
        grid.push(row);
    }
    Ok(terminal.write(grid.to_string().as_bytes())?)
}

fn kinds(options: &Options) -> Vec<&'static Kind> {
    let served = options.verbs.iter().all(|verb| VERBS.split(',').any(|known| known == verb));
    let chosen = weir_proto::kinds().iter().copied().filter(|kind| {
        served
            && options.api_group.as_ref().is_none_or(|group| kind.group == group)
            && options.namespaced.is_none_or(|namespaced| kind.namespaced == namespaced)
            && options.categories.iter().all(|category| kind.categories.contains(&category.as_str()))
    });
    let mut kinds: Vec<_> = chosen.collect();
    match options.sort_by.as_deref() {
        Some("name") => kinds.sort_by_key(|kind| kind.plural),
        Some(_) => kinds.sort_by_key(|kind| kind.kind),
        None => {}
    }
    kinds
}

pub(crate) fn versions(terminal: &Terminal) -> Result<()> {
    let versions: BTreeSet<String> =
        weir_proto::kinds().iter().map(|kind| kind.api_version() + "\n").collect();
    Ok(terminal.write(versions.into_iter().collect::<String>().as_bytes())?)
}
