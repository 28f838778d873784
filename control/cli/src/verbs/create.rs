//! `weir create -f …`: objects that must not be there yet.

use anyhow::{Context, Result};

use crate::arguments::Create;
use crate::manifest;
use crate::session::Session;
use crate::target::display;

pub(crate) async fn run(session: &Session, options: &Create) -> Result<()> {
    for manifest in manifest::read(&options.files)? {
        let api = session.api(manifest.kind, &manifest.object.meta().namespace).dry_run(options.dry_run);
        let created = api.create(manifest.object.as_ref()).await.with_context(|| manifest.place())?;
        let note = if options.dry_run { " (server dry run)" } else { "" };
        println!("{} created{note}", display(manifest.kind, &created.meta().name));
    }
    Ok(())
}
