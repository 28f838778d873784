//! The subresource `scale`: the replicas of anything that has replicas.

use weir_proto::apps::v1::{Deployment, ReplicaSet};
use weir_proto::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus};
use weir_proto::meta::v1::{LabelSelector, ObjectMeta};
use weir_proto::status::ApiError;
use weir_proto::{Object, labels};

use crate::cache::CachedObject;

/// The scale of an object.
pub(super) fn of(cached: &CachedObject) -> Result<CachedObject, ApiError> {
    let (wanted, there, selector) = if let Some(deployment) = cached.typed::<Deployment>() {
        let spec = deployment.spec.as_ref();
        let there = deployment.status.as_ref().map(|status| status.replicas);
        (spec.and_then(|spec| spec.replicas), there, spec.and_then(|spec| spec.selector.as_ref()))
    } else if let Some(set) = cached.typed::<ReplicaSet>() {
        let spec = set.spec.as_ref();
        let there = set.status.as_ref().map(|status| status.replicas);
        (spec.and_then(|spec| spec.replicas), there, spec.and_then(|spec| spec.selector.as_ref()))
    } else {
        return Err(ApiError::no_such_path());
    };
    let meta = cached.object.meta();
    let scale = Scale {
        metadata: Some(ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            creation_timestamp: meta.creation_timestamp,
            ..ObjectMeta::default()
        }),
        spec: Some(ScaleSpec { replicas: wanted.unwrap_or(1) }),
        status: Some(ScaleStatus {
            replicas: there.unwrap_or(0),
            selector: selector.map(text).unwrap_or_default(),
        }),
    };
    Ok(CachedObject::new(Box::new(scale), cached.revision))
}

fn text(selector: &LabelSelector) -> String {
    labels::Selector::try_from(selector).map(|selector| selector.to_string()).unwrap_or_default()
}

/// The object with as many replicas as `scale` wants.
pub(super) fn apply(object: &dyn Object, scale: &Scale) -> Result<Box<dyn Object>, ApiError> {
    let replicas = scale.spec.as_ref().map_or(0, |spec| spec.replicas);
    let mut scaled = object.clone_box();
    if let Some(deployment) = scaled.downcast_mut::<Deployment>() {
        deployment.spec.get_or_insert_default().replicas = Some(replicas);
    } else if let Some(set) = scaled.downcast_mut::<ReplicaSet>() {
        set.spec.get_or_insert_default().replicas = Some(replicas);
    } else {
        return Err(ApiError::no_such_path());
    }
    Ok(scaled)
}
