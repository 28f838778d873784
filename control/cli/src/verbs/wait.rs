//! `weir wait`: until objects are there, gone, in a condition, or hold a value.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::TryStreamExt;
use serde_json::Value;
use weir_client::{WatchEvent, WatchOptions};
use weir_proto::Object;

use crate::arguments::{Choosing, Files};
use crate::duration;
use crate::failure::Failures;
use crate::selection::{self, Pick};
use crate::session::Session;
use weir_document::jsonpath::{Path, show};

/// "For ever", as far as a terminal is concerned.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// TYPE NAME … or TYPE/NAME …
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    choosing: Choosing,
    /// create, delete, condition=NAME[=VALUE], or jsonpath='{PATH}'[=VALUE]
    #[arg(long = "for")]
    wanted: String,
    /// How long to wait for all of them; 0: look once; negative: a week
    #[arg(long, default_value = "30s", allow_hyphen_values = true)]
    timeout: String,
}

#[derive(Debug)]
enum Wanted {
    Created,
    Deleted,
    Condition {
        name: String,
        status: String,
    },
    /// A value there, this one or any.
    Value {
        path: Path,
        value: Option<String>,
    },
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    let wanted = Wanted::parse(&options.wanted)?;
    let timeout = match options.timeout.strip_prefix('-') {
        Some(_) => WEEK,
        None => duration::parse(&options.timeout).context("--timeout")?.unwrap_or(Duration::ZERO),
    };
    let picks = selection::pick(session, &options.targets, Some(&options.files), &options.choosing).await?;
    if picks.is_empty() {
        if matches!(wanted, Wanted::Deleted) {
            return Ok(());
        }
        bail!("no matching resources found");
    }
    let deadline = tokio::time::Instant::now() + timeout;
    let mut failures = Failures::default();
    for pick in picks {
        // A look at what is there already takes no time that was not granted.
        let waited = match look(session, &pick, &wanted).await {
            // As kubectl, of what was gone before anybody waited nothing is said.
            Ok(true) if matches!(wanted, Wanted::Deleted) => continue,
            Ok(true) => Ok(()),
            Ok(false) => match tokio::time::timeout_at(deadline, follow(session, &pick, &wanted)).await {
                Ok(done) => done,
                Err(_) => {
                    Err(anyhow!("timed out waiting for the condition on {}/{}", pick.kind.plural, pick.name))
                }
            },
            Err(error) => Err(error),
        };
        if failures.keep(session, waited).is_some() {
            session.say(format_args!("{} condition met", pick.display()))?;
        }
    }
    failures.finish()
}

async fn look(session: &Session, pick: &Pick, wanted: &Wanted) -> Result<bool> {
    let object = pick.api(session).get_opt(&pick.name).await?;
    match (object, wanted) {
        (None, Wanted::Deleted) => Ok(true),
        (None, Wanted::Created) => Ok(false),
        // The server's own words for what is not there.
        (None, _) => Ok(pick.api(session).get(&pick.name).await.map(|_| false)?),
        (Some(object), wanted) => wanted.holds(object.as_ref()),
    }
}

/// Looks at each change; a watch that ends is begun again.
async fn follow(session: &Session, pick: &Pick, wanted: &Wanted) -> Result<()> {
    let api = pick.api(session);
    let options =
        WatchOptions { field_selector: format!("metadata.name={}", pick.name), ..WatchOptions::default() };
    loop {
        let mut events = api.watch(&options).await?;
        let mut there = false;
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object)
                    if object.meta().name == pick.name =>
                {
                    there = true;
                    if wanted.holds(object.as_ref())? {
                        return Ok(());
                    }
                }
                WatchEvent::Deleted(object) if object.meta().name == pick.name => match wanted {
                    Wanted::Deleted => return Ok(()),
                    Wanted::Created => {}
                    _ => bail!("{} was deleted", pick.display()),
                },
                // It went before the watch began.
                WatchEvent::Bookmark(_) if matches!(wanted, Wanted::Deleted) && !there => return Ok(()),
                _ => {}
            }
        }
    }
}

impl Wanted {
    fn parse(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "create" => return Ok(Self::Created),
            "delete" => return Ok(Self::Deleted),
            _ => {}
        }
        match text.split_once('=') {
            Some(("condition", condition)) if !condition.is_empty() => {
                let (name, status) = condition.split_once('=').unwrap_or((condition, "true"));
                Ok(Self::Condition { name: name.to_owned(), status: status.to_owned() })
            }
            Some(("jsonpath", expression)) => Self::value(expression),
            _ => bail!(
                "unrecognized condition: {text:?}; want create, delete, condition=NAME[=VALUE] or jsonpath='{{PATH}}'[=VALUE]"
            ),
        }
    }

    /// `{.status.phase}=Running`; the first `=` outside of braces and brackets separates.
    fn value(expression: &str) -> Result<Self> {
        let mut depth = 0_i32;
        let separates = |character: char| {
            match character {
                '{' | '[' | '(' => depth += 1,
                '}' | ']' | ')' => depth -= 1,
                _ => {}
            }
            character == '=' && depth == 0
        };
        let (path, value) = match expression.find(separates) {
            Some(at) => (&expression[..at], Some(&expression[at + 1..])),
            None => (expression, None),
        };
        if value == Some("") {
            bail!("jsonpath wait value cannot be empty");
        }
        let value = value.map(|value| value.trim_matches(['"', '\'']).to_owned());
        Ok(Self::Value { path: Path::parse_relaxed(path)?, value })
    }

    fn holds(&self, object: &dyn Object) -> Result<bool> {
        let value = object.to_json();
        Ok(match self {
            Self::Created => true,
            Self::Deleted => false,
            Self::Condition { name, status } => {
                let conditions = value["status"]["conditions"].as_array();
                let text =
                    |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
                // What a status says of an older specification is not what was asked for.
                let observed = value["status"]["observedGeneration"].as_i64();
                let current = observed.is_none_or(|observed| observed >= object.meta().generation);
                current
                    && conditions.into_iter().flatten().any(|condition| {
                        text(condition, "type").eq_ignore_ascii_case(name)
                            && text(condition, "status").eq_ignore_ascii_case(status)
                    })
            }
            Self::Value { path, value: wanted } => {
                let found = path.find(&value)?;
                match (found.as_slice(), wanted) {
                    ([], _) => false,
                    (_, None) => true,
                    ([found], Some(wanted)) => show(found) == *wanted,
                    (_, Some(_)) => bail!("given jsonpath expression matches more than one value"),
                }
            }
        })
    }
}
