//! `weir rollout status|restart`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};
use weir_client::Patch;
use weir_proto::meta::v1::Time;

use crate::arguments::Rollout;
use crate::session::Session;
use crate::target::{self, display};

pub(crate) async fn run(session: &Session, verb: &Rollout) -> Result<()> {
    let words = match verb {
        Rollout::Status { target, .. } | Rollout::Restart { target } => target,
    };
    for (kind, name) in target::parse_named(words)? {
        if kind.kind != "Deployment" {
            bail!("{} has no rollout", display(kind, &name));
        }
        match verb {
            Rollout::Status { timeout, .. } => status(session, kind, &name, *timeout).await?,
            Rollout::Restart { .. } => {
                let now = serde_json::to_value(Time::now())?;
                let annotations = json!({ "kubectl.kubernetes.io/restartedAt": now });
                let patch = json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
                session.api(kind, "").patch(&name, &Patch::Merge(patch)).await?;
                println!("{} restarted", display(kind, &name));
            }
        }
    }
    Ok(())
}

/// Says how far it is each time that changes, until it is done.
async fn status(session: &Session, kind: &'static weir_proto::Kind, name: &str, timeout: u64) -> Result<()> {
    let api = session.api(kind, "");
    let deadline = (timeout > 0).then(|| Instant::now() + Duration::from_secs(timeout));
    let mut said = String::new();
    loop {
        let progress = progress(name, &api.get(name).await?.to_json())?;
        let Some(message) = progress else {
            println!("deployment \"{name}\" successfully rolled out");
            return Ok(());
        };
        if message != said {
            println!("{message}");
            said = message;
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            bail!("timed out waiting for the rollout of {}", display(kind, name));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// None when it is done; kubectl's words until then.
fn progress(name: &str, deployment: &Value) -> Result<Option<String>> {
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    let waiting =
        |what: String| Ok(Some(format!("Waiting for deployment \"{name}\" rollout to finish: {what}...")));
    if number(&deployment["metadata"]["generation"]) > number(&status["observedGeneration"]) {
        return Ok(Some("Waiting for deployment spec update to be observed...".to_owned()));
    }
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    if conditions
        .iter()
        .any(|one| one["type"] == "Progressing" && one["reason"] == "ProgressDeadlineExceeded")
    {
        bail!("deployment {name:?} exceeded its progress deadline");
    }
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    let (updated, total) = (number(&status["updatedReplicas"]), number(&status["replicas"]));
    let available = number(&status["availableReplicas"]);
    if updated < wanted {
        return waiting(format!("{updated} out of {wanted} new replicas have been updated"));
    }
    if total > updated {
        return waiting(format!("{} old replicas are pending termination", total - updated));
    }
    if available < updated {
        return waiting(format!("{available} of {updated} updated replicas are available"));
    }
    Ok(None)
}
