//! `weir apply`: three-way. What the last applied manifest had and the new one has not is removed; what the new one
//! has is set; what others set is left alone.

mod merge;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use weir_proto::Object;

use crate::arguments::Apply;
use crate::manifest::{self, Manifest};
use crate::session::Session;
use crate::target::display;

/// Where the manifest that was applied last is kept, under kubectl's name, so that the two can take turns.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// How often a write that another writer overtook is tried again.
const ATTEMPTS: u32 = 8;

pub(crate) async fn run(session: &Session, options: &Apply) -> Result<()> {
    let manifests = manifest::read(&options.files)?;
    let mut failed = 0;
    let count = manifests.len();
    let mut first = None;
    for manifest in manifests {
        let place = manifest.place();
        match one(session, manifest, options.dry_run).await.with_context(|| place) {
            Ok(line) => println!("{line}"),
            Err(error) if count == 1 => return Err(error),
            // The others may still be good; each failure is said, and the command fails.
            Err(error) => {
                failed += 1;
                crate::failure::report(&error);
                first.get_or_insert(error);
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {count} objects were not applied");
    }
    Ok(())
}

/// Applies one object; the line to print.
async fn one(session: &Session, manifest: Manifest, dry_run: bool) -> Result<String> {
    let kind = manifest.kind;
    let mut modified = manifest.object.to_json();
    prepare(&mut modified)?;
    let name = manifest.object.meta().name.clone();
    let api = session.api(kind, &manifest.object.meta().namespace).dry_run(dry_run);
    let said = |what: &str| {
        let note = if dry_run { " (server dry run)" } else { "" };
        format!("{} {what}{note}", display(kind, &name))
    };
    for attempt in 0..ATTEMPTS {
        let Some(live) = api.get_opt(&name).await? else {
            match api.create(decode(kind, &modified)?.as_ref()).await {
                Ok(_) => return Ok(said("created")),
                // Somebody else was first: go on from theirs.
                Err(error) if error.is_already_exists() && attempt + 1 < ATTEMPTS => continue,
                Err(error) => return Err(error.into()),
            }
        };
        let merged = merge::three_way(last_applied(live.as_ref()).as_ref(), &modified, &live.to_json());
        match api.update(decode(kind, &merged)?.as_ref()).await {
            Ok(updated) if updated.meta().resource_version == live.meta().resource_version => {
                return Ok(said("unchanged"));
            }
            Ok(_) => return Ok(said("configured")),
            Err(error) if error.is_conflict() && attempt + 1 < ATTEMPTS => {
                tokio::time::sleep(Duration::from_millis(20 << attempt)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    bail!("other writers kept changing {}", display(kind, &name))
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
