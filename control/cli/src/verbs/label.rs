//! `weir label` and `weir annotate`: the same on two maps.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use weir_client::Patch;
use weir_proto::Object;

use crate::arguments::{Changing, Choosing, Files};
use crate::change::Changes;
use crate::failure::Failures;
use crate::selection;
use crate::session::Session;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// TYPE NAME … or TYPE/NAME …, then KEY=VALUE … and KEY- …
    words: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    choosing: Choosing,
    #[command(flatten)]
    changing: Changing,
    /// Values that are there already may change
    #[arg(long)]
    overwrite: bool,
    /// Print what is there
    #[arg(long)]
    list: bool,
    /// Only if the object is still at this version
    #[arg(long)]
    resource_version: Option<String>,
}

/// One of the two maps, and the words for it.
struct Marks {
    field: &'static str,
    of: fn(&dyn Object) -> &BTreeMap<String, String>,
    set: &'static str,
    removed: &'static str,
    unchanged: &'static str,
}

const LABELS: Marks = Marks {
    field: "labels",
    of: |object| &object.meta().labels,
    set: "labeled",
    removed: "unlabeled",
    unchanged: "not labeled",
};

const ANNOTATIONS: Marks = Marks {
    field: "annotations",
    of: |object| &object.meta().annotations,
    set: "annotated",
    removed: "annotated",
    unchanged: "annotated",
};

pub(crate) async fn label(session: &Session, options: &Options) -> Result<()> {
    run(session, options, &LABELS).await
}

pub(crate) async fn annotate(session: &Session, options: &Options) -> Result<()> {
    run(session, options, &ANNOTATIONS).await
}

async fn run(session: &Session, options: &Options, marks: &Marks) -> Result<()> {
    let is_change = |word: &String| word.contains('=') || word.ends_with('-');
    let split = options.words.iter().position(is_change).unwrap_or(options.words.len());
    let (words, changes) = options.words.split_at(split);
    let wanted = changes.iter().map(|word| change(word)).collect::<Result<Vec<_>>>()?;
    if wanted.is_empty() && !options.list {
        bail!("at least one {} update is required", marks.field.trim_end_matches('s'));
    }
    let mut failures = Failures::default();
    let reporter = Changes::new(session, &options.changing)?;
    let picks = selection::pick(session, words, Some(&options.files), &options.choosing).await?;
    for object in selection::objects(session, picks, &mut failures).await {
        failures.keep(session, one(session, options, marks, &reporter, &wanted, object.as_ref()).await);
    }
    failures.finish()
}

/// A value to set, or None to remove the key.
fn change(word: &str) -> Result<(String, Option<String>)> {
    if let Some((key, value)) = word.split_once('=') {
        if key.is_empty() {
            bail!("invalid change {word:?}: want KEY=VALUE or KEY-");
        }
        return Ok((key.to_owned(), Some(value.to_owned())));
    }
    let key = word.strip_suffix('-').filter(|key| !key.is_empty());
    Ok((key.with_context(|| format!("invalid change {word:?}: want KEY=VALUE or KEY-"))?.to_owned(), None))
}

async fn one(
    session: &Session,
    options: &Options,
    marks: &Marks,
    changes: &Changes<'_>,
    wanted: &[(String, Option<String>)],
    object: &dyn Object,
) -> Result<()> {
    let present = (marks.of)(object);
    let mut patch = Map::new();
    let mut done = marks.unchanged;
    for (key, value) in wanted {
        match (present.get(key), value) {
            (Some(now), Some(value)) if now != value && !options.overwrite => {
                bail!("'{key}' already has a value ({now}), and --overwrite is false");
            }
            (Some(now), Some(value)) if now == value => {}
            (None, None) => {
                session.note(format_args!("{} {key:?} not found.", marks.field.trim_end_matches('s')))
            }
            (_, Some(value)) => {
                patch.insert(key.clone(), json!(value));
                done = marks.set;
            }
            (Some(_), None) => {
                patch.insert(key.clone(), Value::Null);
                done = if done == marks.set { marks.set } else { marks.removed };
            }
        }
    }
    let updated = if patch.is_empty() || changes.stays_here() {
        None
    } else {
        let mut meta = json!({ marks.field: patch });
        if let Some(version) = &options.resource_version {
            meta["resourceVersion"] = json!(version);
        }
        let api = changes.api(object.kind(), &object.meta().namespace);
        Some(api.patch(&object.meta().name, &Patch::Merge(json!({ "metadata": meta }))).await?)
    };
    let shown = updated.as_deref().unwrap_or(object);
    if !options.list {
        return changes.report(shown, done);
    }
    for (key, value) in (marks.of)(shown) {
        session.say(format_args!("{key}={value}"))?;
    }
    Ok(())
}
