//! `weir taint`: what nodes repel pods with.

use anyhow::{Context, Result, bail};
use weir_proto::core::v1::{Node, Taint};

use crate::arguments::{Changing, Choosing};
use crate::change::Changes;
use crate::failure::Failures;
use crate::selection;
use crate::session::Session;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// node NAME …, then KEY=VALUE:EFFECT, KEY:EFFECT, KEY:EFFECT- or KEY-
    words: Vec<String>,
    #[command(flatten)]
    choosing: Choosing,
    #[command(flatten)]
    changing: Changing,
    /// Taints that are there already may change their value
    #[arg(long)]
    overwrite: bool,
}

#[derive(Debug)]
enum Wanted {
    Set(Taint),
    /// With this effect, or with any.
    Remove(String, Option<String>),
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    let is_taint = |word: &String| word.contains([':', '=']) || word.ends_with('-');
    let split = options.words.iter().position(is_taint).unwrap_or(options.words.len());
    let (words, taints) = options.words.split_at(split);
    if taints.is_empty() {
        bail!("at least one taint update is required: KEY=VALUE:EFFECT, or KEY:EFFECT- to remove one");
    }
    let wanted = taints.iter().map(|word| parse(word)).collect::<Result<Vec<_>>>()?;
    let changes = Changes::new(session, &options.changing)?;
    let mut failures = Failures::default();
    let picks = selection::pick(session, words, None, &options.choosing).await?;
    for mut object in selection::objects(session, picks, &mut failures).await {
        let name = object.meta().name.clone();
        let done = match object.downcast_mut::<Node>() {
            Some(node) => change(node, &wanted, options.overwrite).with_context(|| format!("node {name}")),
            None => bail!("only nodes can be tainted, not {}", object.kind().plural),
        };
        let Some(done) = failures.keep(session, done) else { continue };
        failures.keep(session, changes.update(object, done).await);
    }
    failures.finish()
}

/// Changes the node's taints; the word for what was done.
fn change(node: &mut Node, wanted: &[Wanted], overwrite: bool) -> Result<&'static str> {
    let taints = &mut node.spec_mut().taints;
    let (mut set, mut removed) = (false, false);
    for wanted in wanted {
        match wanted {
            Wanted::Set(taint) => {
                let same = |known: &Taint| known.key == taint.key && known.effect == taint.effect;
                if taints.iter().any(same) && !overwrite {
                    bail!("already has {} taint(s) with same effect(s) and --overwrite is false", taint.key);
                }
                taints.retain(|known| !same(known));
                taints.push(taint.clone());
                set = true;
            }
            Wanted::Remove(key, effect) => {
                let before = taints.len();
                taints.retain(|known| {
                    known.key != *key || effect.as_ref().is_some_and(|effect| known.effect != *effect)
                });
                if taints.len() == before {
                    bail!(
                        "taint {:?} not found",
                        effect.as_ref().map_or(key.clone(), |effect| format!("{key}:{effect}"))
                    );
                }
                removed = true;
            }
        }
    }
    Ok(match (set, removed) {
        (true, true) => "modified",
        (false, true) => "untainted",
        _ => "tainted",
    })
}

fn parse(word: &str) -> Result<Wanted> {
    let effect = |effect: &str| match EFFECTS.contains(&effect) {
        true => Ok(effect.to_owned()),
        false => bail!(
            "invalid taint effect: {effect}, unsupported taint effect; there are {}",
            EFFECTS.join(", ")
        ),
    };
    if let Some(word) = word.strip_suffix('-') {
        let (key, of) = word.split_once(':').map_or((word, None), |(key, of)| (key, Some(of)));
        let key = key.split('=').next().unwrap_or(key);
        return Ok(Wanted::Remove(key.to_owned(), of.map(effect).transpose()?));
    }
    let (pair, of) = word
        .rsplit_once(':')
        .with_context(|| format!("invalid taint spec: {word}; want KEY=VALUE:EFFECT, KEY:EFFECT, or KEY-"))?;
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    Ok(Wanted::Set(Taint {
        key: key.to_owned(),
        value: value.to_owned(),
        effect: effect(of)?,
        ..Taint::default()
    }))
}
