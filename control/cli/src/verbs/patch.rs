//! `weir patch`: changes fields of objects, by any of the three kinds of patch.

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;
use weir_client::Patch;

use crate::arguments::{Changing, Choosing, Files};
use crate::change::Changes;
use crate::failure::Failures;
use crate::selection::{self, Pick};
use crate::session::Session;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// TYPE NAME or TYPE/NAME
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    changing: Changing,
    /// How the patch is to be understood
    #[arg(long = "type", value_enum, default_value_t = Type::Strategic)]
    of_type: Type,
    /// The patch, JSON or YAML
    #[arg(long, short, conflicts_with = "patch_file")]
    patch: Option<String>,
    /// A file with the patch
    #[arg(long)]
    patch_file: Option<String>,
    /// status or scale
    #[arg(long)]
    subresource: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Type {
    /// A list of operations (RFC 6902)
    Json,
    /// Fields to set, null to remove; lists are replaced (RFC 7386)
    Merge,
    /// As merge, but lists of named things are merged by name
    Strategic,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    let changes = Changes::new(session, &options.changing)?;
    if changes.stays_here() {
        bail!("--dry-run=client: patches are the server's to apply; use --dry-run=server");
    }
    let patch = read(options)?;
    let mut failures = Failures::default();
    let picks =
        selection::pick(session, &options.targets, Some(&options.files), &Choosing::default()).await?;
    for pick in picks {
        failures.keep(session, one(&changes, options, &pick, &patch).await);
    }
    failures.finish()
}

async fn one(changes: &Changes<'_>, options: &Options, pick: &Pick, patch: &Patch) -> Result<()> {
    let api = changes.api(pick.kind, &pick.namespace);
    let before = api.get(&pick.name).await?.meta().resource_version.clone();
    let object = match options.subresource.as_deref() {
        None => api.patch(&pick.name, patch).await?,
        Some("status") => api.patch_status(&pick.name, patch).await?,
        Some(other) => bail!("--subresource={other}: only status can be patched by itself"),
    };
    let done = if object.meta().resource_version == before { "patched (no change)" } else { "patched" };
    changes.report(object.as_ref(), done)
}

fn read(options: &Options) -> Result<Patch> {
    let (source, text) = match (&options.patch, &options.patch_file) {
        (Some(text), _) => ("--patch".to_owned(), text.clone()),
        (None, Some(file)) => {
            (file.clone(), std::fs::read_to_string(file).with_context(|| format!("read {file}"))?)
        }
        (None, None) => bail!("must specify --patch or --patch-file containing the contents of the patch"),
    };
    let documents = weir_proto::yaml::documents(&text).with_context(|| source.clone())?;
    let value = match <[_; 1]>::try_from(documents) {
        Ok([document]) => document.value,
        Err(documents) => bail!("{source}: want one patch, got {}", documents.len()),
    };
    match (options.of_type, &value) {
        (Type::Json, Value::Array(_)) => Ok(Patch::Json(value)),
        (Type::Json, _) => bail!("{source}: a JSON patch is a list of operations"),
        (Type::Merge, Value::Object(_)) => Ok(Patch::Merge(value)),
        (Type::Strategic, Value::Object(_)) => Ok(Patch::Strategic(value)),
        (Type::Merge | Type::Strategic, _) => bail!("{source}: a patch of this type is an object"),
    }
}
