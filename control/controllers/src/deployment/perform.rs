//! Carries out a deployment's plan. New before less, so that a crash in between leaves too much rather than too
//! little; status last, so that it never promises what was not done.

use std::time::Duration;

use weir_proto::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use weir_proto::meta::v1::Time;

use weir_client::DeleteOptions;

use super::plan::Plan;
use super::{DeploymentController, sets, status, template};
use crate::{Error, owners};

/// How long the local copy may take to show what was written.
const VISIBLE: Duration = Duration::from_secs(10);

impl DeploymentController {
    pub(super) async fn perform(&self, deployment: &Deployment, plan: Plan) -> Result<(), Error> {
        let api = self.client.namespaced::<ReplicaSet>(&deployment.meta().namespace);
        let mut written = None;
        if let Some(set) = &plan.create {
            match self.create(deployment, set).await? {
                Some(set) => written = Some(set.meta().resource_version.clone()),
                None => return Ok(()),
            }
        }
        for set in &plan.update {
            written = Some(api.update(set).await?.meta().resource_version.clone());
        }
        for (name, from, to) in &plan.resized {
            let direction = if to > from { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
            self.events.normal(deployment, "ScalingReplicaSet", message);
        }
        for set in &plan.delete {
            match api.delete(&set.meta().name, &DeleteOptions::only(&set.meta().uid)).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        let deployment = self.annotate(deployment, plan.revision).await?;
        if let Some(status) = plan.status {
            self.write_status(&deployment, status).await?;
        }
        if let Some(written) = written {
            // The next plan must see these sets, or it would make them again.
            self.caches.replica_sets.reached(&written, VISIBLE).await?;
        }
        Ok(())
    }

    /// None where the name is taken by another: then the status has been told to try another name.
    async fn create(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<Option<ReplicaSet>, Error> {
        let api = self.client.namespaced::<ReplicaSet>(&deployment.meta().namespace);
        let name = &set.meta().name;
        let error = match api.create(set).await {
            Ok(created) => return Ok(Some(created)),
            Err(error) => error,
        };
        if error.is_already_exists() {
            let present = api.get(name).await?;
            let ours = owners::is_controlled_by(present.meta(), &deployment.meta().uid);
            if ours && template::is_from(&present, &template::of(deployment)) {
                return Ok(Some(present));
            }
            let mut status = deployment.status().clone();
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
            self.write_status(deployment, status).await?;
            return Ok(None);
        }
        if !error.is_transient() {
            let message = format!("Failed to create new replica set {name:?}: {error}");
            self.events.warning(deployment, "ReplicaSetCreateError", message);
            let status = status::create_failed(deployment, name, &error.to_string(), Time::now());
            if status != *deployment.status() {
                self.write_status(deployment, status).await?;
            }
        }
        Err(error.into())
    }

    async fn annotate(&self, deployment: &Deployment, revision: Option<i64>) -> Result<Deployment, Error> {
        let mut deployment = deployment.clone();
        let Some(revision) = revision else { return Ok(deployment) };
        deployment.meta_mut().annotations.insert(sets::REVISION.to_owned(), revision.to_string());
        Ok(self.client.namespaced(&deployment.meta().namespace).update(&deployment).await?)
    }

    async fn write_status(&self, deployment: &Deployment, status: DeploymentStatus) -> Result<(), Error> {
        let mut deployment = deployment.clone();
        *deployment.status_mut() = status;
        let api = self.client.namespaced::<Deployment>(&deployment.meta().namespace);
        let written = api.update_status(&deployment).await?;
        self.caches.deployments.reached(&written.meta().resource_version, VISIBLE).await?;
        Ok(())
    }
}
