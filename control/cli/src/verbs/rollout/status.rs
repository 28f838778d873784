//! `weir rollout status`: how far it is, each time that changes, until it is done.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use weir_proto::apps::v1::Deployment;

use super::history;
use crate::duration;
use crate::selection::Pick;
use crate::session::Session;

pub(super) async fn status(
    session: &Session,
    pick: &Pick,
    timeout: &str,
    watch: bool,
    revision: i64,
) -> Result<()> {
    let api = session.client.namespaced::<Deployment>(match pick.namespace.as_str() {
        "" => &session.namespace,
        namespace => namespace,
    });
    let deadline = duration::parse(timeout).context("--timeout")?.map(|timeout| Instant::now() + timeout);
    let name = &pick.name;
    let mut said = String::new();
    loop {
        let deployment = api.get(name).await?;
        let current = history::revision(deployment.meta());
        if revision > 0 && current != revision {
            bail!("desired revision ({revision}) is different from the running revision ({current})");
        }
        let Some(message) = progress(name, &deployment)? else {
            return session.say(format_args!("deployment {name:?} successfully rolled out"));
        };
        if message != said {
            session.say(&message)?;
            said = message;
        }
        if !watch {
            return Ok(());
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            bail!("timed out waiting for the condition on {}", pick.display());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// None when it is done; kubectl's words until then.
fn progress(name: &str, deployment: &Deployment) -> Result<Option<String>> {
    let (spec, status) = (deployment.spec(), deployment.status());
    let waiting =
        |what: String| Ok(Some(format!("Waiting for deployment {name:?} rollout to finish: {what}...")));
    if deployment.meta().generation > status.observed_generation {
        return Ok(Some("Waiting for deployment spec update to be observed...".to_owned()));
    }
    let stuck = status
        .conditions
        .iter()
        .any(|one| one.r#type == "Progressing" && one.reason == "ProgressDeadlineExceeded");
    if stuck {
        bail!("deployment {name:?} exceeded its progress deadline");
    }
    let wanted = spec.replicas.unwrap_or(1);
    if status.updated_replicas < wanted {
        let updated = status.updated_replicas;
        return waiting(format!("{updated} out of {wanted} new replicas have been updated"));
    }
    if status.replicas > status.updated_replicas {
        let old = status.replicas - status.updated_replicas;
        return waiting(format!("{old} old replicas are pending termination"));
    }
    if status.available_replicas < status.updated_replicas {
        let (available, updated) = (status.available_replicas, status.updated_replicas);
        return waiting(format!("{available} of {updated} updated replicas are available"));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use weir_proto::apps::v1::DeploymentStatus;

    use super::*;

    #[test]
    fn progress_is_told_in_kubectls_words() {
        let table = [
            ((1, 0, 0, 0), Some("spec update to be observed")),
            ((2, 3, 1, 0), Some("1 out of 3 new replicas have been updated")),
            ((2, 4, 3, 3), Some("1 old replicas are pending termination")),
            ((2, 3, 3, 2), Some("2 of 3 updated replicas are available")),
            ((2, 3, 3, 3), None),
        ];
        for ((observed_generation, replicas, updated_replicas, available_replicas), want) in table {
            let mut deployment = Deployment::default();
            deployment.meta_mut().generation = 2;
            deployment.spec_mut().replicas = Some(3);
            deployment.status = Some(DeploymentStatus {
                observed_generation,
                replicas,
                updated_replicas,
                available_replicas,
                ..DeploymentStatus::default()
            });
            let said = progress("web", &deployment).unwrap();
            let as_wanted = match (&said, want) {
                (Some(said), Some(want)) => said.contains(want),
                (said, want) => said.is_none() && want.is_none(),
            };
            assert!(as_wanted, "{said:?} {want:?}");
        }
    }
}
