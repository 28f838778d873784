//! `weir create`: objects that must not be there yet, from files or, of a few kinds, from flags.

mod data;
mod generators;
mod token;

use anyhow::{Context, Result};

use crate::arguments::{Changing, Files, Validation};
use crate::change::Changes;
use crate::failure::Failures;
use crate::manifest;
use crate::session::Session;

use generators::Generator;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    validation: Validation,
    #[command(flatten)]
    changing: Changing,
    #[command(subcommand)]
    generator: Option<Asked>,
}

#[derive(Debug, clap::Subcommand)]
enum Asked {
    /// A token of a service account
    Token(token::Options),
    #[command(flatten)]
    Object(Generator),
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    match &options.generator {
        Some(Asked::Token(options)) => return token::run(session, options).await,
        Some(Asked::Object(generator)) => {
            let changes = Changes::new(session, generator.changing())?;
            return changes.create(generator.object()?, "created").await;
        }
        None => {}
    }
    let changes = Changes::new(session, &options.changing)?;
    let mut failures = Failures::default();
    for manifest in manifest::read(&options.files, options.validation.validate)? {
        let place = manifest.place();
        let created = changes.create(manifest.object, "created").await.with_context(|| place);
        failures.keep(session, created);
    }
    failures.finish()
}
