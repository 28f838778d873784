//! `weir replace`: objects become what files say; with `--force`, by deleting them first.

use std::time::Instant;

use anyhow::{Context, Result};
use weir_client::DeleteOptions;

use crate::arguments::{Changing, DryRun, Files, Validation};
use crate::change::Changes;
use crate::duration;
use crate::failure::Failures;
use crate::manifest::{self, Manifest};
use crate::selection::Pick;
use crate::session::Session;

use super::delete;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    validation: Validation,
    #[command(flatten)]
    changing: Changing,
    /// Delete the objects and create them anew
    #[arg(long)]
    force: bool,
    /// With --force: seconds that a pod gets to end
    #[arg(long, default_value_t = 0)]
    grace_period: i64,
    /// With --force: how long to wait until an object is gone, as 60s
    #[arg(long, default_value = "0", hide_default_value = true)]
    timeout: String,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    let changes = Changes::new(session, &options.changing)?;
    let mut failures = Failures::default();
    for manifest in manifest::read(&options.files, options.validation.validate)? {
        let place = manifest.place();
        let replaced = match options.force {
            false => changes.update(manifest.object, "replaced").await,
            true => anew(session, options, &changes, manifest).await,
        };
        failures.keep(session, replaced.with_context(|| place));
    }
    failures.finish()
}

async fn anew(session: &Session, options: &Options, changes: &Changes<'_>, manifest: Manifest) -> Result<()> {
    let mut object = manifest.object;
    let pick = Pick::of(object.clone());
    if options.changing.dry_run == DryRun::None {
        let grace_period_seconds = Some(options.grace_period);
        let how = DeleteOptions { grace_period_seconds, ..DeleteOptions::default() };
        match pick.api(session).delete(&pick.name, &how).await {
            Ok(deleted) => {
                changes.said(pick.kind, &pick.name, "deleted")?;
                let timeout = duration::parse(&options.timeout).context("--timeout")?;
                let deadline = timeout.map(|timeout| Instant::now() + timeout);
                delete::wait(session, &pick, &deleted.meta().uid, deadline).await?;
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let meta = object.meta_mut();
    meta.uid.clear();
    meta.resource_version.clear();
    changes.create(object, "replaced").await
}
