//! Creates and deletes a set's pods.
//!
//! Creation starts slowly, with one request under way and one more for each that succeeded: when the API refuses the
//! first (a quota, a template that it does not take), it is not asked five thousand times.

use std::time::Duration;

use futures::stream::{self, FuturesUnordered, StreamExt};
use weir_client::{DeleteOptions, ObjectKey};
use weir_proto::apps::v1::ReplicaSet;
use weir_proto::core::v1::Pod;
use weir_proto::meta::v1::ObjectMeta;

use super::ReplicaSetController;
use super::plan::{Failure, Plan};
use crate::{Error, owners};

/// How long the local copy may take to show what was written.
pub(super) const VISIBLE: Duration = Duration::from_secs(10);
/// Requests under way at a time.
const PARALLEL: usize = 128;

/// A plan that was not carried out to its end.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) error: Error,
}

impl ReplicaSetController {
    pub(super) async fn perform(&self, set: &ReplicaSet, plan: &Plan<'_>) -> Result<(), Failed> {
        if plan.is_empty() {
            return Ok(());
        }
        self.create(set, plan.create)
            .await
            .map_err(|error| Failed { failure: failure("FailedCreate", &error), error })?;
        self.delete(set, &plan.delete)
            .await
            .map_err(|error| Failed { failure: failure("FailedDelete", &error), error })
    }

    async fn create(&self, set: &ReplicaSet, count: usize) -> Result<(), Error> {
        let api = self.client.namespaced::<Pod>(&set.meta().namespace);
        let pod = pod_of(set);
        let (mut left, mut window, mut newest) = (count, 1, 0);
        let mut refused = None;
        let mut under_way = FuturesUnordered::new();
        loop {
            while left > 0 && refused.is_none() && under_way.len() < window {
                under_way.push(api.create(&pod));
                left -= 1;
            }
            match under_way.next().await {
                Some(Ok(pod)) => {
                    window = PARALLEL.min(window + 1);
                    newest = newest.max(pod.meta().resource_version.parse().unwrap_or(0));
                    let message = format!("Created pod: {}", pod.meta().name);
                    self.events.normal(set, "SuccessfulCreate", message);
                }
                Some(Err(error)) => refused = Some(error),
                None => break,
            }
        }
        // The next plan must see these pods, or it would make them again.
        self.caches.pods.reached(&newest.to_string(), VISIBLE).await?;
        match refused {
            None => Ok(()),
            Some(error) => {
                if !error.is_transient() {
                    self.events.warning(set, "FailedCreate", format!("Error creating: {error}"));
                }
                Err(error.into())
            }
        }
    }

    async fn delete(&self, set: &ReplicaSet, pods: &[&Pod]) -> Result<(), Error> {
        let deletions: Vec<_> = pods.iter().map(|pod| self.delete_one(set, pod.meta())).collect();
        let answers: Vec<_> = stream::iter(deletions).buffer_unordered(PARALLEL).collect().await;
        answers.into_iter().collect()
    }

    async fn delete_one(&self, set: &ReplicaSet, pod: &ObjectMeta) -> Result<(), Error> {
        let api = self.client.namespaced::<Pod>(&pod.namespace);
        match api.delete(&pod.name, &DeleteOptions::only(&pod.uid)).await {
            Ok(_) => {
                self.events.normal(set, "SuccessfulDelete", format!("Deleted pod: {}", pod.name));
            }
            // Gone, or another of the same name: either way this one is no more.
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => {
                self.events.warning(set, "FailedDelete", format!("Error deleting: {error}"));
                return Err(error.into());
            }
        }
        // Until the copy shows it going, the next plan would count it as staying, and choose another.
        let going = |now: Option<&Pod>| {
            now.is_none_or(|now| now.meta().uid != pod.uid || now.meta().deletion_timestamp.is_some())
        };
        self.caches.pods.wait_for(&ObjectKey::from(pod), VISIBLE, going).await?;
        Ok(())
    }
}

fn failure(reason: &'static str, error: &Error) -> Failure {
    Failure { reason, message: error.to_string() }
}

/// The server completes the name.
fn pod_of(set: &ReplicaSet) -> Pod {
    let template = set.spec().template.clone().unwrap_or_default();
    let metadata = template.metadata.unwrap_or_default();
    let mut pod = Pod { spec: template.spec, ..Pod::default() };
    *pod.meta_mut() = ObjectMeta {
        generate_name: format!("{}-", set.meta().name),
        namespace: set.meta().namespace.clone(),
        labels: metadata.labels,
        annotations: metadata.annotations,
        finalizers: metadata.finalizers,
        owner_references: vec![owners::controller_reference(set)],
        ..ObjectMeta::default()
    };
    pod
}
