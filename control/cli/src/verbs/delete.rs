//! `weir delete`: by name, by selector or by file; waits until what was deleted is gone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use weir_client::{DeleteOptions, Propagation};

use crate::arguments::{Choosing, DryRun, Files};
use crate::duration;
use crate::failure::Failures;
use crate::selection::{self, Pick};
use crate::session::{Session, warn};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// TYPE NAME … or TYPE/NAME …
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    choosing: Choosing,
    #[arg(long)]
    ignore_not_found: bool,
    /// Ask before anything is deleted
    #[arg(long, short)]
    interactive: bool,
    /// Seconds that a pod gets to end; -1: its own
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    grace_period: i64,
    /// As --grace-period=1
    #[arg(long)]
    now: bool,
    /// Take the object out of the API at once, whatever still runs of it; with --grace-period=0
    #[arg(long)]
    force: bool,
    /// Return only when the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    wait: bool,
    /// How long to wait, as 60s; 0: for ever
    #[arg(long, default_value = "0", hide_default_value = true)]
    timeout: String,
    /// What becomes of objects that the deleted ones own
    #[arg(long, value_enum, default_value_t = Cascade::Background, num_args = 0..=1, require_equals = true,
        default_missing_value = "background")]
    cascade: Cascade,
    /// Change nothing
    #[arg(long, value_enum, default_value_t = DryRun::None, num_args = 0..=1, require_equals = true,
        default_missing_value = "client")]
    dry_run: DryRun,
    /// name
    #[arg(long, short, default_value = "", hide_default_value = true)]
    output: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Cascade {
    Background,
    Foreground,
    Orphan,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    if !matches!(options.output.as_str(), "" | "name") {
        bail!("unexpected -o output mode: {}. We only support '-o name'", options.output);
    }
    let timeout = duration::parse(&options.timeout).context("--timeout")?;
    let delete = how(options)?;
    let mut failures = Failures::default();
    let mut going = Vec::new();
    let picks = selection::pick(session, &options.targets, Some(&options.files), &options.choosing).await?;
    if picks.is_empty() {
        session.note("No resources found");
    }
    if options.interactive && !picks.is_empty() && !is_meant(session, &picks)? {
        return session.say("deletion is cancelled");
    }
    for pick in picks {
        let deleted = one(session, options, &pick, &delete).await;
        let uid = failures.keep(session, deleted).flatten();
        going.extend(uid.map(|uid| (pick, uid)));
    }
    // Waiting begins once all were asked to go.
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    for (pick, uid) in going.into_iter().filter(|_| options.wait) {
        wait(session, &pick, &uid, deadline).await?;
    }
    failures.finish()
}

fn is_meant(session: &Session, picks: &[Pick]) -> Result<bool> {
    session.say(format_args!("You are about to delete the following {} resource(s):", picks.len()))?;
    for pick in picks {
        session.say(pick.display())?;
    }
    session.print("Do you want to continue? (y/N): ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("read the answer")?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

fn how(options: &Options) -> Result<DeleteOptions> {
    let grace_period_seconds = match (options.grace_period, options.now, options.force) {
        (0.., true, _) => bail!("--now and --grace-period cannot be specified together"),
        (_, true, _) => Some(1),
        (-1 | 0, false, true) => {
            warn(
                "Immediate deletion does not wait for confirmation that the running resource has been terminated. \
                 The resource may continue to run on the cluster indefinitely.",
            );
            Some(0)
        }
        (_, _, true) => bail!("--force and --grace-period greater than 0 cannot be specified together"),
        (-1, ..) => None,
        // Nothing is taken out of the API while it may still run, unless --force says so.
        (0, ..) => Some(1),
        (seconds, ..) if seconds > 0 => Some(seconds),
        (seconds, ..) => bail!("--grace-period={seconds}: must be -1 or more"),
    };
    let propagation = match options.cascade {
        Cascade::Background => Propagation::Background,
        Cascade::Foreground => Propagation::Foreground,
        Cascade::Orphan => Propagation::Orphan,
    };
    Ok(DeleteOptions {
        grace_period_seconds,
        propagation,
        dry_run: options.dry_run == DryRun::Server,
        ..DeleteOptions::default()
    })
}

/// The uid of the object that now goes; None where there is nothing to wait for.
async fn one(
    session: &Session,
    options: &Options,
    pick: &Pick,
    delete: &DeleteOptions,
) -> Result<Option<String>> {
    let api = pick.api(session);
    let mut uid = None;
    let object = match options.dry_run {
        DryRun::Client => api.get(&pick.name).await,
        DryRun::None | DryRun::Server => api.delete(&pick.name, delete).await,
    };
    let object = match object {
        Ok(object) => object,
        Err(error) if error.is_not_found() && options.ignore_not_found => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if options.dry_run == DryRun::None {
        uid = Some(object.meta().uid.clone());
    }
    if options.output == "name" {
        session.say(pick.display())?;
        return Ok(uid);
    }
    let how = if options.force { " force" } else { "" };
    let whence = match object.meta().namespace.as_str() {
        "" => String::new(),
        namespace => format!(" from {namespace} namespace"),
    };
    let note = match options.dry_run {
        DryRun::None => "",
        DryRun::Client => " (dry run)",
        DryRun::Server => " (server dry run)",
    };
    let display = pick.display();
    let kind = display.split('/').next().unwrap_or_default();
    session.say(format_args!("{kind} {:?}{how} deleted{whence}{note}", pick.name))?;
    Ok(uid)
}

/// Asks until the object is gone, or another has taken its name.
pub(crate) async fn wait(session: &Session, pick: &Pick, uid: &str, deadline: Option<Instant>) -> Result<()> {
    let api = pick.api(session);
    let mut pause = Duration::from_millis(20);
    while let Some(object) = api.get_opt(&pick.name).await? {
        if object.meta().uid != uid {
            break;
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            bail!("timed out waiting for the condition on {}/{}", pick.kind.plural, pick.name);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
    Ok(())
}
