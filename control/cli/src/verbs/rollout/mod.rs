//! `weir rollout`: how a Deployment gets from one template to the next.

mod history;
mod status;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use weir_client::Patch;
use weir_proto::apps::v1::Deployment;
use weir_proto::{Object, Resource};

use crate::arguments::{Changing, Choosing, Files};
use crate::change::Changes;
use crate::failure::Failures;
use crate::selection::{self, Pick};
use crate::session::Session;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Wait until a Deployment's newest template runs everywhere
    Status {
        #[command(flatten)]
        which: Which,
        /// Give up after this time, as 60s; 0: never
        #[arg(long, default_value = "0", hide_default_value = true)]
        timeout: String,
        /// Return only when it is rolled out
        #[arg(long, short, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
        watch: bool,
        /// Only if it is at this revision
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        revision: i64,
    },
    /// List the revisions, or show one
    History {
        #[command(flatten)]
        which: Which,
        /// Show this one's template
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        revision: i64,
    },
    /// Go back to an earlier revision
    Undo {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        changing: Changing,
        /// 0: the one before
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        to_revision: i64,
    },
    /// Replace every pod, as the strategy says
    Restart {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        changing: Changing,
    },
    /// Roll out no changes for now
    Pause {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        changing: Changing,
    },
    /// Roll out changes again
    Resume {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        changing: Changing,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// deployment NAME or deployment/NAME
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    /// Deployments whose labels match
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
}

pub(crate) async fn run(session: &Session, verb: &Verb) -> Result<()> {
    let (Verb::Status { which, .. }
    | Verb::History { which, .. }
    | Verb::Undo { which, .. }
    | Verb::Restart { which, .. }
    | Verb::Pause { which, .. }
    | Verb::Resume { which, .. }) = verb;
    // A type alone means all of its objects, as in kubectl.
    let all = which.selector.is_empty()
        && !which.targets.is_empty()
        && which.targets.len() == 1
        && !which.targets[0].contains('/');
    let choosing = Choosing { selector: which.selector.clone(), all, ..Choosing::default() };
    let picks = selection::pick(session, &which.targets, Some(&which.files), &choosing).await?;
    let mut failures = Failures::default();
    for pick in picks {
        failures.keep(session, one(session, verb, pick).await);
    }
    failures.finish()
}

async fn one(session: &Session, verb: &Verb, mut pick: Pick) -> Result<()> {
    if pick.kind != Deployment::KIND {
        bail!("{} has no rollout: only Deployments have", pick.display());
    }
    match verb {
        Verb::Status { timeout, watch, revision, .. } => {
            status::status(session, &pick, timeout, *watch, *revision).await
        }
        Verb::History { revision, .. } => history::history(session, &mut pick, *revision).await,
        Verb::Undo { changing, to_revision, .. } => {
            history::undo(session, &mut pick, changing, *to_revision).await
        }
        Verb::Restart { changing, .. } => {
            let object = pick.object(session).await?;
            if object.to_json().pointer("/spec/paused") == Some(&json!(true)) {
                bail!("can't restart paused deployment (run rollout resume first)");
            }
            let annotations =
                json!({ "kubectl.kubernetes.io/restartedAt": serde_json::to_value((session.now)())? });
            let patch = json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
            patch_with(session, object.as_ref(), changing, patch, "restarted").await
        }
        Verb::Pause { changing, .. } => pause(session, &mut pick, changing, true).await,
        Verb::Resume { changing, .. } => pause(session, &mut pick, changing, false).await,
    }
}

async fn pause(session: &Session, pick: &mut Pick, changing: &Changing, paused: bool) -> Result<()> {
    let object = pick.object(session).await?;
    let deployment = object.downcast_ref::<Deployment>().context("not a Deployment")?;
    let done = if paused { "paused" } else { "resumed" };
    if deployment.spec().paused == paused {
        let state = if paused { "already paused" } else { "not paused" };
        bail!("deployments.apps {:?} is {state}", pick.name);
    }
    let value = if paused { json!(true) } else { Value::Null };
    patch_with(session, object.as_ref(), changing, json!({ "spec": { "paused": value } }), done).await
}

async fn patch_with(
    session: &Session,
    object: &dyn Object,
    changing: &Changing,
    patch: Value,
    done: &str,
) -> Result<()> {
    let changes = Changes::new(session, changing)?;
    if changes.stays_here() {
        return changes.report(object, done);
    }
    let api = changes.api(object.kind(), &object.meta().namespace);
    let patched = api.patch(&object.meta().name, &Patch::Merge(patch)).await?;
    changes.report(patched.as_ref(), done)
}
