//! What an object needs to know of others before it may be stored: it is completed from them, or refused because
//! of them. Runs after defaulting and before validation; what a kind decides by itself is its strategy's.
//!
//! Looks at the caches, which may be a moment old, as Kubernetes' admission plugins do.

pub(crate) mod pod_end;
mod priority;
mod service_account;

use weir_proto::Object;
use weir_proto::core::v1::Pod;
use weir_proto::scheduling::v1::PriorityClass;
use weir_proto::status::ApiError;

use crate::registry::Registry;

/// An object that is about to be created.
pub(crate) async fn admit_new(registry: &Registry, object: &mut dyn Object) -> Result<(), ApiError> {
    if let Some(pod) = object.downcast_mut::<Pod>() {
        priority::admit_pod(registry, pod).await?;
        service_account::admit_pod(registry, pod).await?;
    }
    admit(registry, object)
}

/// An object that is about to be stored, new or changed.
pub(crate) fn admit(registry: &Registry, object: &dyn Object) -> Result<(), ApiError> {
    match object.downcast_ref::<PriorityClass>() {
        Some(class) => priority::admit_class(registry, class),
        None => Ok(()),
    }
}
