//! `weir scale`: how many replicas.

use anyhow::{Result, bail};
use serde_json::json;
use weir_client::Patch;

use crate::arguments::{Changing, Choosing, Files};
use crate::change::Changes;
use crate::failure::Failures;
use crate::selection::{self, Pick};
use crate::session::Session;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// TYPE NAME … or TYPE/NAME …
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    choosing: Choosing,
    #[command(flatten)]
    changing: Changing,
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..))]
    replicas: i32,
    /// Only where it runs this many now
    #[arg(long)]
    current_replicas: Option<i32>,
    /// Only if it is still at this version
    #[arg(long)]
    resource_version: Option<String>,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    let changes = Changes::new(session, &options.changing)?;
    let picks = selection::pick(session, &options.targets, Some(&options.files), &options.choosing).await?;
    if picks.is_empty() {
        bail!("no objects passed to scale");
    }
    let mut failures = Failures::default();
    for pick in picks {
        failures.keep(session, one(session, &changes, options, pick).await);
    }
    failures.finish()
}

async fn one(session: &Session, changes: &Changes<'_>, options: &Options, mut pick: Pick) -> Result<()> {
    if !pick.kind.has_subresource("scale") {
        bail!("cannot scale {}: only what runs replicas can be scaled", pick.display());
    }
    let needs_present = options.current_replicas.is_some() || changes.stays_here();
    if needs_present {
        let present = pick.object(session).await?;
        let now = present.to_json()["spec"]["replicas"].as_i64().unwrap_or(1);
        if let Some(expected) = options.current_replicas.filter(|expected| i64::from(*expected) != now) {
            bail!("Expected replicas to be {expected}, was {now}");
        }
        if changes.stays_here() {
            return changes.report(present.as_ref(), "scaled");
        }
    }
    let mut patch = json!({ "spec": { "replicas": options.replicas } });
    if let Some(version) = &options.resource_version {
        patch["metadata"] = json!({ "resourceVersion": version });
    }
    let scaled = changes.api(pick.kind, &pick.namespace).patch(&pick.name, &Patch::Merge(patch)).await?;
    changes.report(scaled.as_ref(), "scaled")
}
