//! `weir rollout history` and `weir rollout undo`: the revisions are the Deployment's ReplicaSets.

use anyhow::{Context, Result, bail};
use weir_client::ListOptions;
use weir_proto::apps::v1::{Deployment, ReplicaSet};
use weir_proto::core::v1::PodTemplateSpec;
use weir_proto::meta::v1::ObjectMeta;

use crate::arguments::Changing;
use crate::change::Changes;
use crate::output::{Grid, tabs};
use crate::selection::Pick;
use crate::session::Session;
use crate::verbs::describe;

const REVISION: &str = "deployment.kubernetes.io/revision";
const CAUSE: &str = "kubernetes.io/change-cause";
const TEMPLATE_HASH: &str = "pod-template-hash";

/// 0 where there is none.
pub(super) fn revision(meta: &ObjectMeta) -> i64 {
    meta.annotations.get(REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

pub(super) async fn history(session: &Session, pick: &mut Pick, wanted: i64) -> Result<()> {
    let object = pick.object(session).await?;
    let sets = revisions(session, object.meta()).await?;
    let cause = |set: &ReplicaSet| set.meta().annotations.get(CAUSE).cloned();
    if wanted > 0 {
        let set = find(&sets, wanted)?;
        let mut text = String::from("Pod Template:\n");
        describe::template(&mut text, set.spec().template.as_ref().unwrap_or(&PodTemplateSpec::default()));
        session.say(format_args!("{} with revision #{wanted}", pick.display()))?;
        return session.print(tabs::expand(&text));
    }
    if sets.is_empty() {
        return session.say(format_args!("{}\nNo rollout history found.", pick.display()));
    }
    let mut grid = Grid::new(["REVISION", "CHANGE-CAUSE"].map(str::to_owned).to_vec());
    for set in &sets {
        let cause = cause(set).unwrap_or_else(|| "<none>".to_owned());
        grid.push(vec![revision(set.meta()).to_string(), cause]);
    }
    session.say(format_args!("{}\n{grid}", pick.display()))
}

pub(super) async fn undo(session: &Session, pick: &mut Pick, changing: &Changing, wanted: i64) -> Result<()> {
    let mut object = pick.object(session).await?;
    let sets = revisions(session, object.meta()).await?;
    let deployment = object.downcast_mut::<Deployment>().context("not a Deployment")?;
    if deployment.spec().paused {
        bail!(
            "you cannot rollback a paused deployment; resume it first with 'weir rollout resume {}' and try again",
            pick.display()
        );
    }
    let current = revision(deployment.meta());
    let set = match wanted {
        0 => sets
            .iter()
            .rev()
            .find(|set| revision(set.meta()) < current)
            .with_context(|| format!("no rollout history found for deployment {:?}", pick.name))?,
        wanted => find(&sets, wanted)?,
    };
    let mut template = set.spec().template.clone().unwrap_or_default();
    template.metadata.get_or_insert_default().labels.remove(TEMPLATE_HASH);
    let changes = Changes::new(session, changing)?;
    if deployment.spec().template.as_ref() == Some(&template) {
        let done =
            format!("skipped rollback (current template already matches revision {})", revision(set.meta()));
        return changes.said(pick.kind, &pick.name, &done);
    }
    deployment.spec_mut().template = Some(template);
    changes.update(object, "rolled back").await
}

/// The Deployment's ReplicaSets, the oldest revision first.
async fn revisions(session: &Session, deployment: &ObjectMeta) -> Result<Vec<ReplicaSet>> {
    let api = session.client.namespaced::<ReplicaSet>(&deployment.namespace);
    let mut sets = api.list(&ListOptions::default()).await?.items;
    sets.retain(|set| {
        let owned = set.meta().owner_references.iter().any(|owner| owner.uid == deployment.uid);
        owned && revision(set.meta()) > 0
    });
    sets.sort_by_key(|set| revision(set.meta()));
    Ok(sets)
}

fn find(sets: &[ReplicaSet], wanted: i64) -> Result<&ReplicaSet> {
    let found = sets.iter().find(|set| revision(set.meta()) == wanted);
    found.with_context(|| format!("unable to find the specified revision {wanted} in history"))
}
