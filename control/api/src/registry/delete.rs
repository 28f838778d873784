//! `delete`: at once, after a grace period, or when the last finalizer is gone.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use weir_proto::core::v1::{Namespace, Pod};
use weir_proto::meta::v1::Time;
use weir_proto::scheduling::v1::PriorityClass;
use weir_proto::status::ApiError;
use weir_proto::{Kind, Object, Resource};

use super::list::{self, ListQuery};
use super::update::{Change, check_preconditions};
use super::{Context, Registry, Target};
use crate::admission::pod_end;
use crate::auth::{self, Verb};
use crate::cache::CachedObject;
use crate::strategy::{AnyStrategy, priority_class};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// Without these the cluster has no place to put things.
const LASTING_NAMESPACES: [&str; 3] = ["default", "kube-system", "kube-public"];
/// Objects of a collection that are deleted side by side.
const SIDE_BY_SIDE: usize = 16;

/// What becomes of the objects that name the deleted one as their owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// As the object's finalizers say; else they go after it.
    #[default]
    Default,
    Background,
    Foreground,
    Orphan,
}

impl Propagation {
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "" => Ok(Propagation::Default),
            "Background" => Ok(Propagation::Background),
            "Foreground" => Ok(Propagation::Foreground),
            "Orphan" => Ok(Propagation::Orphan),
            other => Err(ApiError::bad_request(format!(
                "propagationPolicy: Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \
                 \"Orphan\""
            ))),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// `None`: the object's own.
    pub grace_period_seconds: Option<i64>,
    pub propagation: Propagation,
    /// Preconditions; empty = any.
    pub uid: String,
    pub resource_version: String,
}

/// What a deletion came to.
#[derive(Debug)]
pub struct Deleted {
    /// The object as it was last, or as it is while something holds it.
    pub object: Arc<CachedObject>,
    /// Whether it is gone.
    pub gone: bool,
}

impl Registry {
    /// `delete`
    pub async fn delete(
        &self,
        context: &Context,
        target: &Target,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        self.authorize(context, Verb::Delete, target).await?;
        self.check_target(target)?;
        if !target.subresource.is_empty() {
            let message = format!("delete of {}/{}", target.kind.plural, target.subresource);
            return Err(ApiError::method_not_allowed(message));
        }
        if target.kind == Namespace::KIND && LASTING_NAMESPACES.contains(&target.name.as_str()) {
            return Err(auth::forbidden(target.kind, &target.name, "this namespace may not be deleted"));
        }
        if target.kind == PriorityClass::KIND && priority_class::is_of_the_system(&target.name) {
            let why = "this is a system priority class and cannot be deleted";
            return Err(auth::forbidden(target.kind, &target.name, why));
        }
        if options.grace_period_seconds.is_some_and(|seconds| seconds < 0) {
            return Err(ApiError::bad_request("gracePeriodSeconds: must be greater than or equal to 0"));
        }
        let strategy = self.entry(target.kind)?.strategy.as_ref();
        let mut gone = false;
        let object = self
            .change(context, target, |current| {
                check_preconditions(target, &options.uid, &options.resource_version, current)?;
                let now = Time::now();
                let mut change = plan(strategy, current.object.as_ref(), options, now);
                if let Change::Put(object) = &mut change
                    && let Some(pod) = object.downcast_mut::<Pod>()
                {
                    pod_end::mark(self, pod, now);
                }
                gone = matches!(change, Change::Delete);
                Ok(change)
            })
            .await?;
        Ok(Deleted { object, gone })
    }

    /// `deletecollection`; what was there is returned, as it is after.
    pub async fn delete_collection(
        &self,
        context: &Context,
        kind: &'static Kind,
        query: &ListQuery,
        options: &DeleteOptions,
    ) -> Result<Vec<Deleted>, ApiError> {
        let filter = list::filter(kind, &query.namespace, &query.label_selector, &query.field_selector)?;
        self.authorize_filtered(context, Verb::DeleteCollection, kind, &filter).await?;
        if kind == Namespace::KIND {
            return Err(ApiError::method_not_allowed("namespaces are deleted one by one"));
        }
        let objects = self.first_page(kind, &filter, 0, false).await?.items;
        stream::iter(objects)
            .map(|object| {
                let meta = object.object.meta();
                let target = Target::new(kind, &meta.namespace, &meta.name);
                async move {
                    match self.delete(context, &target, options).await {
                        Ok(deleted) => Ok(Some(deleted)),
                        // Somebody else was faster.
                        Err(error) if error.is_not_found() => Ok(None),
                        Err(error) => Err(error),
                    }
                }
            })
            .buffer_unordered(SIDE_BY_SIDE)
            .try_filter_map(|deleted| async move { Ok(deleted) })
            .try_collect()
            .await
    }
}

/// What deleting `current` comes to at the time `now`.
fn plan(strategy: &dyn AnyStrategy, current: &dyn Object, options: &DeleteOptions, now: Time) -> Change {
    let mut object = current.clone_box();
    set_propagation(&mut object.meta_mut().finalizers, options.propagation);
    let grace = strategy.grace_period(current, options.grace_period_seconds);
    let held = !object.meta().finalizers.is_empty()
        || object
            .downcast_ref::<Namespace>()
            .and_then(|namespace| namespace.spec.as_ref())
            .is_some_and(|spec| !spec.finalizers.is_empty());
    let seconds = grace.unwrap_or(0);
    if seconds == 0 && !held {
        return Change::Delete;
    }
    if current.meta().deletion_timestamp.is_some() {
        // Asking again can only shorten the wait.
        let sooner = current.meta().deletion_grace_period_seconds.unwrap_or(0) > seconds
            && options.grace_period_seconds.is_some();
        let other_policy = object.meta().finalizers != current.meta().finalizers;
        if !sooner && !other_policy {
            return Change::Nothing;
        }
        if !sooner {
            return Change::Put(object);
        }
    }
    let meta = object.meta_mut();
    meta.deletion_timestamp = Some(Time::from_unix(now.unix().saturating_add(seconds)));
    meta.deletion_grace_period_seconds = Some(seconds);
    if meta.generation > 0 {
        meta.generation += 1;
    }
    if let Some(namespace) = object.downcast_mut::<Namespace>() {
        "Terminating".clone_into(&mut namespace.status.get_or_insert_default().phase);
    }
    Change::Put(object)
}

fn set_propagation(finalizers: &mut Vec<String>, propagation: Propagation) {
    let wanted = match propagation {
        Propagation::Default => return,
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    finalizers.retain(|finalizer| finalizer != FOREGROUND && finalizer != ORPHAN);
    finalizers.extend(wanted.map(str::to_owned));
}

#[cfg(test)]
mod tests {
    use weir_proto::core::v1::{ConfigMap, Pod};

    use super::*;
    use crate::strategy;

    const NOW: i64 = 1_000_000;

    fn planned(object: &dyn Object, options: &DeleteOptions) -> Change {
        plan(strategy::for_kind(object.kind()).as_ref(), object, options, Time::from_unix(NOW))
    }

    fn bound_pod() -> Pod {
        let mut pod = Pod::default();
        pod.spec_mut().node_name = "n1".to_owned();
        pod
    }

    fn marked(change: Change) -> Box<dyn Object> {
        match change {
            Change::Put(object) => object,
            Change::Delete => panic!("deleted at once"),
            Change::Nothing => panic!("nothing to do"),
        }
    }

    #[test]
    fn a_running_pod_is_marked_with_its_grace_period_and_goes_when_asked_for_at_once() {
        let pod = marked(planned(&bound_pod(), &DeleteOptions::default()));
        assert_eq!(pod.meta().deletion_timestamp.unwrap().unix(), NOW + 30);
        assert_eq!(pod.meta().deletion_grace_period_seconds, Some(30));
        assert!(matches!(planned(pod.as_ref(), &DeleteOptions::default()), Change::Nothing));
        let shorter = DeleteOptions { grace_period_seconds: Some(5), ..DeleteOptions::default() };
        let pod = marked(planned(pod.as_ref(), &shorter));
        assert_eq!(pod.meta().deletion_grace_period_seconds, Some(5));
        let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        assert!(matches!(planned(pod.as_ref(), &now), Change::Delete));
    }

    #[test]
    fn a_finalizer_holds_what_would_go() {
        let foreground = DeleteOptions { propagation: Propagation::Foreground, ..DeleteOptions::default() };
        let map = marked(planned(&ConfigMap::default(), &foreground));
        assert_eq!(map.meta().finalizers, [FOREGROUND]);
        let background = DeleteOptions { propagation: Propagation::Background, ..DeleteOptions::default() };
        assert!(matches!(planned(map.as_ref(), &background), Change::Delete));
        assert!(matches!(planned(&ConfigMap::default(), &DeleteOptions::default()), Change::Delete));
    }

    #[test]
    fn a_namespace_waits_for_its_controller() {
        let mut namespace = Namespace::default();
        namespace.spec_mut().finalizers = vec!["kubernetes".to_owned()];
        let marked = marked(planned(&namespace, &DeleteOptions::default()));
        let marked = marked.downcast_ref::<Namespace>().unwrap();
        assert_eq!(marked.status().phase, "Terminating");
    }
}
