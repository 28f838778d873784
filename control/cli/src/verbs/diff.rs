//! `weir diff`: what applying files would change, as the server sees it. Exit code 0: nothing; 1: something; more: an
//! error.

use anyhow::{Context, Result};
use serde_json::Value;
use similar::{ChangeTag, TextDiff};
use weir_proto::{Object, yaml};

use crate::apply;
use crate::arguments::{Files, Validation};
use crate::failure::{self, Exit};
use crate::manifest;
use crate::session::Session;
use crate::target::display;
use crate::terminal::{Colour, paint};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    validation: Validation,
    /// Only manifests whose labels match
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    match differ(session, options).await {
        Ok(false) => Ok(()),
        Ok(true) => Err(Exit(1).into()),
        Err(error) => {
            failure::report(&session.terminal, &error);
            Err(Exit(2).into())
        }
    }
}

async fn differ(session: &Session, options: &Options) -> Result<bool> {
    let mut different = false;
    let selector = weir_proto::labels::Selector::parse(&options.selector)?;
    let mut manifests = manifest::read(&options.files, options.validation.validate)?;
    manifests.retain(|manifest| selector.matches(&manifest.object.meta().labels));
    for manifest in manifests {
        let api = session.api(manifest.kind, &manifest.object.meta().namespace);
        let (live, after) = apply::preview(&api, &manifest).await.with_context(|| manifest.place())?;
        let mut before = live.as_deref().map(shown).unwrap_or_default();
        let mut after = shown(after.as_ref());
        if manifest.kind.kind == "Secret" {
            hide(&mut before, &mut after);
        }
        let before = if before.is_null() { String::new() } else { yaml::to_string(&before) };
        let after = yaml::to_string(&after);
        if before != after {
            different = true;
            let name = display(manifest.kind, &manifest.object.meta().name);
            session.print(unified(session, &name, &before, &after))?;
        }
    }
    Ok(different)
}

/// Without what changes with every write.
fn shown(object: &dyn Object) -> Value {
    let mut object = object.clone_box();
    let meta = object.meta_mut();
    meta.resource_version.clear();
    meta.annotations.remove(apply::LAST_APPLIED);
    object.to_json()
}

/// Secrets are not for the terminal: only that a value is another is shown.
fn hide(before: &mut Value, after: &mut Value) {
    let entries = |object: &Value, field: &str| object[field].as_object().cloned().unwrap_or_default();
    for field in ["data", "stringData"] {
        let (was, is) = (entries(before, field), entries(after, field));
        for (object, own, other, mark) in
            [(&mut *before, &was, &is, "*** (before)"), (&mut *after, &is, &was, "*** (after)")]
        {
            for (key, value) in own {
                let same = other.get(key).is_none_or(|other| other == value);
                object[field][key] = if same { "***" } else { mark }.into();
            }
        }
    }
}

fn unified(session: &Session, name: &str, before: &str, after: &str) -> String {
    let diff = TextDiff::from_lines(before, after);
    let mut out = format!("--- live/{name}\n+++ merged/{name}\n");
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        out += &format!("{}\n", hunk.header());
        for change in hunk.iter_changes() {
            let (sign, colour) = match change.tag() {
                ChangeTag::Delete => ("-", Some(Colour::Red)),
                ChangeTag::Insert => ("+", Some(Colour::Green)),
                ChangeTag::Equal => (" ", None),
            };
            let line = format!("{sign}{}", change.value().trim_end_matches('\n'));
            let line = match colour.filter(|_| session.terminal.colours) {
                Some(colour) => paint(&line, colour),
                None => line,
            };
            out += &line;
            out.push('\n');
        }
    }
    out
}
