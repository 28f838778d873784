//! `weir apply`: three-way. What the last applied manifest had and the new one has not is removed; what the new one
//! has is set; what others set is left alone. With `--prune`, what was applied before under the same labels and is in no
//! manifest any more is deleted.

mod prune;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use weir_client::{DeleteOptions, DynamicApi};
use weir_document::patch::three_way;
use weir_proto::Object;

use crate::arguments::{Changing, DryRun, Files, Validation};
use crate::change::Changes;
use crate::duration;
use crate::failure::Failures;
use crate::manifest::{self, Manifest};
use crate::selection::Pick;
use crate::session::Session;
use crate::target::display;
use crate::verbs::delete;

/// Where the manifest that was applied last is kept, under kubectl's name, so that the two can take turns.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// How often a write that another writer overtook is tried again.
const ATTEMPTS: u32 = 8;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    validation: Validation,
    #[command(flatten)]
    changing: Changing,
    /// Only manifests whose labels match; with --prune, what may be pruned
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
    /// Delete objects that were applied before and are in none of the files; with -l or --all
    #[arg(long)]
    prune: bool,
    /// With --prune: whatever its labels
    #[arg(long)]
    all: bool,
    /// With --prune: only these kinds, as apps/v1/Deployment or core/v1/ConfigMap
    #[arg(long, value_delimiter = ',')]
    prune_allowlist: Vec<String>,
    /// Where the server refuses the change (of a field that never changes, say), delete the object and create it anew
    #[arg(long)]
    force: bool,
    /// With --force: how long to wait until the old object is gone, as 60s; 0: for ever
    #[arg(long, default_value = "0", hide_default_value = true)]
    timeout: String,
    /// Not supported: what is applied is merged here, by the command line
    #[arg(long, hide = true)]
    server_side: bool,
}

pub(crate) async fn run(session: &Session, options: &Options) -> Result<()> {
    if options.server_side {
        bail!("--server-side is not supported: the API has no server-side apply");
    }
    if options.prune && options.selector.is_empty() && !options.all {
        bail!("all resources selected for prune without explicitly passing --all: say --all, or -l SELECTOR");
    }
    let selector = weir_proto::labels::Selector::parse(&options.selector)?;
    let mut manifests = manifest::read(&options.files, options.validation.validate)?;
    manifests.retain(|manifest| selector.matches(&manifest.object.meta().labels));
    let changes = Changes::new(session, &options.changing)?;
    let mut failures = Failures::default();
    let mut applied = prune::Applied::default();
    for manifest in manifests {
        let place = manifest.place();
        applied.insert(session, &manifest);
        // The others may still be good; each failure is said, and the command fails.
        failures.keep(session, one(&changes, session, manifest, options).await.with_context(|| place));
    }
    if options.prune {
        applied.prune(session, options).await?;
    }
    failures.finish()
}

/// Applies one object and says what came of it.
async fn one(changes: &Changes<'_>, session: &Session, manifest: Manifest, options: &Options) -> Result<()> {
    let kind = manifest.kind;
    let namespace = manifest.object.meta().namespace.clone();
    let name = manifest.object.meta().name.clone();
    if name.is_empty() {
        bail!("generateName does not go with apply, which must know the object's name; use create");
    }
    let modified = prepared(manifest.object.as_ref())?;
    let api = changes.api(kind, &namespace);
    for attempt in 0..ATTEMPTS {
        let Some(live) = api.get_opt(&name).await? else {
            let object = decode(kind, &modified)?;
            match changes.create(object, "created").await {
                // Somebody else was first: go on from theirs.
                Err(error) if attempt + 1 < ATTEMPTS && is(&error, weir_client::Error::is_already_exists) => {
                    continue;
                }
                done => return done,
            }
        };
        let merged = merged(live.as_ref(), &modified)?;
        if options.changing.dry_run == DryRun::Client {
            let same = merged.to_json() == live.to_json();
            return changes.report(merged.as_ref(), if same { "unchanged" } else { "configured" });
        }
        match api.update(merged.as_ref()).await {
            Ok(updated) => {
                let same = updated.meta().resource_version == live.meta().resource_version
                    && (options.changing.dry_run == DryRun::None || updated.to_json() == live.to_json());
                return changes.report(updated.as_ref(), if same { "unchanged" } else { "configured" });
            }
            Err(error) if error.is_conflict() && attempt + 1 < ATTEMPTS => {
                tokio::time::sleep(Duration::from_millis(20 << attempt)).await;
            }
            Err(error) if error.is_invalid() && options.force && options.changing.dry_run == DryRun::None => {
                return anew(changes, session, options, live, decode(kind, &modified)?).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    bail!("other writers kept changing {} in {}", display(kind, &name), session.namespace)
}

/// Deletes an object that cannot become what it should be and creates it anew; where that fails, it is put back.
async fn anew(
    changes: &Changes<'_>,
    session: &Session,
    options: &Options,
    live: Box<dyn Object>,
    modified: Box<dyn Object>,
) -> Result<()> {
    let timeout = duration::parse(&options.timeout).context("--timeout")?;
    let uid = live.meta().uid.clone();
    let pick = Pick::of(live.clone_box());
    pick.api(session).delete(&pick.name, &DeleteOptions::only(&uid)).await?;
    delete::wait(session, &pick, &uid, timeout.map(|timeout| Instant::now() + timeout)).await?;
    let Err(error) = changes.create(modified, "configured").await else { return Ok(()) };
    let mut before = live;
    before.meta_mut().uid.clear();
    before.meta_mut().resource_version.clear();
    let restored = pick.api(session).create(before.as_ref()).await;
    restored
        .with_context(|| format!("put {} back as it was, since it cannot be made anew", pick.display()))?;
    Err(error)
}

fn is(error: &anyhow::Error, what: fn(&weir_client::Error) -> bool) -> bool {
    error.downcast_ref().is_some_and(what)
}

/// What the object would be after applying, as the server says: for `weir diff`.
pub(crate) async fn preview(
    api: &DynamicApi,
    manifest: &Manifest,
) -> Result<(Option<Box<dyn Object>>, Box<dyn Object>)> {
    let kind = manifest.kind;
    let modified = prepared(manifest.object.as_ref())?;
    let api = api.clone().dry_run(true);
    let live = api.get_opt(&manifest.object.meta().name).await?;
    let after = match &live {
        None => api.create(decode(kind, &modified)?.as_ref()).await?,
        Some(live) => api.update(merged(live.as_ref(), &modified)?.as_ref()).await?,
    };
    Ok((live, after))
}

fn merged(live: &dyn Object, modified: &Value) -> Result<Box<dyn Object>> {
    let merged = three_way(last_applied(live).as_ref(), modified, &live.to_json());
    decode(live.kind(), &merged)
}

fn prepared(object: &dyn Object) -> Result<Value> {
    let mut value = object.to_json();
    prepare(&mut value)?;
    Ok(value)
}

/// What the server writes is not the user's to apply; what the user wrote is remembered on the object.
fn prepare(object: &mut Value) -> Result<()> {
    let Some(fields) = object.as_object_mut() else { bail!("not an object") };
    fields.remove("status");
    if let Some(meta) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["creationTimestamp", "generation", "managedFields", "uid"] {
            meta.remove(field);
        }
        if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
        }
    }
    let remembered = serde_json::to_string(object)?;
    object["metadata"]["annotations"][LAST_APPLIED] = Value::String(remembered);
    Ok(())
}

/// The manifest of last time; an unreadable one counts as none, so that nothing is removed by mistake.
fn last_applied(live: &dyn Object) -> Option<Value> {
    serde_json::from_str(live.meta().annotations.get(LAST_APPLIED)?).ok()
}

fn decode(kind: &weir_proto::Kind, value: &Value) -> Result<Box<dyn Object>> {
    Ok(kind.from_json(value, &mut Vec::new())?)
}
